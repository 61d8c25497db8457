#![doc = include_str!("../README.md")]

mod claims;
mod clock;
mod enforce;
mod grpc_methods;
mod guard;
mod keyring;
mod keys;
mod metrics;
mod principal;
mod routes;
mod token;
mod verified_cache;
mod wrong_method;

pub use claims::{ACCESS_TOKEN_AUDIENCE, AccessTokenClaims, Claims, ISSUER, PassportClaims, TokenKind, Validity};
pub use clock::{Clock, UnixTime};
pub use enforce::PASSPORT_HEADER;
pub use guard::{FRESH_LOGIN_S, Guard};
pub use keyring::{AccessTokenKeys, PassportKeys};
pub use keys::{KeyError, PublicKey, SigningKey, generate_pkcs8_pem, jwks_json};
pub use principal::Principal;
pub use routes::{Routes, RoutesError};
pub use token::{LEEWAY_S, TOKEN_BYTES_MAX, TokenError};
