//! What is recorded of what happens: who, what, when, from where, with which outcome.
//!
//! A record never holds a password, a secret or a token. The name somebody tried to sign in with is recorded by the id
//! of the user it belongs to, and as nothing when it belongs to nobody, because people type passwords into name fields.

mod canonical;
mod chain;
mod denials;

use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

pub use canonical::canonical_json;
pub use chain::{BrokenChain, GENESIS, Hash, StoredRecord, chain_hash, verify_chain};
pub use denials::{DENIAL_QUEUE_MAX, Denial, DenialQueue};

/// Longest text that comes from outside and goes into a record.
const TEXT_LENGTH_MAX: usize = 256;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Signing in with a password.
    Password,
    /// A machine asking for a token.
    ClientCredentials,
    /// A refresh token exchanged.
    Refresh,
    /// The first administrator made.
    Bootstrap,
    /// One's own token or login ended.
    Revoke,
    /// A bearer token judged. Only refusals are recorded.
    Authorize,
    /// A request that the policy refused.
    Access,
    /// Users read.
    ReadUsers,
    /// A user made.
    CreateUser,
    /// A user altered.
    ChangeUser,
    /// A user removed.
    DeleteUser,
    /// Everything of a user ended by an administrator.
    RevokeUser,
    /// The audit log read.
    ReadAudit,
    /// Refusals that were too many to be recorded one by one.
    DroppedRecords,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventOutcome {
    /// It was done.
    Success,
    /// Whoever asked could not prove who they are.
    Failure,
    /// They may not.
    Denied,
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// Nobody we know.
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
    /// The service that brought it, from its certificate.
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
    /// To what, e.g. `user:<id>`.
    pub resource: Option<String>,
    /// Whose data it is about.
    pub tenant: Option<String>,
    /// Why it ended so, a word of ours.
    pub reason: Option<&'static str>,
    /// Where it came from.
    pub source: RequestSource,
    /// Further facts by name: what changed from what to what.
    pub details: Map<String, Value>,
}

// === impl EventKind ===

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::Password,
        Self::ClientCredentials,
        Self::Refresh,
        Self::Bootstrap,
        Self::Revoke,
        Self::Authorize,
        Self::Access,
        Self::ReadUsers,
        Self::CreateUser,
        Self::ChangeUser,
        Self::DeleteUser,
        Self::RevokeUser,
        Self::ReadAudit,
        Self::DroppedRecords,
    ];

    /// The name in records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Password => "token.password",
            Self::ClientCredentials => "token.client_credentials",
            Self::Refresh => "token.refresh",
            Self::Bootstrap => "token.bootstrap",
            Self::Revoke => "token.revoke",
            Self::Authorize => "token.authorize",
            Self::Access => "access",
            Self::ReadUsers => "users.read",
            Self::CreateUser => "user.create",
            Self::ChangeUser => "user.change",
            Self::DeleteUser => "user.delete",
            Self::RevokeUser => "user.revoke",
            Self::ReadAudit => "audit.read",
            Self::DroppedRecords => "audit.dropped",
        }
    }
}

// === impl EventOutcome ===

impl EventOutcome {
    /// The name in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Denied => "denied",
        }
    }
}

// === impl Actor ===

impl Actor {
    fn json(&self) -> Value {
        match self {
            Self::Anonymous => json!({ "type": "anonymous" }),
            Self::User { id, session: None } => json!({ "type": "user", "id": id }),
            Self::User { id, session: Some(session) } => json!({ "type": "user", "id": id, "session": session }),
        }
    }
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

    /// The record as it is hashed and stored, at its place in a writer's chain.
    pub fn record(&self, writer: &str, seq: i64, at: OffsetDateTime) -> String {
        let at = at.format(&Rfc3339).unwrap_or_else(|_| at.unix_timestamp().to_string());
        let mut record = json!({
            "version": 1,
            "writer": writer,
            "seq": seq,
            "at": at,
            "event_id": Uuid::now_v7(),
            "event": self.kind.as_str(),
            "outcome": self.outcome.as_str(),
            "actor": self.actor.json(),
            "source": {
                "address": self.source.address.as_deref().map(printable),
                "peer": self.source.peer.as_deref().map(printable),
                "trace_id": self.source.trace_id.as_deref().map(printable),
            },
        });
        if let Value::Object(members) = &mut record {
            let optional = [
                ("resource", self.resource.as_deref().map(printable)),
                ("tenant", self.tenant.as_deref().map(printable)),
                ("reason", self.reason.map(str::to_owned)),
            ];
            members.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))));
            if !self.details.is_empty() {
                members.insert("details".to_owned(), self.details.clone().into());
            }
        }
        canonical_json(&record)
    }
}

/// A text from outside, made safe to be shown in a terminal or a log: no control character survives as itself, not even
/// those that JSON allows, nor what turns the direction of text.
fn printable(text: &str) -> String {
    let is_harmless = |character: char| {
        !character.is_control() && !matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars()
        .take(TEXT_LENGTH_MAX)
        .map(
            |character| {
                if is_harmless(character) { character.to_string() } else { character.escape_unicode().to_string() }
            },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_who_what_when_and_from_where() {
        let (user, session) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let source = RequestSource { address: Some("192.0.2.7".into()), peer: Some("balancer".into()), trace_id: None };
        let event = AuditEvent::new(
            EventKind::ChangeUser,
            EventOutcome::Success,
            Actor::User { id: user, session: Some(session) },
            source,
        )
        .about_user(user)
        .with("roles", json!({ "from": ["viewer"], "to": [] }));
        let record: Value = serde_json::from_str(&event.record("gateway-1", 3, OffsetDateTime::UNIX_EPOCH)).unwrap();
        assert_eq!(record["at"], "1970-01-01T00:00:00Z");
        assert_eq!(record["writer"], "gateway-1");
        assert_eq!(record["seq"], 3);
        assert_eq!(record["event"], "user.change");
        assert_eq!(record["actor"]["id"], user.to_string());
        assert_eq!(record["source"]["address"], "192.0.2.7");
        assert_eq!(record["details"]["roles"]["from"][0], "viewer");
    }

    #[test]
    fn text_from_outside_cannot_forge_a_line_or_turn_a_terminal() {
        let source =
            RequestSource { address: Some("a\n\u{1b}[2J\u{9b}\u{202e}\u{7f}b".into()), ..RequestSource::default() };
        let record = AuditEvent::new(EventKind::Access, EventOutcome::Denied, Actor::Anonymous, source).record(
            "w",
            1,
            OffsetDateTime::UNIX_EPOCH,
        );
        assert!(record.chars().all(|character| !character.is_control() && character != '\u{202e}'), "{record}");
        assert!(record.contains("\\\\u{1b}[2J"), "{record}");
        let long = RequestSource { address: Some("x".repeat(10_000)), ..RequestSource::default() };
        assert!(
            AuditEvent::new(EventKind::Access, EventOutcome::Denied, Actor::Anonymous, long)
                .record("w", 1, OffsetDateTime::UNIX_EPOCH)
                .len()
                < 1_000
        );
    }
}
