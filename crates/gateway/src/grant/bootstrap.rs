//! The first administrator, created with the one-time token.

use std::time::Instant;

use policy::Role;
use problem::{Kind, Problem};
use secrets::Secret;

use super::{DEFAULT_CLIENT, GrantError, IssuedTokens, network, new_refresh_token};
use crate::{
    app::App,
    audit::{self, Actor, AuditEvent, RequestSource},
    error::StoreError,
    password,
    store::{NewSession, NewUser},
    user::{Tenant, UserKind, UserName},
};

// === impl App ===

impl App {
    pub(super) async fn bootstrap(
        &self,
        token: &Secret,
        username: &str,
        password: &Secret,
        source: &RequestSource,
    ) -> Result<IssuedTokens, GrantError> {
        let kind = audit::EventKind::Bootstrap;
        let attempt = self.admit(kind, "bootstrap", source).await?;
        if !self.is_bootstrap_token(token) {
            attempt.failed(Instant::now());
            self.record_refusal("wrong_token", source).await?;
            return Err(GrantError::refused("invalid_grant"));
        }
        attempt.succeeded();
        let invalid = |field: &str, why: String| {
            GrantError::invalid_request(Problem::new(Kind::InvalidArgument, why).field(field))
        };
        let name: UserName = username.parse().map_err(|error| invalid("username", format!("{error}")))?;
        let password = password::accept(password, &name).map_err(|weak| invalid("password", weak.to_string()))?;
        if self.with_db_permit(self.store.bootstrap_is_over()).await? {
            return Err(self.bootstrap_closed(source).await?);
        }
        let credential = self.hasher.hash(password).await?;
        let new = NewUser {
            name,
            kind: UserKind::Person,
            tenant: Tenant::default(),
            roles: Role::Admin.into(),
            credential: credential.clone(),
        };
        let event = AuditEvent::new(kind, audit::EventOutcome::Success, Actor::Anonymous, source.clone());
        let made = match self.store.bootstrap(&new, event).await {
            Ok(made) => made,
            Err(StoreError::BootstrapClosed) => return Err(self.bootstrap_closed(source).await?),
            Err(error) => return Err(error.into()),
        };
        self.auth_state.catch_up(made.seq).await;
        tracing::info!(user_id = %made.value.id, "the first administrator was created; the one-time token is used up");
        self.sign_in_first_admin(&made.value, &credential, source).await
    }

    async fn sign_in_first_admin(
        &self,
        admin: &crate::user::User,
        credential: &str,
        source: &RequestSource,
    ) -> Result<IssuedTokens, GrantError> {
        let (refresh_token, digest) = new_refresh_token()?;
        let network = network(source);
        let new = NewSession {
            user_id: admin.id,
            credential,
            replacement: None,
            client_id: DEFAULT_CLIENT,
            network: network.as_deref(),
            refresh: Some(&digest),
        };
        let event =
            AuditEvent::new(audit::EventKind::Password, audit::EventOutcome::Success, Actor::Anonymous, source.clone());
        let signed_in = self.store.begin_session(new, event).await?;
        let signed_in = signed_in.ok_or_else(|| GrantError::refused("invalid_grant"))?;
        self.issue(&signed_in, Some(refresh_token))
    }

    /// Reads the file each time, so that it can be deleted after use. The comparison takes constant time.
    fn is_bootstrap_token(&self, token: &Secret) -> bool {
        let Some(file) = &self.bootstrap_token else { return false };
        match file.read() {
            Ok(expected) => expected == *token,
            Err(error) => {
                tracing::info!(%error, "first-administrator request refused: the one-time token file cannot be read");
                false
            }
        }
    }

    async fn bootstrap_closed(&self, source: &RequestSource) -> Result<GrantError, GrantError> {
        self.record_refusal("bootstrap_over", source).await?;
        let problem = Box::new(Problem::from(StoreError::BootstrapClosed));
        Ok(GrantError { code: "invalid_grant", problem, outcome: crate::metrics::AuthOutcome::Refused })
    }

    async fn record_refusal(&self, reason: &'static str, source: &RequestSource) -> Result<(), GrantError> {
        let event = AuditEvent::new(
            audit::EventKind::Bootstrap,
            audit::EventOutcome::Failure,
            Actor::Anonymous,
            source.clone(),
        );
        self.with_db_permit(self.store.record(&[event.with_reason(reason)])).await
    }
}
