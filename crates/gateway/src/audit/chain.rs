//! The hash chain of one writer, and its verification.
//!
//! An edited, removed or reordered record is found. Records cut off at the end are not: that needs a checkpoint stored
//! elsewhere.

use serde_json::Value;
use sha256::{Hasher, Sha256Digest};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The hash that ends a chain so far.
pub type Hash = [u8; 32];

/// What the first record of a chain is linked to.
pub const GENESIS: Hash = [0; 32];

/// Separates records from every other use of SHA-256.
const RECORD_PREFIX: [u8; 1] = [0];

/// A record as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// The gateway whose chain it is part of.
    pub writer: String,
    /// Its place in it, from 1.
    pub seq: i64,
    /// When it was written.
    pub at: OffsetDateTime,
    /// The canonical JSON.
    pub record: String,
    /// The hash of the record before.
    pub previous_hash: Vec<u8>,
    /// Its own.
    pub hash: Vec<u8>,
}

/// Where a chain is broken, and how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("audit chain of {writer:?} is broken at record {seq}: {what}")]
pub struct BrokenChain {
    /// The gateway whose chain it is.
    pub writer: String,
    /// The first record that does not fit.
    pub seq: i64,
    /// What does not fit.
    pub what: &'static str,
}

/// The hash of a record that follows `previous`.
pub fn chain_hash(previous: &Hash, record: &str) -> Hash {
    let mut hasher = Hasher::new();
    hasher.update(&RECORD_PREFIX);
    hasher.update(previous);
    hasher.update(Sha256Digest::of(record.as_bytes()).as_bytes());
    *hasher.finish().as_bytes()
}

/// Verifies that `records`, in their order, are the chain of one writer after record `seq` with hash `head`; from the
/// beginning with `(0, GENESIS)`. Returns the new end, to go on from.
pub fn verify_chain<'a>(
    (mut seq, mut head): (i64, Hash),
    records: impl IntoIterator<Item = &'a StoredRecord>,
) -> Result<(i64, Hash), BrokenChain> {
    let mut writer: Option<&str> = None;
    for stored in records {
        let broken = |what| BrokenChain { writer: stored.writer.clone(), seq: stored.seq, what };
        if writer.is_some_and(|writer| writer != stored.writer) {
            return Err(broken("a record of another writer is among these"));
        }
        if stored.seq != seq + 1 {
            return Err(broken("a record is missing or out of order"));
        }
        if stored.previous_hash != head {
            return Err(broken("its previous hash is not that of the record before"));
        }
        let hash = chain_hash(&head, &stored.record);
        if stored.hash != hash {
            return Err(broken("the record was changed"));
        }
        check_columns(stored).map_err(broken)?;
        (writer, seq, head) = (Some(stored.writer.as_str()), stored.seq, hash);
    }
    Ok((seq, head))
}

/// The columns beside a record serve searches; they must repeat what the record says.
fn check_columns(stored: &StoredRecord) -> Result<(), &'static str> {
    let record: Value = serde_json::from_str(&stored.record).map_err(|_| "the record is not JSON")?;
    let at = record.get("at").and_then(Value::as_str).and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok());
    let agrees = record.get("writer").and_then(Value::as_str) == Some(&stored.writer)
        && record.get("seq").and_then(Value::as_i64) == Some(stored.seq)
        && at == Some(stored.at);
    if agrees { Ok(()) } else { Err("a column contradicts the record") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::audit::{Actor, AuditEvent, EventKind, EventOutcome, RequestSource};

    fn chain(length: i64) -> Vec<StoredRecord> {
        let mut head = GENESIS;
        (1..=length)
            .map(|seq| {
                let at = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seq);
                let event = AuditEvent::new(
                    EventKind::Password,
                    EventOutcome::Success,
                    Actor::Anonymous,
                    RequestSource::default(),
                );
                let record = event.record("gateway-1", seq, at);
                let (previous_hash, hash) = (head.to_vec(), chain_hash(&head, &record));
                head = hash;
                StoredRecord { writer: "gateway-1".into(), seq, at, record, previous_hash, hash: hash.to_vec() }
            })
            .collect()
    }

    fn verify(records: &[StoredRecord]) -> Result<(i64, Hash), BrokenChain> {
        verify_chain((0, GENESIS), records)
    }

    #[test]
    fn an_unchanged_chain_verifies_whole_and_in_parts() {
        let records = chain(10);
        let whole = verify(&records).unwrap();
        let half = verify(&records[..5]).unwrap();
        assert_eq!(verify_chain(half, &records[5..]).unwrap(), whole);
        assert_eq!(verify(&[]).unwrap(), (0, GENESIS));
    }

    #[test]
    fn a_record_of_another_writer_breaks_the_chain() {
        let mut records = chain(2);
        records[1].writer = "gateway-2".into();
        assert!(verify(&records).is_err());
    }

    #[test]
    fn a_column_cannot_disagree_with_its_record() {
        let mut records = chain(3);
        records[1].at += time::Duration::SECOND;
        assert_eq!(verify(&records).unwrap_err().seq, 2);
    }

    #[test]
    fn a_record_edited_together_with_its_hash_breaks_the_next_one() {
        let mut records = chain(3);
        records[1].record = records[1].record.replace("success", "failure");
        let previous: Hash = records[0].hash.clone().try_into().unwrap();
        records[1].hash = chain_hash(&previous, &records[1].record).to_vec();
        assert_eq!(verify(&records).unwrap_err().seq, 3);
    }

    proptest! {
        /// Whichever record is edited, removed or moved, the chain no longer verifies.
        #[test]
        fn any_single_manipulation_is_found(at in 0_usize..19, to in 0_usize..19, byte in 0_usize..100) {
            let whole = chain(20);

            let mut edited = whole.clone();
            let mut bytes = edited[at].record.clone().into_bytes();
            let position = byte % bytes.len();
            bytes[position] = if bytes[position] == b'x' { b'y' } else { b'x' };
            edited[at].record = String::from_utf8(bytes).unwrap();
            prop_assert!(verify(&edited).is_err());

            let mut removed = whole.clone();
            removed.remove(at);
            prop_assert!(verify(&removed).is_err());

            if at != to {
                let mut swapped = whole.clone();
                swapped.swap(at, to);
                prop_assert!(verify(&swapped).is_err());
                for (index, stored) in swapped.iter_mut().enumerate() {
                    stored.seq = i64::try_from(index).unwrap() + 1;
                }
                prop_assert!(verify(&swapped).is_err(), "renumbered");
            }
        }
    }
}
