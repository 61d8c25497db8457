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
    password::{HashError, PasswordMatch},
    store::{NewSession, UserWithCredential},
    throttle::SignInAttempt,
    user::{UserKind, UserName},
};

/// What a person has given.
struct Proof<'a> {
    username: &'a str,
    password: Secret,
    client_id: String,
    source: &'a RequestSource,
}

/// Why that was not enough.
struct Refusal {
    user: Option<UserWithCredential>,
    reason: &'static str,
    /// The hash was to be replaced, and is no longer what the password was compared with: another login may have replaced it.
    is_overtaken: bool,
}

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
        let proof = Proof { username, password, client_id: client_of(client_id)?, source };
        let mut attempt = self.admit(kind, username, source).await?;
        let mut proven = self.prove(&mut attempt, &proof).await?;
        if proven.as_ref().is_err_and(|refusal| refusal.is_overtaken) {
            proven = self.prove(&mut attempt, &proof).await?;
        }
        match proven {
            Ok(tokens) => {
                attempt.succeeded();
                Ok(tokens)
            }
            Err(Refusal { user, reason, .. }) => {
                let failure = FailedAttempt { kind, user: user.as_ref(), reason };
                Err(self.fail(attempt, failure, source, "invalid_grant").await?)
            }
        }
    }

    /// Compares the password, and begins a session if it is right. A hash of the text as it was typed is replaced with that.
    async fn prove(
        &self,
        attempt: &mut SignInAttempt<'_>,
        proof: &Proof<'_>,
    ) -> Result<Result<IssuedTokens, Refusal>, GrantError> {
        let found = self.find(proof.username).await?;
        let person = found.as_ref().filter(|found| found.user.kind == UserKind::Person);
        let stored = person.map(|person| person.credential.clone());
        let matches = self.verify(attempt, proof.password.clone(), stored).await?;
        let (Some(person), false) = (person, matches == PasswordMatch::Wrong) else {
            let reason = failure_reason(found.as_ref(), UserKind::Person);
            return Ok(Err(Refusal { user: found, reason, is_overtaken: false }));
        };
        let replacement = match matches {
            PasswordMatch::AsTyped { normal } => Some(self.hasher.hash(normal).await?),
            PasswordMatch::Right | PasswordMatch::Wrong => None,
        };
        let (refresh_token, digest) = new_refresh_token()?;
        let network = network(proof.source);
        let new = NewSession {
            user_id: person.user.id,
            credential: &person.credential,
            replacement: replacement.as_deref(),
            client_id: &proof.client_id,
            network: network.as_deref(),
            refresh: Some(&digest),
        };
        let event = success(EventKind::Password, proof.source);
        let begun = self.with_db_permit(self.store.begin_session(new, event)).await?;
        match begun {
            Some(signed_in) => Ok(Ok(self.issue(&signed_in, Some(refresh_token))?)),
            None => {
                let is_overtaken = replacement.is_some();
                Ok(Err(Refusal { user: found, reason: "disabled_or_changed", is_overtaken }))
            }
        }
    }

    async fn verify(
        &self,
        attempt: &mut SignInAttempt<'_>,
        password: Secret,
        stored: Option<String>,
    ) -> Result<PasswordMatch, HashError> {
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
