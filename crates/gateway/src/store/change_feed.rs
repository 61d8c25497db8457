//! The feed of changes that every gateway follows.

use sqlx::{PgConnection, postgres::PgListener};
use strum::{EnumString, IntoStaticStr};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{Store, locks, restore_marker, user_rows};
use crate::{error::StoreError, session::ACCESS_LIFETIME, user::User};

/// The channel of `NOTIFY`; a notification carries no payload, the table has the entry.
const CHANNEL: &str = "gateway_changes";

/// The lock under which sequence numbers and commits have the same order.
const LOCK: &str = "changes";

/// How long a change is kept: longer than any access token lives, and than any gateway goes without polling.
const RETENTION: Duration = Duration::minutes(30);

/// How many changes one poll reads.
const BATCH_MAX: i64 = 1_000;

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum ChangeKind {
    /// A user was created or altered, and every token stays valid.
    User,
    /// Every passport of a user is out of date: its rights changed, its tokens were revoked, or it was deleted.
    Subject,
    /// Every token of a session is revoked.
    Session,
    /// One token is revoked.
    Token,
}

/// One entry of the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// What changed.
    pub kind: ChangeKind,
    /// The user, the `sid` or the `jti`.
    pub id: Uuid,
    /// From when on it has no effect, because every token it is about has expired.
    pub expires_at: OffsetDateTime,
}

/// A change at its place in the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedEntry {
    /// Its number.
    pub seq: i64,
    /// What it says.
    pub change: Change,
}

/// What is new since an entry.
#[derive(Clone, Debug)]
pub struct ChangeBatch {
    /// The last entry in it, or the one it was requested with.
    pub last: Option<FeedEntry>,
    /// In commit order.
    pub changes: Vec<Change>,
    /// The users of these changes as they are now; those that are missing were deleted.
    pub users: Vec<User>,
    /// Whether there is more to fetch.
    pub is_partial: bool,
}

/// Everything, as of one moment.
#[derive(Clone, Debug)]
pub struct AuthSnapshot {
    /// The number that everything counts from since the last restore of the database, if there was one.
    pub counts_from: Option<i64>,
    /// The last entry of the feed.
    pub last: Option<FeedEntry>,
    /// Tokens and sessions that are revoked but not expired, and deleted users.
    pub changes: Vec<Change>,
    /// Every user.
    pub users: Vec<User>,
}

/// A row of `gateway.changes`.
struct Row {
    seq: i64,
    kind: String,
    id: Uuid,
    expires_at: OffsetDateTime,
}

// === impl FeedEntry ===

impl TryFrom<Row> for FeedEntry {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let change = Change { kind: parse_kind(&row.kind)?, id: row.id, expires_at: row.expires_at };
        Ok(Self { seq: row.seq, change })
    }
}

// === impl Store ===

impl Store {
    /// A connection that listens for notifications.
    pub async fn listen(&self) -> Result<PgListener, sqlx::Error> {
        let mut listener = PgListener::connect_with(&self.database.pool()).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(listener)
    }

    /// The changes after the last entry that was applied, as of the snapshot with this `counts_from`. `None`: everything must be
    /// loaded anew, because the database was restored since, or the entry is not there any more (a failover that lost
    /// commits, or it was pruned).
    pub async fn changes_after(
        &self,
        seen: Option<FeedEntry>,
        counts_from: Option<i64>,
    ) -> Result<Option<ChangeBatch>, StoreError> {
        let work = async |connection: &mut PgConnection| {
            if restore_marker::check_settled(connection).await? != counts_from {
                return Ok(None);
            }
            let rows = sqlx::query_as!(
                Row,
                "SELECT seq, kind, id, expires_at FROM gateway.changes WHERE seq >= $1 ORDER BY seq LIMIT $2",
                seen.map_or(0, |entry| entry.seq),
                BATCH_MAX
            )
            .fetch_all(&mut *connection)
            .await?;
            let is_partial = i64::try_from(rows.len()) == Ok(BATCH_MAX);
            let mut entries = rows.into_iter().map(FeedEntry::try_from).collect::<Result<Vec<_>, _>>()?.into_iter();
            if seen.is_some() && entries.next() != seen {
                return Ok(None);
            }
            let last = entries.as_slice().last().copied().or(seen);
            let changes: Vec<Change> = entries.map(|entry| entry.change).collect();
            let about_users = |change: &&Change| matches!(change.kind, ChangeKind::User | ChangeKind::Subject);
            let ids: Vec<Uuid> = changes.iter().filter(about_users).map(|change| change.id).collect();
            let users = if ids.is_empty() { Vec::new() } else { user_rows::by_ids(connection, &ids).await? };
            Ok(Some(ChangeBatch { last, changes, users, is_partial }))
        };
        self.database.query("changes_after", work).await
    }

