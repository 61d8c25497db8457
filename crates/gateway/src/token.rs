//! Signing and verifying tokens with the gateway's own keys.

use authz::{
    ACCESS_TOKEN_AUDIENCE, AccessTokenClaims, AccessTokenKeys, KeyError, PassportClaims, SigningKey, TokenError,
    UnixTime, jwks_json,
};
use aws_lc_rs::hmac;
use secrets::{Secret, SecretError, SecretFile};
use uuid::Uuid;

use crate::{
    auth_state::UserRights,
    config::TokensConfig,
    metrics, random_secrets,
    session::ACCESS_LIFETIME,
    user::{Tenant, User},
};

const ACCESS_LIFETIME_S: UnixTime = ACCESS_LIFETIME.whole_seconds().unsigned_abs();

/// How long a passport lives at most.
pub const PASSPORT_LIFETIME_S: UnixTime = 60;

/// Separates the keys of refresh tokens from every other use of the signing keys' files.
const SUCCESSOR_DOMAIN: &[u8] = b"rampart refresh token successor v1";

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// A key file is missing or refused.
    #[error("signing key")]
    File(#[from] SecretError),
    /// It is not what it should be.
    #[error("signing key in {file}")]
    Key {
        /// The file.
        file: String,
        /// Why not.
        source: KeyError,
    },
    /// The public keys do not make a set.
    #[error("the public keys cannot be published")]
    Keys(#[source] KeyError),
}

/// The gateway's keys: one each to sign access tokens and passports, and former ones that still verify.
pub struct Tokens {
    access: SigningKey,
    passport: SigningKey,
    access_keys: AccessTokenKeys,
    access_jwks: String,
    passport_jwks: String,
    /// Out of the keys of access tokens, in their order: every gateway has them, and they are of use as long as those.
    successor_keys: Vec<hmac::Key>,
}

/// The login that a token comes from.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// Its `sid`.
    pub session: Uuid,
    /// When a password or secret was last given.
    pub auth_time: UnixTime,
    /// The client that asked.
    pub client_id: &'a str,
}

// === impl Tokens ===

impl Tokens {
    /// Reads the key files.
    pub fn load(config: &TokensConfig) -> Result<Self, SigningError> {
        let access = LoadedKeys::load(&config.access_signing_key_file, &config.access_passive_key_files)?;
        let passport = LoadedKeys::load(&config.passport_signing_key_file, &config.passport_passive_key_files)?;
        let access_keys = AccessTokenKeys::default();
        access_keys.replace(&access.jwks).map_err(SigningError::Keys)?;
        Ok(Self {
            access: access.active,
            passport: passport.active,
            access_keys,
            access_jwks: access.jwks,
            passport_jwks: passport.jwks,
            successor_keys: access.files.iter().map(successor_key).collect(),
        })
    }

    /// What a refresh token may be exchanged for, first of all what it is exchanged for now. Every gateway finds the same, and
    /// without the keys of the gateways it cannot be found.
    pub fn refresh_successors(&self, presented: &str) -> Vec<String> {
        let derive = |key| random_secrets::derive(random_secrets::REFRESH_PREFIX, key, presented);
        self.successor_keys.iter().map(derive).collect()
    }

    /// The public keys of access tokens, for every client.
    pub fn access_jwks(&self) -> &str {
        &self.access_jwks
    }

    /// The public keys of passports, for services.
    pub fn passport_jwks(&self) -> &str {
        &self.passport_jwks
    }

    /// An access token for a user (RFC 9068).
    pub fn issue_access(&self, user: &User, login: Login<'_>, now: UnixTime) -> Result<String, KeyError> {
        metrics::token_issued("access");
        self.access.sign(&AccessTokenClaims {
            aud: ACCESS_TOKEN_AUDIENCE.to_owned(),
            sub: user.id.to_string(),
            tenant: user.tenant.as_str().to_owned(),
            roles: user.roles,
            client_id: login.client_id.to_owned(),
            sid: login.session.to_string(),
            jti: Uuid::new_v4().to_string(),
            ver: user.authz_version.unsigned_abs(),
            auth_time: login.auth_time,
            iat: now,
            nbf: now,
            exp: now + ACCESS_LIFETIME_S,
        })
    }

