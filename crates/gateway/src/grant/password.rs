//! Signing in with a password.

use std::time::Instant;

use problem::{Kind, Problem};
use secrets::Secret;

use super::{
    DEFAULT_CLIENT, GrantError, IssuedTokens, network, new_refresh_token,
    sign_in_attempt::{FailedAttempt, failure_reason, success},
};
use crate::{
    app::App,
    audit::{EventKind, RequestSource},
    password::HashError,
    store::NewSession,
    throttle::SignInAttempt,
    user::{UserKind, UserName},
};

// === impl App ===

impl App {
    pub(super) async fn sign_in_person(
        &self,
        username: &str,
        password: Secret,
        client_id: Option<String>,
        source: &RequestSource,
    ) -> Result<IssuedTokens, GrantError> {
        let kind = EventKind::Password;
        let client_id = client_of(client_id)?;
        let mut attempt = self.admit(kind, username, source).await?;
        let found = self.find(username).await?;
        let person = found.as_ref().filter(|found| found.user.kind == UserKind::Person);
        let matches = self.verify(&mut attempt, password, person.map(|person| person.credential.clone())).await?;
        let Some(person) = person.filter(|_| matches) else {
            let reason = failure_reason(found.as_ref(), UserKind::Person);
            let failure = FailedAttempt { kind, user: found.as_ref(), reason };
            return Err(self.fail(attempt, failure, source, "invalid_grant").await?);
        };
        let (refresh_token, digest) = new_refresh_token()?;
        let network = network(source);
        let new = NewSession {
            user_id: person.user.id,
            credential: &person.credential,
            client_id: &client_id,
            network: network.as_deref(),
            refresh: Some(&digest),
        };
        let Some(signed_in) = self.with_db_permit(self.store.begin_session(new, success(kind, source))).await? else {
            let failure = FailedAttempt { kind, user: Some(person), reason: "disabled_or_changed" };
            return Err(self.fail(attempt, failure, source, "invalid_grant").await?);
        };
        attempt.succeeded();
        self.issue(&signed_in, Some(refresh_token))
    }

    async fn verify(
        &self,
        attempt: &mut SignInAttempt<'_>,
        password: Secret,
        stored: Option<String>,
    ) -> Result<bool, HashError> {
        attempt.hash_begins(Instant::now());
        let matches = self.hasher.verify(password, stored).await;
        attempt.hash_ended();
        matches
    }
}

fn client_of(client_id: Option<String>) -> Result<String, GrantError> {
    let Some(client_id) = client_id else { return Ok(DEFAULT_CLIENT.to_owned()) };
    match client_id.parse::<UserName>() {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(error) => {
            let problem = Problem::new(Kind::InvalidArgument, error.to_string()).field("client_id");
            Err(GrantError::invalid_request(problem))
        }
    }
}
