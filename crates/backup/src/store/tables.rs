//! The tables of a database, counted: in the snapshot of a dump, and in a scratch cluster after its restore.

use std::collections::BTreeMap;

use database::Database;
use sqlx::{PgConnection, Postgres, Transaction};

/// Rows by `schema.table`.
pub type Rows = BTreeMap<String, i64>;

/// An exported snapshot of a database: `pg_dump` reads the same one by its name.
pub struct Snapshot {
    transaction: Transaction<'static, Postgres>,
    /// For `pg_dump --snapshot`.
    pub name: String,
    /// The server's version, e.g. `15.18`.
    pub server_version: String,
}

// === impl Snapshot ===

impl Snapshot {
    /// Exports a snapshot of now. It lasts until this value is dropped, however long the dump takes.
    pub async fn hold(database: &Database) -> Result<Self, sqlx::Error> {
        let work = async {
            let mut transaction = database.begin().await?;
            sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                .execute(&mut *transaction)
                .await?;
            // Only in this transaction: counting and waiting for the dump may take longer than a request's query may.
            sqlx::query!(
                "SELECT set_config('statement_timeout', '0', true) AS a,
                        set_config('idle_in_transaction_session_timeout', '0', true) AS b"
            )
            .fetch_one(&mut *transaction)
            .await?;
            let row = sqlx::query!(
                r#"SELECT pg_export_snapshot() AS "name!",
                          split_part(current_setting('server_version'), ' ', 1) AS "server_version!""#
            )
            .fetch_one(&mut *transaction)
            .await?;
            Ok(Self { transaction, name: row.name, server_version: row.server_version })
        };
        database.bounded("hold_snapshot", work).await
    }

    /// The rows of every table in this snapshot.
    pub async fn count_rows(&mut self) -> Result<Rows, sqlx::Error> {
        count_rows(&mut self.transaction).await
    }
}

/// The rows of every table that a dump holds. One statement, so that it is one moment.
pub async fn count_rows(connection: &mut PgConnection) -> Result<Rows, sqlx::Error> {
    // Table names are data here: `query_to_xml` counts a table of that name without building SQL text.
    let rows = sqlx::query!(
        r#"SELECT namespace.nspname || '.' || class.relname AS "name!",
                  (xpath('/row/rows/text()',
                         query_to_xml(format('SELECT count(*) AS rows FROM ONLY %I.%I', namespace.nspname, class.relname),
                                      false, true, '')))[1]::text::bigint AS "rows!"
           FROM pg_catalog.pg_class AS class
           JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
           WHERE class.relkind = 'r' AND class.relpersistence <> 't'
             AND namespace.nspname <> 'information_schema' AND namespace.nspname NOT LIKE 'pg\_%'
             AND NOT EXISTS (
                 SELECT FROM pg_catalog.pg_depend AS depend
                 WHERE depend.classid = 'pg_catalog.pg_class'::regclass AND depend.objid = class.oid
                   AND depend.deptype = 'e'
             )"#
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.name, row.rows)).collect())
}
