#![doc = include_str!("../README.md")]

mod action;
mod claims;
mod clock;
mod contract;
mod enforce;
mod guard;
mod keyring;
mod keys;
mod matrix;
mod memory;
mod metrics;
mod policy;
mod principal;
pub mod registry;
mod role;
mod routes;
mod token;

pub use action::{Action, UnknownAction};
pub use claims::{ACCESS_TOKEN_AUDIENCE, AccessTokenClaims, Claims, ISSUER, PassportClaims, TokenKind, Validity};
pub use clock::{Clock, UnixTime};
pub use enforce::{Caller, PASSPORT_HEADER};
pub use guard::{FRESH_LOGIN_S, Guard};
pub use keyring::{AccessTokenKeys, PassportKeys};
pub use keys::{KeyError, PublicKey, SigningKey, generate_pkcs8_pem, jwks_json};
pub use matrix::render_matrix;
pub use policy::{Policy, PolicyError, SERVICES, Subject, Verdict};
pub use principal::Principal;
pub use role::{Role, Roles, UnknownRole};
pub use routes::{Declared, Routes, RoutesError};
pub use token::{LEEWAY_S, Reject, TOKEN_BYTES_MAX};
