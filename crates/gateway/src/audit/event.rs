//! One event of the audit log: who, what, when, from where, with which outcome.

use serde_json::{Map, Value};
use strum::{IntoStaticStr, VariantArray};
use uuid::Uuid;

use crate::desired_state::ModelName;

/// What happened, with its name in records and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
pub enum EventKind {
    /// Signing in with a password.
    #[strum(serialize = "token.password")]
    Password,
    /// A machine asking for a token.
    #[strum(serialize = "token.client_credentials")]
    ClientCredentials,
    /// A refresh token exchanged.
    #[strum(serialize = "token.refresh")]
    Refresh,
    /// The first administrator made.
    #[strum(serialize = "token.bootstrap")]
    Bootstrap,
    /// One's own token or login ended.
    #[strum(serialize = "token.revoke")]
    Revoke,
    /// A bearer token judged. Only refusals are recorded.
    #[strum(serialize = "token.authorize")]
    Authorize,
    /// A request that the policy refused.
    #[strum(serialize = "access")]
    Access,
    /// Users read.
    #[strum(serialize = "users.read")]
    ReadUsers,
    /// A user made.
    #[strum(serialize = "user.create")]
    CreateUser,
    /// A user altered.
    #[strum(serialize = "user.change")]
    ChangeUser,
    /// A user removed.
    #[strum(serialize = "user.delete")]
    DeleteUser,
    /// Everything of a user ended by an administrator.
    #[strum(serialize = "user.revoke")]
    RevokeUser,
    /// A model loaded for every replica.
    #[strum(serialize = "model.load")]
    LoadModel,
    /// A model unloaded from every replica.
    #[strum(serialize = "model.unload")]
    UnloadModel,
    /// Every login and token ended, because the database was restored to an earlier time.
    #[strum(serialize = "database.restored")]
    RestoreDatabase,
    /// The audit log read.
    #[strum(serialize = "audit.read")]
    ReadAudit,
    /// Refusals that were too many to be recorded one by one.
    #[strum(serialize = "audit.dropped")]
    DroppedRecords,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum EventOutcome {
    /// It was done.
    Success,
    /// The caller could not prove its identity, or the change was refused.
    Failure,
    /// The policies refused it, or the attempt must wait.
    Denied,
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// No user of this installation.
    Anonymous,
    /// A user.
    User {
        /// Its id.
        id: Uuid,
        /// The login, if there is one.
        session: Option<Uuid>,
    },
}

/// Where it came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RequestSource {
    /// The client's address, as the balancer saw it.
    pub address: Option<String>,
    /// The service that sent it, from its certificate.
    pub peer: Option<String>,
    /// The W3C trace id of the request.
    pub trace_id: Option<String>,
}

/// One event, not yet part of a chain.
#[derive(Clone, Debug)]
pub struct AuditEvent {
    /// What happened.
    pub kind: EventKind,
    /// How it ended.
    pub outcome: EventOutcome,
    /// Who did it.
    pub actor: Actor,
    /// To what, e.g. `user:<id>` or `model:<name>`.
    pub resource: Option<String>,
    /// Whose data it is about.
    pub tenant: Option<String>,
    /// Why it ended so, one word of a fixed list.
    pub reason: Option<&'static str>,
    /// Where it came from.
    pub source: RequestSource,
    /// Further facts by name: what changed from what to what.
    pub details: Map<String, Value>,
}

// === impl AuditEvent ===

impl AuditEvent {
    /// An event with nothing but the necessary.
    pub fn new(kind: EventKind, outcome: EventOutcome, actor: Actor, source: RequestSource) -> Self {
        Self { kind, outcome, actor, resource: None, tenant: None, reason: None, source, details: Map::new() }
    }

    /// About a user.
    #[must_use]
    pub fn about_user(mut self, id: Uuid) -> Self {
        self.resource = Some(format!("user:{id}"));
        self
    }

    /// About a model.
    #[must_use]
    pub fn about_model(mut self, name: &ModelName) -> Self {
        self.resource = Some(format!("model:{}", name.as_str()));
        self
    }

    /// Within a tenant.
    #[must_use]
    pub fn in_tenant(mut self, tenant: &crate::user::Tenant) -> Self {
        self.tenant = Some(tenant.as_str().to_owned());
        self
    }

    /// For a reason.
    #[must_use]
    pub fn with_reason(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    /// With a further fact.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}
