//! All SQL of the gateway, schema `gateway`.
//!
//! Every change is one transaction with its audit record and its place in the change feed. Locks are always taken in this
//! order, so that no two transactions can wait for each other: feed, user, session, audit chain.

mod audit_log;
mod bootstrap;
mod change_feed;
mod sessions;
mod users;

use database::Database;
use policy::Roles;
use problem::Problem;
use sqlx::{PgConnection, migrate::Migrator};
use time::OffsetDateTime;
use uuid::Uuid;

pub use audit_log::{AuditPage, PagedRecord};
pub use bootstrap::FirstAdmin;
pub use change_feed::{AuthSnapshot, Change, ChangeBatch, ChangeKind, FeedEntry};
pub use sessions::{NewSession, RefreshResult, SessionWithUser};
pub use users::{NewUser, UserWithCredential};

use crate::{clock::WallClock, error::StoreError};

static MIGRATOR: Migrator = sqlx::migrate!();

/// The schema that all of it lies in.
pub const SCHEMA: &str = "gateway";

/// The users, logins, changes and records of all gateways of an installation.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
    /// Whose chain our audit records are part of.
    writer: String,
    clock: WallClock,
}

/// A change that was committed, and its place in the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed<T> {
    /// What came of it.
    pub value: T,
    /// Whoever has seen this number of the feed has seen the change.
    pub seq: i64,
}

/// Who asks for a change, as its passport says: the change is refused if that is no longer so.
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

    /// The pool below.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Our name in the audit log.
    pub fn writer(&self) -> &str {
        &self.writer
    }

    /// Brings the schema to the state of this binary.
    pub async fn migrate(&self) -> Result<(), sqlx::migrate::MigrateError> {
        self.database.migrate(&MIGRATOR, SCHEMA).await
    }

    /// Whether the database answers now.
    pub async fn ping(&self) -> Result<(), Problem> {
        self.database.ping().await
    }

    fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }
}

/// Deletes what no longer matters to anybody: logins that are over, changes that every gateway has seen.
impl Store {
    /// Deletes at most a few thousand rows, and says how many.
    pub async fn prune(&self) -> Result<u64, StoreError> {
        let now = self.now();
        self.database
            .bounded("prune", async {
                let mut connection = self.database.acquire().await?;
                let sessions = sessions::prune(&mut connection, now).await?;
                let changes = change_feed::prune(&mut connection, now).await?;
                Ok(sessions + changes)
            })
            .await
    }
}

/// Refuses when the caller is not what its passport says. The caller's row cannot change meanwhile: whoever changes
/// users holds the lock of the feed.
async fn check_caller(connection: &mut PgConnection, caller: Caller) -> Result<(), StoreError> {
    let row = sqlx::query!(r#"SELECT roles, disabled FROM gateway.users WHERE id = $1"#, caller.id)
        .fetch_optional(connection)
        .await?;
    let unchanged = row.is_some_and(|row| !row.disabled && users::roles_of(&row.roles) == caller.roles);
    if unchanged { Ok(()) } else { Err(StoreError::CallerChanged) }
}
