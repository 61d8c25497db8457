//! Grants of RFC 6749: password, client credentials, refresh token, and the one-time token exchanged for tokens.
//!
//! A failed proof of identity gets one and the same response, whatever the cause; the audit log has the cause.

mod bootstrap;
mod client_credentials;
mod password;
mod refresh_token;
mod sign_in_attempt;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use problem::{Kind, Problem};
use secrets::Secret;
use tokio::time::timeout;

use crate::{
    app::App,
    audit::RequestSource,
    error::StoreError,
    metrics::{AuthMethod, AuthOutcome},
    password::HashError,
    random_secrets,
    session::ACCESS_LIFETIME,
    store::SessionWithUser,
    token::Login,
};
use crate::{clock::unix_seconds, metrics};

/// The client of tokens whose request names none.
const DEFAULT_CLIENT: &str = "rampart";

/// How long a proof of identity waits for a database permit.
const PERMIT_WAIT_MAX: Duration = Duration::from_secs(2);

/// A proof of identity.
#[derive(Debug)]
pub enum Grant {
    /// Name and password of a person.
    Password {
        /// As given; may be no name at all.
        username: String,
        /// As given.
        password: Secret,
        /// The client that the person uses.
        client_id: Option<String>,
    },
    /// Name and secret of a machine.
    ClientCredentials {
        /// As given; may be no name at all.
        client_id: String,
        /// As given.
        client_secret: Secret,
    },
    /// A refresh token.
    RefreshToken(Secret),
    /// The one-time token, with the name and password that the first administrator shall have.
    Bootstrap {
        /// As given.
        token: Secret,
        /// As given; may be no name at all.
        username: String,
        /// As given.
        password: Secret,
    },
}

/// The tokens that a grant is exchanged for. Cannot be printed.
#[derive(Clone)]
pub struct IssuedTokens {
    /// The bearer token.
    pub access_token: String,
    /// How long it lives.
    pub expires_in: Duration,
    /// To be exchanged for the next one; not for machines.
    pub refresh_token: Option<String>,
}

/// Why there is no token: the problem, and its code of RFC 6749 §5.2.
#[derive(Clone, Debug)]
pub struct GrantError {
    /// `invalid_grant`, `invalid_request`, …
    pub code: &'static str,
    /// The answer.
    pub problem: Box<Problem>,
    /// For the metric.
    pub outcome: AuthOutcome,
}

// === impl App ===

impl App {
    /// Exchanges a proof of identity for tokens.
    pub async fn exchange(&self, grant: Grant, source: &RequestSource) -> Result<IssuedTokens, GrantError> {
        let (method, started) = (grant.method(), std::time::Instant::now());
        let issued = match grant {
            Grant::Password { username, password, client_id } => {
                self.sign_in_person(&username, password, client_id, source).await
            }
            Grant::ClientCredentials { client_id, client_secret } => {
                self.sign_in_machine(&client_id, &client_secret, source).await
            }
            Grant::RefreshToken(token) => self.refresh(&token, source).await,
            Grant::Bootstrap { token, username, password } => {
                self.bootstrap(&token, &username, &password, source).await
            }
        };
        let outcome = issued.as_ref().map_or_else(|error| error.outcome, |_| AuthOutcome::Ok);
        metrics::auth_attempt(method, outcome, started.elapsed());
        issued
    }

    /// Runs database work of a proof of identity under a permit, which comes within [`PERMIT_WAIT_MAX`] or not at all.
    async fn with_db_permit<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, GrantError> {
        self.require_loaded()?;
        match timeout(PERMIT_WAIT_MAX, self.auth_db_permits.acquire()).await {
            Ok(Ok(_permit)) => Ok(work.await?),
            Ok(Err(_)) | Err(_) => Err(GrantError::busy()),
        }
    }

    fn issue(&self, signed_in: &SessionWithUser, refresh_token: Option<String>) -> Result<IssuedTokens, GrantError> {
        let login = Login {
            session: signed_in.session.id,
            auth_time: unix_seconds(signed_in.session.started_at),
            client_id: &signed_in.session.client_id,
        };
        let access_token =
            self.tokens.issue_access(&signed_in.user, login, self.unix_now()).map_err(GrantError::internal)?;
        if refresh_token.is_some() {
            metrics::token_issued("refresh");
        }
        Ok(IssuedTokens { access_token, expires_in: ACCESS_LIFETIME.unsigned_abs(), refresh_token })
    }
}

fn new_refresh_token() -> Result<(String, random_secrets::Digest), GrantError> {
    let token =
        random_secrets::generate(random_secrets::REFRESH_PREFIX).map_err(|_| GrantError::from(StoreError::Random))?;
    let digest = random_secrets::sha256(&token);
    Ok((token, digest))
}

/// The address under which failures are counted together. A client with an IPv6 address has its whole /64, too.
fn throttle_address(source: &RequestSource) -> String {
    let Some(address) = &source.address else { return source.peer.as_deref().unwrap_or("unknown").to_owned() };
    match address.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(address)) => address.to_string(),
        Ok(IpAddr::V6(address)) => format!("{}/64", Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        Err(_) => address.clone(),
    }
}