    /// The claims of an access token, if a gateway signed it and it has not expired. The auth state has the revocations.
    pub fn verify_access(&self, token: &str, now: UnixTime) -> Result<AccessTokenClaims, TokenError> {
        let claims = self.access_keys.verify(token, now)?;
        // The leeway is for clocks of other hosts; here it would only make expired passports.
        if now >= claims.exp { Err(TokenError::Expired) } else { Ok(claims) }
    }

    /// The claims of an expired token that a gateway signed: the audit log names its owner.
    pub fn owner_of_access(&self, token: &str) -> Result<AccessTokenClaims, TokenError> {
        self.access_keys.claims_if_signed(token)
    }

    /// The claims of a passport to `audience`, with the user's rights of now. Never outlives the token; `None` when that has
    /// expired.
    pub fn passport_claims(
        &self,
        token: &AccessTokenClaims,
        user: &UserRights,
        audience: &str,
        now: UnixTime,
    ) -> Option<PassportClaims> {
        (now < token.exp).then(|| PassportClaims {
            aud: audience.to_owned(),
            sub: token.sub.clone(),
            tenant: Tenant::as_str(&user.tenant).to_owned(),
            roles: user.roles,
            client_id: token.client_id.clone(),
            sid: token.sid.clone(),
            jti: Uuid::new_v4().to_string(),
            auth_time: token.auth_time,
            token_exp: Some(token.exp),
            iat: now,
            nbf: now,
            exp: token.exp.min(now + PASSPORT_LIFETIME_S),
        })
    }

    /// Signs a passport.
    pub fn issue_passport(&self, claims: &PassportClaims) -> Result<String, KeyError> {
        let passport = self.passport.sign(claims)?;
        metrics::token_issued("passport");
        Ok(passport)
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("access", &self.access).field("passport", &self.passport).finish_non_exhaustive()
    }
}

/// One active key and former ones, with the text of their files in the same order.
struct LoadedKeys {
    active: SigningKey,
    jwks: String,
    files: Vec<Secret>,
}

// === impl LoadedKeys ===

impl LoadedKeys {
    fn load(active: &SecretFile, passive: &[SecretFile]) -> Result<Self, SigningError> {
        let (active, file) = load_key(active)?;
        let (mut public, mut files) = (vec![active.public().clone()], vec![file]);
        for file in passive {
            let (key, file) = load_key(file)?;
            public.push(key.public().clone());
            files.push(file);
        }
        let jwks = jwks_json(&public);
        Ok(Self { active, jwks, files })
    }
}

fn successor_key(file: &Secret) -> hmac::Key {
    let pem = hmac::Key::new(hmac::HMAC_SHA256, file.expose().trim_ascii());
    hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&pem, SUCCESSOR_DOMAIN).as_ref())
}

