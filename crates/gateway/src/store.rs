//! All SQL of the gateway, schema `gateway`.
//!
//! Every change is one transaction with its audit record and its entry in the change feed. Locks are always taken in this
//! order, so that no two transactions can wait for each other: models, feed, user, session, audit chain. Which models serve
//! is no concern of the feed: replicas of serving ask for it.
//!
//! Every use of the tables begins by [`Store::begin`] or [`Store::query`], which refuse a database that was restored to an
//! earlier time until the restore is settled (`restores`).

mod audit_log;
mod bootstrap;
mod change_feed;
mod desired_state;
mod known_networks;
mod locks;
mod refresh_tokens;
mod restore_marker;
mod restores;
mod revocations;
mod sessions;
mod user_rows;
mod users;

use database::Database;
use policy::Roles;
use sqlx::{PgConnection, Postgres, Transaction, migrate::Migrator};
use time::OffsetDateTime;
use uuid::Uuid;

pub use audit_log::PagedRecord;
pub use change_feed::{AuthSnapshot, Change, ChangeBatch, ChangeKind, FeedEntry};
pub use sessions::{NewSession, RefreshResult, SessionWithUser, Successors};
pub use user_rows::{NewUser, UserWithCredential};

use crate::{audit::AuditEvent, clock::WallClock, error::StoreError};

static MIGRATOR: Migrator = sqlx::migrate!();

/// The schema that all of it lies in.
pub const SCHEMA: &str = "gateway";

/// The users, logins, changes and records of all gateways of an installation.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
    /// This gateway's name in the audit log; its records form one chain.
    writer: String,
    clock: WallClock,
}

/// A change that was committed, and its entry in the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed<T> {
    /// Its result.
    pub value: T,
    /// A follower that has applied this entry has applied the change.
    pub seq: i64,
}

/// A change that was made, with what its entry in the feed and its audit record say.
struct Uncommitted<T> {
    value: T,
    kind: ChangeKind,
    id: Uuid,
    event: AuditEvent,
}

/// The caller of a change, as its passport says: the change is refused if that is no longer so.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The user.
    pub id: Uuid,
    /// Its roles.
    pub roles: Roles,
}

// === impl Store ===

impl Store {
    /// The store of one gateway, called `writer` in the audit log.
    pub fn new(database: Database, writer: String, clock: WallClock) -> Self {
        Self { database, writer, clock }
    }

    /// This gateway's name in the audit log.
    pub fn writer(&self) -> &str {
        &self.writer
    }

    /// Brings the schema to the state of this binary.
    pub async fn migrate(&self) -> Result<(), sqlx::migrate::MigrateError> {
        self.database.migrate(&MIGRATOR, SCHEMA).await
    }

    fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    /// A transaction, unless a restore of the database is not settled.
    async fn begin(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        let mut transaction = self.database.begin().await?;
        restore_marker::check_settled(&mut transaction).await?;
        Ok(transaction)
    }

    /// Runs `work` on one connection and in time, unless a restore of the database is not settled.
    async fn query<T>(
        &self,
        operation: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let work = async {
            let mut connection = self.database.acquire().await?;
            restore_marker::check_settled(&mut connection).await?;
            work(&mut *connection).await
        };
        self.database.bounded(operation, work).await
    }

    /// Makes a change under the lock of the feed, and commits it with its entry in the feed and its audit record.
    async fn commit<T>(
        &self,
        operation: &'static str,
        change: impl AsyncFnOnce(&mut PgConnection, OffsetDateTime) -> Result<Uncommitted<T>, StoreError>,
    ) -> Result<Committed<T>, StoreError> {
        let now = self.now();
        let work = async {
            let mut transaction = self.begin().await?;
            change_feed::lock(&mut transaction).await?;
            let Uncommitted { value, kind, id, event } = change(&mut transaction, now).await?;
            let seq = change_feed::append(&mut transaction, change_feed::change(kind, id, now)).await?;
            self.append_audit(&mut transaction, &[event]).await?;
            transaction.commit().await?;
            Ok(Committed { value, seq })
        };
        self.database.bounded(operation, work).await
    }

    /// Deletes at most a few thousand rows that no gateway needs any more, and says how many: sessions that are over,
    /// changes that every gateway has applied, networks without a login for long.
    pub async fn prune(&self) -> Result<u64, StoreError> {
        let now = self.now();
        let work = async |connection: &mut PgConnection| {
            let sessions = sessions::prune(connection, now).await?;
            let changes = change_feed::prune(connection, now).await?;
            let networks = known_networks::prune(connection, now).await?;
            Ok(sessions + changes + networks)
        };
        self.query("prune", work).await
    }
}

/// Refuses when the caller's rights are not those of its passport. The caller's row cannot change meanwhile: every change
/// of users holds the lock of the feed.
async fn check_caller(connection: &mut PgConnection, caller: Caller) -> Result<(), StoreError> {
    let row = sqlx::query!(r#"SELECT roles, disabled FROM gateway.users WHERE id = $1"#, caller.id)
        .fetch_optional(connection)
        .await?;
    let unchanged = row.is_some_and(|row| !row.disabled && user_rows::roles_of(&row.roles) == caller.roles);
    if unchanged { Ok(()) } else { Err(StoreError::CallerChanged) }
}
