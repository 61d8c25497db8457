//! The text of a record: canonical, and harmless in a terminal.

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{
    canonical::canonical_json,
    event::{Actor, AuditEvent},
};

/// Longest text that comes from outside and goes into a record.
const TEXT_LENGTH_MAX: usize = 256;

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
    /// The record as it is hashed and stored, at its place in a writer's chain.
    pub fn record(&self, writer: &str, seq: i64, at: OffsetDateTime) -> String {
        let at = at.format(&Rfc3339).unwrap_or_else(|_| at.unix_timestamp().to_string());
        let mut record = json!({
            "version": 1,
            "writer": writer,
            "seq": seq,
            "at": at,
            "event_id": Uuid::now_v7(),
            "event": <&str>::from(self.kind),
            "outcome": <&str>::from(self.outcome),
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
    use crate::audit::{EventKind, EventOutcome, RequestSource};

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
    fn text_from_outside_cannot_forge_a_line_or_control_a_terminal() {
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
