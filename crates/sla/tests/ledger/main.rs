//! The tracker as a process, on a real PostgreSQL, over real mTLS.

mod report;
mod summary;
mod support;
