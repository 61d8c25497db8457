//! Where an audit record is written: appended to its writer's chain, read, never altered.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{Store, locks};
use crate::{
    audit::{AuditEvent, GENESIS, Hash, StoredRecord, chain_hash},
    error::StoreError,
    metrics,
};

/// A record with the number that pages are counted by.
#[derive(Clone, Debug)]
pub struct PagedRecord {
    /// Rises with every record of every writer. Not part of the chain.
    pub id: i64,
    /// The record.
    pub stored: StoredRecord,
}

// === impl Store ===

impl Store {
    /// Records events that changed nothing else.
    pub async fn record(&self, events: &[AuditEvent]) -> Result<(), StoreError> {
        self.database
            .bounded("record", async {
                let mut transaction = self.begin().await?;
                self.append_audit(&mut transaction, events).await?;
                transaction.commit().await?;
                Ok(())
            })
            .await
    }

    /// Up to `limit` records older than number `before`, newest first.
    pub async fn audit_page(&self, before: i64, limit: i64) -> Result<Vec<PagedRecord>, StoreError> {
        let work = async |connection: &mut PgConnection| {
            let rows = sqlx::query!(
                r#"SELECT id, writer, seq, at, record, previous_hash, hash FROM gateway.audit
                       WHERE id < $1 ORDER BY id DESC LIMIT $2"#,
                before,
                limit
            )
            .fetch_all(&mut *connection)
            .await?;
            Ok(rows
                .into_iter()
                .map(|row| {
                    let (previous_hash, hash) = (row.previous_hash, row.hash);
                    let (writer, seq, at, record) = (row.writer, row.seq, row.at, row.record);
                    PagedRecord { id: row.id, stored: StoredRecord { writer, seq, at, record, previous_hash, hash } }
                })
                .collect())
        };
        self.query("audit_page", work).await
    }

    /// Up to `limit` records of one writer after its record `seq`, oldest first, for verification.
    pub async fn audit_chain(&self, writer: &str, seq: i64, limit: i64) -> Result<Vec<StoredRecord>, StoreError> {
        let work = async |connection: &mut PgConnection| {
            let records = sqlx::query_as!(
                StoredRecord,
                r#"SELECT writer, seq, at, record, previous_hash, hash FROM gateway.audit
                       WHERE writer = $1 AND seq > $2 ORDER BY seq LIMIT $3"#,
                writer,
                seq,
                limit
            )
            .fetch_all(&mut *connection)
            .await?;
            Ok(records)
        };
        self.query("audit_chain", work).await
    }

    /// Adds events to this gateway's chain, within the transaction of what they are about. The last statements of a
    /// transaction: from here to the commit, no other transaction adds to this chain.
    pub(super) async fn append_audit(
        &self,
        connection: &mut PgConnection,
        events: &[AuditEvent],
    ) -> Result<(), StoreError> {
        let appended = append(connection, &self.writer, self.now(), events).await;
        match &appended {
            Ok(()) => events.iter().for_each(|event| metrics::audit_event(event.kind)),
            Err(_) => metrics::audit_write_failed(),
        }
        appended
    }
}

/// Lets the numbers of pages go on from this one, or from their own if that is higher: a reader that goes on from a number
/// which the restored database has not given out would miss the next records. Chains have no gaps and count on.
pub(super) async fn move_ids(connection: &mut PgConnection, id: i64) -> Result<(), StoreError> {
    sqlx::query!(
        r#"SELECT setval(sequence, greatest(nextval(sequence), $1))
           FROM (SELECT pg_get_serial_sequence('gateway.audit', 'id')::regclass AS sequence) AS it"#,
        id
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

async fn append(
    connection: &mut PgConnection,
    writer: &str,
    at: OffsetDateTime,
    events: &[AuditEvent],
) -> Result<(), StoreError> {
    // A restarted gateway continues the chain of its name, and may overlap with the one that is going.
    locks::take(connection, &format!("audit {writer}")).await?;
    let (mut seq, mut head) = end_of_chain(connection, writer).await?;
    for event in events {
        seq += 1;
        let record = event.record(writer, seq, at);
        let hash = chain_hash(&head, &record);
        sqlx::query!(
            r#"INSERT INTO gateway.audit (writer, seq, at, record, previous_hash, hash) VALUES ($1, $2, $3, $4, $5, $6)"#,
            writer,
            seq,
            at,
            record,
            head.as_slice(),
            hash.as_slice()
        )
        .execute(&mut *connection)
        .await?;
        head = hash;
    }
    Ok(())
}

async fn end_of_chain(connection: &mut PgConnection, writer: &str) -> Result<(i64, Hash), StoreError> {
    let last = sqlx::query!("SELECT seq, hash FROM gateway.audit WHERE writer = $1 ORDER BY seq DESC LIMIT 1", writer)
        .fetch_optional(connection)
        .await?;
    let Some(last) = last else { return Ok((0, GENESIS)) };
    let wrong = |_| StoreError::Inconsistent { table: "audit", what: format!("hash of record {}", last.seq) };
    Ok((last.seq, last.hash.try_into().map_err(wrong)?))
}