/// The network of a client: what a person has at home or at work stays within it. `None` where the address is not known.
fn network(source: &RequestSource) -> Option<String> {
    match source.address.as_ref()?.parse::<IpAddr>().ok()?.to_canonical() {
        IpAddr::V4(address) => Some(format!("{}/24", Ipv4Addr::from_bits(address.to_bits() >> 8 << 8))),
        IpAddr::V6(address) => Some(format!("{}/64", Ipv6Addr::from_bits(address.to_bits() >> 64 << 64))),
    }
}

// === impl Grant ===

impl Grant {
    fn method(&self) -> AuthMethod {
        match self {
            Self::Password { .. } => AuthMethod::Password,
            Self::ClientCredentials { .. } => AuthMethod::ClientCredentials,
            Self::RefreshToken(_) => AuthMethod::RefreshToken,
            Self::Bootstrap { .. } => AuthMethod::Bootstrap,
        }
    }
}

// === impl GrantError ===

impl GrantError {
    /// A request that cannot be understood.
    pub fn invalid_request(problem: Problem) -> Self {
        Self { code: "invalid_request", problem: Box::new(problem), outcome: AuthOutcome::Invalid }
    }

    /// An unknown `grant_type`.
    pub fn unsupported_grant_type() -> Self {
        let detail = "wants password, client_credentials, refresh_token or bootstrap";
        let problem = Problem::new(Kind::InvalidArgument, detail).field("grant_type");
        Self { code: "unsupported_grant_type", problem: Box::new(problem), outcome: AuthOutcome::Invalid }
    }

    /// The one response to every failed proof of identity.
    fn refused(code: &'static str) -> Self {
        let problem = Problem::new(Kind::Unauthenticated, "the credentials are not valid");
        Self { code, problem: Box::new(problem), outcome: AuthOutcome::Refused }
    }

    fn throttled(wait: Duration) -> Self {
        let detail = "too many failed attempts; wait before the next one";
        let problem = Problem::new(Kind::ResourceExhausted, detail).retry_after(wait + Duration::from_millis(999));
        Self { code: "temporarily_unavailable", problem: Box::new(problem), outcome: AuthOutcome::Throttled }
    }

    fn too_often(wait: Duration) -> Self {
        let detail = "this account signs in too often; keep a token until it expires";
        let problem = Problem::new(Kind::ResourceExhausted, detail).retry_after(wait + Duration::from_millis(999));
        Self { code: "temporarily_unavailable", problem: Box::new(problem), outcome: AuthOutcome::Throttled }
    }

    fn busy() -> Self {
        let problem = Box::new(Problem::unavailable("too many sign-ins at once"));
        Self { code: "temporarily_unavailable", problem, outcome: AuthOutcome::Unavailable }
    }

    fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { code: "server_error", problem: Box::new(Problem::internal(cause)), outcome: AuthOutcome::Unavailable }
    }
}

impl From<StoreError> for GrantError {
    fn from(error: StoreError) -> Self {
        let problem = Problem::from(error);
        let is_passing = problem.kind() == Kind::Unavailable;
        let code = if is_passing { "temporarily_unavailable" } else { "server_error" };
        Self { code, problem: Box::new(problem), outcome: AuthOutcome::Unavailable }
    }
}

impl From<HashError> for GrantError {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Busy | HashError::Stopped => Self::busy(),
            HashError::Hash(_) => Self::internal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_a_24_or_a_64() {
        let of =
            |address: &str| network(&RequestSource { address: Some(address.to_owned()), ..RequestSource::default() });
        assert_eq!(of("192.0.2.77").as_deref(), Some("192.0.2.0/24"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.77"));
        assert_eq!(of("2001:db8:1:2:ffff::9").as_deref(), Some("2001:db8:1:2::/64"));
        assert_eq!(of("not an address"), None);
        assert_eq!(network(&RequestSource { peer: Some("balancer-1".into()), ..RequestSource::default() }), None);
    }

    #[test]
    fn the_addresses_of_one_client_are_counted_as_one() {
        let of = |address: &str| {
            throttle_address(&RequestSource { address: Some(address.to_owned()), ..RequestSource::default() })
        };
        assert_eq!(of("192.0.2.1"), "192.0.2.1");
        assert_eq!(of("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(of("2001:db8:1:2::1"), "2001:db8:1:2::/64");
        assert_eq!(of("2001:db8:1:2:ffff::9"), of("2001:db8:1:2::1"));
        assert_ne!(of("2001:db8:1:3::1"), of("2001:db8:1:2::1"));
        assert_eq!(of("not an address"), "not an address");
        assert_eq!(
            throttle_address(&RequestSource { peer: Some("balancer-1".into()), ..RequestSource::default() }),
            "balancer-1"
        );
    }
}
