//! What can go wrong with a change, and the problem that the caller gets.

use problem::{Kind, Problem};

/// Why the store did not make a change.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another user has the name.
    #[error("the user name is taken")]
    NameTaken,
    /// There is no such user.
    #[error("no such user")]
    UserNotFound,
    /// The user is no longer as the caller has seen it.
    #[error("the user was changed meanwhile")]
    UserChanged,
    /// The change would leave no active administrator.
    #[error("the last administrator cannot be removed")]
    LastAdmin,
    /// The caller's rights are no longer those of its passport.
    #[error("the caller's rights have changed")]
    CallerChanged,
    /// No room for another user.
    #[error("the installation has as many users as it can have")]
    UserLimitReached,
    /// The database was restored to an earlier time, and what was valid then has not been ended yet.
    #[error("the database was restored, and its logins and tokens are not ended yet")]
    RestoreUnsettled,
    /// The schema cannot be brought to the state of this binary.
    #[error("the schema cannot be migrated")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The tables are not migrated yet, or have not been read.
    #[error("the database has not been read yet")]
    NotLoaded,
    /// No room for another unloaded model.
    #[error("as many models are unloaded as can be")]
    ModelLimitReached,
    /// There are users already, or the one-time token was used.
    #[error("the first administrator exists already")]
    BootstrapClosed,
    /// A row has a value that no version of the gateway writes.
    #[error("inconsistent row in {table}: {what}")]
    Inconsistent {
        /// Where.
        table: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// The system has no random numbers to give.
    #[error("no random numbers")]
    Random,
    /// The database.
    #[error("database")]
    Database(#[from] sqlx::Error),
}

// === impl StoreError ===

impl StoreError {
    /// One word for the audit log, if the caller caused it.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::NameTaken => Some("name_taken"),
            Self::UserNotFound => Some("no_such_user"),
            Self::UserChanged => Some("user_changed"),
            Self::LastAdmin => Some("last_admin"),
            Self::CallerChanged => Some("caller_changed"),
            Self::UserLimitReached => Some("too_many_users"),
            Self::ModelLimitReached => Some("too_many_models"),
            Self::BootstrapClosed => Some("bootstrap_over"),
            Self::NotLoaded
            | Self::RestoreUnsettled
            | Self::Migration(_)
            | Self::Inconsistent { .. }
            | Self::Random
            | Self::Database(_) => None,
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NameTaken => Self::new(Kind::Conflict, "this name is taken").field("name"),
            StoreError::UserNotFound => Self::new(Kind::NotFound, "there is no such user"),
            StoreError::UserChanged => Self::new(
                Kind::PreconditionFailed,
                "the user was changed since you read it, so nothing was done; read it again",
            )
            .field("If-Match"),
            StoreError::LastAdmin => {
                Self::new(Kind::Conflict, "this is the last active administrator; make another user one first")
            }
            StoreError::CallerChanged => {
                Self::new(Kind::Unauthenticated, "your own rights have changed since you signed in; sign in again")
            }
            StoreError::UserLimitReached => Self::new(Kind::Conflict, "there can be no more users; delete some first"),
            StoreError::ModelLimitReached => {
                Self::new(Kind::Conflict, "no more models can be unloaded; load some first")
            }
            StoreError::BootstrapClosed => {
                Self::new(Kind::Conflict, "the first administrator exists already; sign in as one and create users")
            }
            StoreError::NotLoaded => {
                Self::unavailable("this gateway has just started and has not read its database yet")
            }
            StoreError::RestoreUnsettled => {
                Self::unavailable("the database was restored, and logins from before are being ended; try again")
            }
            StoreError::Database(error) => database::map_error(error),
            StoreError::Migration(_) | StoreError::Inconsistent { .. } | StoreError::Random => Self::internal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_the_caller_caused_has_a_reason_in_the_audit_log() {
        let cases = [
            (StoreError::NameTaken, Kind::Conflict),
            (StoreError::UserNotFound, Kind::NotFound),
            (StoreError::UserChanged, Kind::PreconditionFailed),
            (StoreError::LastAdmin, Kind::Conflict),
            (StoreError::CallerChanged, Kind::Unauthenticated),
            (StoreError::UserLimitReached, Kind::Conflict),
            (StoreError::ModelLimitReached, Kind::Conflict),
            (StoreError::BootstrapClosed, Kind::Conflict),
        ];
        for (error, kind) in cases {
            assert!(error.reason().is_some(), "{error}");
            assert_eq!(Problem::from(error).kind(), kind);
        }
        let unsettled = Problem::from(StoreError::RestoreUnsettled);
        assert_eq!(unsettled.kind(), Kind::Unavailable);
        assert!(unsettled.retry_after_s().is_some());
        let inconsistent = StoreError::Inconsistent { table: "users", what: "secret".into() };
        assert_eq!(inconsistent.reason(), None);
        assert!(!Problem::from(inconsistent).message().contains("secret"));
    }
}
