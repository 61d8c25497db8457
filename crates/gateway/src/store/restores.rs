//! What is done once after the database was restored to an earlier time.
//!
//! The tables then have logins, tokens and users again that were ended meanwhile, and numbers are given out a second time that
//! balancers, other gateways and replicas have seen with another meaning. The superuser names the restore in a setting of the
//! database, before services can connect; every session has it from its first statement on.

use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::{ChangeKind, Store, audit_log, change_feed, desired_state, restore_marker::restores, sessions, user_rows};
use crate::{
    audit::{Actor, AuditEvent, EventKind, EventOutcome, RequestSource},
    error::StoreError,
};

/// How long the one transaction may take: it writes every row of users and sessions, which are some 100,000 at most.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Numbers begin anew at the milliseconds since 1970 times this. What was given out before the restore is unknown, and after
/// two restores it may be more than what the tables have plus any constant. But between two moments fewer numbers are given out
/// than this many in each millisecond, so those of a later restore are always beyond. They stay exact in JSON (2^53) until 2248.
const NUMBERS_PER_MS: i64 = 1 << 10;

// === impl Store ===

impl Store {
    /// Settles the restore that the database names, unless that is done: ends every login and token, moves every number that
    /// was given out, and records it, in one transaction. Of several gateways at once, one does it and the others wait.
    pub async fn settle_restore(&self) -> Result<(), StoreError> {
        let now = self.now();
        let work = async {
            let mut transaction = self.database.begin().await?;
            let limit_ms = SETTLE_TIMEOUT.as_millis().to_string();
            sqlx::query!(
                r#"SELECT set_config('statement_timeout', $1, true) AS statement, set_config('lock_timeout', $1, true) AS lock"#,
                limit_ms
            )
            .fetch_one(&mut *transaction)
            .await?;
            desired_state::lock(&mut transaction).await?;
            change_feed::lock(&mut transaction).await?;
            let before = restores(&mut transaction).await?;
            let (Some(restored_at), false) = (before.restored_at, before.is_settled) else { return Ok(()) };
            // Another than before also by a clock that was set back: by it gateways tell restores apart.
            let first = first_number(now).max(before.first_number.map_or(0, |number| number.saturating_add(1)));
            desired_state::move_generation(&mut transaction, first).await?;
            change_feed::begin_at(&mut transaction, first).await?;
            let users = user_rows::end_all_tokens(&mut transaction, first, now).await?;
            let sessions = sessions::revoke_all(&mut transaction, now).await?;
            sqlx::query!(
                r#"INSERT INTO gateway.restores (restored_at, settled_at, settled_by, first_number) VALUES ($1, $2, $3, $4)"#,
                restored_at,
                now,
                self.writer,
                first
            )
            .execute(&mut *transaction)
            .await?;
            // Gateways of the release before, too, load everything anew: no entry that they know is there. It revokes a token
            // that never was.
            let entry = change_feed::change(ChangeKind::Token, Uuid::new_v4(), now);
            change_feed::append(&mut transaction, entry).await?;
            audit_log::move_ids(&mut transaction, first).await?;
            let event = AuditEvent::new(
                EventKind::RestoreDatabase,
                EventOutcome::Success,
                Actor::Anonymous,
                RequestSource::default(),
            );
            let event = event.with("restored_at", restored_at.as_str()).with("users", users).with("sessions", sessions);
            self.append_audit(&mut transaction, &[event]).await?;
            transaction.commit().await?;
            tracing::warn!(
                restored_at,
                users,
                sessions,
                "the database was restored to an earlier time; every login and token from before was ended, all sign in again"
            );
            Ok(())
        };
        self.database.bounded_by(SETTLE_TIMEOUT, "settle_restore", work).await
    }
}

fn first_number(now: OffsetDateTime) -> i64 {
    let ms = i64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    ms.saturating_mul(NUMBERS_PER_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second restore, also to a time before the first one was settled, begins beyond all that was given out since.
    #[test]
    fn a_later_restore_begins_at_higher_numbers() {
        let first = OffsetDateTime::from_unix_timestamp(1_764_547_200).unwrap();
        let given_out_in_a_minute = 60 * 1_000 * (NUMBERS_PER_MS - 1);
        assert!(first_number(first) + given_out_in_a_minute < first_number(first + Duration::from_secs(60)));
        assert!(first_number(first + Duration::from_secs(200 * 365 * 86_400)) < 1 << 53, "exact in JSON");
    }
}
