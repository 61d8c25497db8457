//! Sets made and proved, on a real PostgreSQL, with real keys; and the worker as a process, over real mTLS.

mod damage;
mod interruption;
mod offline;
mod support;
mod worker;
