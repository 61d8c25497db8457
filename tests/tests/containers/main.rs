//! The platform in containers: what it promises, shown on a platform that `scripts/test platform` starts and destroys.
//!
//! They run one after the other, because all of them break the same platform.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bystander;
mod database;
mod disaster;
mod faults;
mod forgeries;
mod front;
mod hostile;
mod late;
mod ledger;
mod load;
mod models;
mod order;
mod ports;
mod power;
mod restore;
mod rotation;
mod secrets;
mod strict;
