//! From PostgreSQL's errors to problems.

use problem::Problem;
use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;

/// The sentence for callers while the database cannot be reached.
const UNREACHABLE: &str = "the database cannot be reached now";

/// Conditions that end by themselves: another attempt, perhaps on another server, may succeed.
const TRANSIENT_CODES: &[&str] = &[
    "25006", // read only: this was the primary
    "28000", "28P01", // refused while a password or a rule is being changed
    "40001", "40P01", // serialization failure, deadlock
    "55P03", // lock not available in time
    "57014", // statement time-out
    "57P01", "57P02", "57P03", "57P04", // shutting down, crashed, starting, dropped
];

/// The problem that a failed query is to the caller. The cause goes to the log, never to the caller.
pub fn map_error(error: sqlx::Error) -> Problem {
    if is_transient(&error) { Problem::unavailable(UNREACHABLE).source(error) } else { Problem::internal(error) }
}

/// Whether the server refused the password.
pub(crate) fn is_password_refused(error: &sqlx::Error) -> bool {
    code_of(error).is_some_and(|code| code == "28P01")
}

/// Whether another attempt to migrate may succeed.
pub(crate) fn is_transient_migration_error(error: &MigrateError) -> bool {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => is_transient(error),
        _ => false,
    }
}

fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        // A connection that was cut in the middle of a message, or a standby: see `refuse_wrong_server`.
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => code_of(error).is_some_and(|code| is_transient_code(&code)),
    }
}

fn is_transient_code(code: &str) -> bool {
    // 08: the connection; 53: connections, memory or disk are used up.
    code.starts_with("08") || code.starts_with("53") || TRANSIENT_CODES.contains(&code)
}

fn code_of(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(DatabaseError::code).map(|code| code.into_owned())
}

#[cfg(test)]
mod tests {
    use std::io;

    use problem::Kind;

    use super::*;

    #[test]
    fn transient_errors_are_unavailable_and_the_rest_is_internal() {
        let lost = sqlx::Error::Io(io::Error::from(io::ErrorKind::ConnectionReset));
        let cut = sqlx::Error::Protocol("unexpected response from SSLRequest: 0x00".into());
        for error in [lost, cut, sqlx::Error::PoolTimedOut, sqlx::Error::PoolClosed, sqlx::Error::WorkerCrashed] {
            let problem = map_error(error);
            assert_eq!(problem.kind(), Kind::Unavailable);
            assert!(problem.retry_after_s().is_some());
        }
        assert_eq!(map_error(sqlx::Error::RowNotFound).kind(), Kind::Internal);
        assert_eq!(map_error(sqlx::Error::ColumnNotFound("secret_column".into())).kind(), Kind::Internal);
    }

    #[test]
    fn a_server_without_room_is_transient_and_a_constraint_is_not() {
        for code in ["53000", "53100", "53200", "53300", "53400", "08006", "57P03"] {
            assert!(is_transient_code(code), "{code}");
        }
        for code in ["23505", "42P01", "54000", "22003"] {
            assert!(!is_transient_code(code), "{code}");
        }
    }

    #[test]
    fn callers_never_read_the_cause() {
        let problem = map_error(sqlx::Error::Protocol("password=hunter2".into()));
        assert!(!problem.message().contains("hunter2"));
    }
}
