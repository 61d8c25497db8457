//! The audit log's events, their records, and the hash chain that proves them.
//!
//! A record never holds a password, a secret or a token. The name of a sign-in is recorded as the id of its user, and
//! not at all when there is no such user, because people type passwords into name fields.

mod canonical;
mod chain;
mod denials;
mod event;
mod record;

pub use chain::{BrokenChain, GENESIS, Hash, StoredRecord, chain_hash, verify_chain};
pub use denials::{Denial, Denials};
pub use event::{Actor, AuditEvent, EventKind, EventOutcome, RequestSource};
