//! One call of Vault's HTTP API.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use https_client::{Bounds, HttpsClient, HttpsError, Proxies, Timeouts};
use problem::Chain;
use secrets::SecretError;
use serde_json::Value;
use zeroize::Zeroizing;

const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(2), silence: Duration::from_secs(10) };
/// Answers are small; more than this is not Vault.
const BOUNDS: Bounds = Bounds { timeout: Duration::from_secs(10), body_bytes_max: 1 << 20 };

/// A client of one Vault. Trusts exactly the CA file, as it was when the client was made.
#[derive(Clone, Debug)]
pub struct Vault {
    http: HttpsClient,
    address: String,
}

/// Why there is no answer, or not the one that was wanted.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// No client can be made of the CA file.
    #[error("cannot use the CA file {path}: {reason}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The login file is missing or refused.
    #[error("no login for Vault")]
    LoginFile(#[from] SecretError),
    /// The login file is not what the steward writes.
    #[error("the login file {path} is not one")]
    Login {
        /// The file.
        path: PathBuf,
    },
    /// No answer, or none in time, or under a certificate of another CA.
    #[error("no answer of Vault to {call}")]
    Unreachable {
        /// Method and path.
        call: String,
        /// Why.
        source: HttpsError,
    },
    /// Vault refuses the call.
    #[error("Vault refuses {call} with {status}: {reason}")]
    Refused {
        /// Method and path.
        call: String,
        /// Its status.
        status: u16,
        /// What Vault answered.
        reason: String,
    },
    /// An answer without what must be in it.
    #[error("Vault's answer to {call} has no {what}")]
    Incomplete {
        /// Method and path.
        call: String,
        /// What is missing.
        what: &'static str,
    },
    /// The key or the request for a certificate.
    #[error("cannot make a request for a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A file that is to hold what came.
    #[error(transparent)]
    Write(#[from] secrets::WriteError),
}

// === impl Vault ===

impl Vault {
    /// A client for `https://host:port`.
    ///
    /// # Errors
    /// The CA file cannot be read or holds no certificate.
    pub fn new(address: &str, ca_file: &Path) -> Result<Self, VaultError> {
        let unusable = |reason: String| VaultError::Ca { path: ca_file.to_owned(), reason };
        let pem = std::fs::read(ca_file).map_err(|error| unusable(error.to_string()))?;
        let http = HttpsClient::trusting(&pem, TIMEOUTS, Proxies::Never)
            .map_err(|error| unusable(Chain(&error).to_string()))?;
        Ok(Self { http, address: address.trim_end_matches('/').to_owned() })
    }

    /// Reads `path` below `/v1/`.
    ///
    /// # Errors
    /// Vault does not answer, or refuses.
    pub async fn get(&self, token: &str, path: &str) -> Result<Value, VaultError> {
        self.call(Method::GET, token, path, None).await
    }

    /// Writes to `path` below `/v1/`. An answer without a body is `null`.
    ///
    /// # Errors
    /// Vault does not answer, or refuses.
    pub async fn post(&self, token: &str, path: &str, body: &Value) -> Result<Value, VaultError> {
        self.call(Method::POST, token, path, Some(body)).await
    }

    /// Any call. Without a token (`""`) it is one that needs none.
    ///
    /// # Errors
    /// Vault does not answer, or refuses.
    pub async fn call(
        &self,
        method: Method,
        token: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, VaultError> {
        let call = format!("{method} {path}");
        let unreachable = |source| VaultError::Unreachable { call: call.clone(), source };
        let mut request = Request::builder().method(method).uri(format!("{}/v1/{path}", self.address));
        if !token.is_empty() {
            request = request.header("X-Vault-Token", token);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(body.into_bytes()).map_err(|error| unreachable(error.into()))?;
        let answer = self.http.send(request, BOUNDS).await.map_err(unreachable)?;
        let status = answer.status();
        let bytes = Zeroizing::new(answer.into_body().collect().await.map_err(unreachable)?);
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if status.is_success() { Ok(answer) } else { Err(refused(call, status, &answer)) }
    }
}

fn refused(call: String, status: StatusCode, answer: &Value) -> VaultError {
    let errors = answer.get("errors").and_then(Value::as_array).into_iter().flatten();
    let reason: Vec<&str> = errors.filter_map(Value::as_str).map(str::trim).collect();
    VaultError::Refused { call, status: status.as_u16(), reason: reason.join("; ") }
}

// === impl VaultError ===

impl VaultError {
    /// The status that Vault refused with.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// The text at a JSON pointer of an answer to `call`.
pub(crate) fn text<'a>(
    answer: &'a Value,
    pointer: &str,
    call: &str,
    what: &'static str,
) -> Result<&'a str, VaultError> {
    let found = answer.pointer(pointer).and_then(Value::as_str);
    found.ok_or_else(|| VaultError::Incomplete { call: call.to_owned(), what })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_errors_of_vault_are_in_the_message() {
        let error = refused("POST x".into(), StatusCode::FORBIDDEN, &json!({"errors": ["1 error occurred:\n", "no"]}));
        assert_eq!(error.to_string(), "Vault refuses POST x with 403: 1 error occurred:; no");
        assert_eq!(error.status(), Some(403));
    }

    #[test]
    fn a_missing_value_is_named() {
        let error = text(&json!({"data": {}}), "/data/password", "GET x", "password").unwrap_err();
        assert_eq!(error.to_string(), "Vault's answer to GET x has no password");
    }
}