    /// Everything that tokens are checked by, as of one moment.
    pub async fn snapshot(&self) -> Result<AuthSnapshot, StoreError> {
        let now = self.now();
        self.database
            .bounded("snapshot", async {
                let mut transaction = self.database.begin().await?;
                sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *transaction).await?;
                let counts_from = restore_marker::check_settled(&mut transaction).await?;
                let last = sqlx::query_as!(
                    Row,
                    "SELECT seq, kind, id, expires_at FROM gateway.changes ORDER BY seq DESC LIMIT 1"
                )
                .fetch_optional(&mut *transaction)
                .await?;
                let last = last.map(FeedEntry::try_from).transpose()?;
                let rows = sqlx::query!(
                    r#"SELECT kind, id, expires_at FROM gateway.changes WHERE expires_at > $1 AND kind <> 'user' ORDER BY seq"#,
                    now
                )
                .fetch_all(&mut *transaction)
                .await?;
                let mut changes = Vec::with_capacity(rows.len());
                for row in rows {
                    changes.push(Change { kind: parse_kind(&row.kind)?, id: row.id, expires_at: row.expires_at });
                }
                let users = user_rows::all(&mut transaction).await?;
                transaction.commit().await?;
                Ok(AuthSnapshot { counts_from, last, changes, users })
            })
            .await
    }
}

fn parse_kind(text: &str) -> Result<ChangeKind, StoreError> {
    text.parse().map_err(|_| StoreError::Inconsistent { table: "changes", what: format!("kind {text:?}") })
}

/// Takes the lock of the feed: from here to the commit, no other transaction adds to it.
pub(super) async fn lock(connection: &mut PgConnection) -> Result<(), StoreError> {
    locks::take(connection, LOCK).await
}

/// Empties the feed and lets it go on from this place, or from its own if that is higher. Needs [`lock`].
pub(super) async fn begin_at(connection: &mut PgConnection, place: i64) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM gateway.changes").execute(&mut *connection).await?;
    sqlx::query!(
        r#"SELECT setval(sequence, greatest(nextval(sequence), $1))
           FROM (SELECT pg_get_serial_sequence('gateway.changes', 'seq')::regclass AS sequence) AS it"#,
        place
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

/// Adds to the feed and notifies, which takes effect when the transaction commits. Needs [`lock`].
pub(super) async fn append(connection: &mut PgConnection, change: Change) -> Result<i64, StoreError> {
    let seq = sqlx::query_scalar!(
        r#"INSERT INTO gateway.changes (kind, id, expires_at) VALUES ($1, $2, $3) RETURNING seq"#,
        <&'static str>::from(change.kind),
        change.id,
        change.expires_at
    )
    .fetch_one(&mut *connection)
    .await?;
    sqlx::query!("SELECT pg_notify($1, '')", CHANNEL).execute(connection).await?;
    Ok(seq)
}

/// A change about a user, or about a login, whose last token lives no longer than an access token from now.
pub(super) fn change(kind: ChangeKind, id: Uuid, now: OffsetDateTime) -> Change {
    Change { kind, id, expires_at: now + ACCESS_LIFETIME + Duration::MINUTE }
}

/// Deletes changes that every gateway has applied and that have expired; but never the last such entry, from which a
/// gateway that applied nothing newer goes on.
pub(super) async fn prune(connection: &mut PgConnection, now: OffsetDateTime) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "DELETE FROM gateway.changes WHERE seq < (SELECT max(seq) FROM gateway.changes WHERE expires_at < $1)",
        now - RETENTION
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
