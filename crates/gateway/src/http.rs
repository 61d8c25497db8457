//! The REST side: takes requests apart and puts responses together. No rule and no SQL.

pub mod audit;
pub mod audit_denials;
pub mod authorize;
mod client_authentication;
mod if_match;
pub mod jwks;
pub mod me;
pub mod metadata;
pub mod openapi;
mod paging;
pub mod payload;
mod problem_body;
pub mod revoke;
mod source;
pub mod token;
pub mod users;