fn load_key(file: &SecretFile) -> Result<(SigningKey, Secret), SigningError> {
    let pem = file.read()?;
    let wrong = |source| SigningError::Key { file: file.path().display().to_string(), source };
    let text = pem.expose_str().map_err(|_| wrong(KeyError::NotPkcs8Pem))?;
    let key = SigningKey::from_pkcs8_pem(text).map_err(wrong)?;
    Ok((key, pem))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use authz::PassportKeys;
    use policy::Role;
    use time::OffsetDateTime;

    use super::*;
    use crate::user::UserKind;

    const NOW: UnixTime = 1_000_000;

    fn key(directory: &Path, name: &str) -> SecretFile {
        let path = directory.join(name);
        fs::write(&path, authz::generate_pkcs8_pem().unwrap().as_bytes()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        SecretFile::new(path)
    }

    fn config(directory: &Path) -> TokensConfig {
        TokensConfig {
            access_signing_key_file: key(directory, "access"),
            access_passive_key_files: Vec::new(),
            passport_signing_key_file: key(directory, "passport"),
            passport_passive_key_files: Vec::new(),
            audiences: Vec::new(),
        }
    }

    fn user() -> User {
        User {
            id: Uuid::from_u128(1),
            name: "ada".parse().unwrap(),
            kind: UserKind::Person,
            tenant: Tenant::default(),
            roles: Role::Viewer.into(),
            disabled: false,
            authz_version: 1,
            tokens_since: 1,
            created_at: OffsetDateTime::UNIX_EPOCH,
            updated_at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    fn access(tokens: &Tokens) -> String {
        let login = Login { session: Uuid::from_u128(2), auth_time: NOW, client_id: "test" };
        tokens.issue_access(&user(), login, NOW).unwrap()
    }

    #[test]
    fn a_passport_never_outlives_its_token_nor_a_minute() {
        let _again = identity::install_crypto_providers();
        let directory = tempfile::tempdir().unwrap();
        let tokens = Tokens::load(&config(directory.path())).unwrap();
        let claims = tokens.verify_access(&access(&tokens), NOW).unwrap();
        let known = UserRights::from(&user());
        let keys = PassportKeys::default();
        keys.replace(tokens.passport_jwks()).unwrap();
        for (at, exp) in [(NOW, NOW + 60), (NOW + 540, NOW + 600), (NOW + 570, NOW + 600), (NOW + 599, NOW + 600)] {
            let said = tokens.passport_claims(&claims, &known, "serving", at).unwrap();
            let passport = tokens.issue_passport(&said).unwrap();
            let claims = keys.verify(&passport, "serving", at).unwrap();
            assert_eq!((claims.exp, said.exp), (exp, exp));
        }
        let too_late = tokens.passport_claims(&claims, &known, "serving", NOW + 600);
        assert!(too_late.is_none(), "judged in its last second, answered after it");
        assert_eq!(tokens.verify_access(&access(&tokens), NOW + 599).unwrap().exp, NOW + 600);
        assert_eq!(tokens.verify_access(&access(&tokens), NOW + 600), Err(TokenError::Expired), "without leeway");
    }

    #[test]
    fn tokens_of_a_passive_key_are_accepted_and_of_a_removed_one_refused() {
        let _again = identity::install_crypto_providers();
        let directory = tempfile::tempdir().unwrap();
        let before = config(directory.path());
        let former = Tokens::load(&before).unwrap();
        let token = access(&former);
        let renewed = TokensConfig {
            access_signing_key_file: key(directory.path(), "access-2"),
            access_passive_key_files: vec![before.access_signing_key_file.clone()],
            ..before.clone()
        };
        let tokens = Tokens::load(&renewed).unwrap();
        assert!(tokens.verify_access(&token, NOW).is_ok());
        assert!(tokens.verify_access(&access(&tokens), NOW).is_ok());
        assert_eq!(tokens.access_jwks().matches("kid").count(), 2);
        let (of_former, of_both) = (former.refresh_successors("x"), tokens.refresh_successors("x"));
        assert_eq!((of_former.len(), of_both.len()), (1, 2));
        assert_eq!(
            of_former[0], of_both[1],
            "a token that was exchanged under the former key is exchanged for the same"
        );
        assert_ne!(of_both[0], of_both[1]);
        let renewed = TokensConfig { access_passive_key_files: Vec::new(), ..renewed };
        assert_eq!(Tokens::load(&renewed).unwrap().verify_access(&token, NOW), Err(TokenError::UnknownKey));
    }

    #[test]
    fn a_malformed_key_is_refused_with_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let good = config(directory.path());
        fs::write(
            good.access_signing_key_file.path(),
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        )
        .unwrap();
        let error = Tokens::load(&good).unwrap_err().to_string();
        assert!(error.contains("access"), "{error}");
    }
}
