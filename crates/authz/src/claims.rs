//! What the two kinds of token say. Each kind is a type of its own, so that neither can pass for the other.

use policy::Roles;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::UnixTime;

/// The issuer of every token.
pub const ISSUER: &str = "rampart-gateway";

/// The audience of every access token: the platform as a whole.
pub const ACCESS_TOKEN_AUDIENCE: &str = "rampart";

/// The two kinds of token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Between services of the platform: who the caller is, for one service, for at most a minute.
    Passport,
    /// In the hands of a client (RFC 9068), for at most ten minutes.
    Access,
}

/// The gateway's statement of who a caller is, to one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassportClaims {
    /// The one service this is for, e.g. `serving`.
    pub aud: String,
    /// The user or client, by its id.
    pub sub: String,
    /// The tenant that the subject belongs to.
    pub tenant: String,
    /// What the subject is.
    pub roles: Roles,
    /// The client that the access token was issued to.
    pub client_id: String,
    /// The login that the access token comes from.
    pub sid: String,
    /// This passport.
    pub jti: String,
    /// When the subject last gave a primary credential.
    pub auth_time: UnixTime,
    /// When the access token ends. A gateway of the version before does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_exp: Option<UnixTime>,
    /// Issued at.
    pub iat: UnixTime,
    /// Not valid before.
    pub nbf: UnixTime,
    /// Not valid from here on.
    pub exp: UnixTime,
}

/// What a client's bearer token says (RFC 9068).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessTokenClaims {
    /// Always [`ACCESS_TOKEN_AUDIENCE`].
    pub aud: String,
    /// The user or client, by its id.
    pub sub: String,
    /// The tenant that the subject belongs to.
    pub tenant: String,
    /// What the subject was when the token was issued; `ver` shows whether that is still so.
    pub roles: Roles,
    /// The client that the token was issued to.
    pub client_id: String,
    /// The login that the token comes from.
    pub sid: String,
    /// This token.
    pub jti: String,
    /// The version of the subject's rights that the token was issued under.
    pub ver: u64,
    /// When the subject last gave a primary credential.
    pub auth_time: UnixTime,
    /// Issued at.
    pub iat: UnixTime,
    /// Not valid before.
    pub nbf: UnixTime,
    /// Not valid from here on.
    pub exp: UnixTime,
}

/// From when to when a token holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Issued at.
    pub iat: UnixTime,
    /// Not valid before.
    pub nbf: UnixTime,
    /// Not valid from here on.
    pub exp: UnixTime,
}

/// The claims of one kind of token. Sealed: there are two.
pub trait Claims: Serialize + DeserializeOwned + sealed::Sealed {
    /// Which kind; decides type and lifetime.
    const KIND: TokenKind;

    /// The audience that the token is for.
    fn audience(&self) -> &str;

    /// From when to when it holds.
    fn validity(&self) -> Validity;
}

mod sealed {
    pub trait Sealed {}
}

// === impl TokenKind ===

impl TokenKind {
    /// The `typ` header, compared exactly.
    pub fn typ(self) -> &'static str {
        match self {
            Self::Passport => "passport+jwt",
            Self::Access => "at+jwt",
        }
    }

    /// The most that `exp` may be after `iat`.
    pub fn lifetime_max_s(self) -> u64 {
        match self {
            Self::Passport => 60,
            Self::Access => 600,
        }
    }
}

// === impl PassportClaims, AccessTokenClaims ===

macro_rules! claims {
    ($claims:ty, $kind:ident) => {
        impl sealed::Sealed for $claims {}

        impl Claims for $claims {
            const KIND: TokenKind = TokenKind::$kind;

            fn audience(&self) -> &str {
                &self.aud
            }

            fn validity(&self) -> Validity {
                Validity { iat: self.iat, nbf: self.nbf, exp: self.exp }
            }
        }
    };
}

claims!(PassportClaims, Passport);
claims!(AccessTokenClaims, Access);
