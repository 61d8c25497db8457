//! The first admin, one account per role, and access tokens in files that are kept fresh.
//!
//! Tokens live ten minutes. So that a trial of the platform needs no login for every `curl`, the supervisor holds the
//! accounts' secrets (files, 0600) and writes a new token every few minutes.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context as _;
use http::{Method, StatusCode};
use secrets::{make_folder, replace_file};
use serde_json::{Value, json};
use topology::name;

use crate::{access_folder::AccessFolder, api_path::ApiPath, client::Client, say};

/// Every role but the admin's: each gets an account of `rampart dev`.
pub const ALL_ROLES: [&str; 6] = ["viewer", "analyst", "engineer", "operator", "auditor", "privacy_officer"];
/// The name of the first admin, and its role.
pub const ADMIN: &str = "admin";
const TOKEN_PERIOD: Duration = Duration::from_secs(4 * 60);
/// The first pause after a token could not be had; each next one is twice as long, up to [`TOKEN_PERIOD`].
const RETRY_PERIOD: Duration = Duration::from_secs(5);

/// The accounts that were made at the first start, with the grants to log in as each.
pub struct Accounts {
    grants: Vec<(&'static str, Value)>,
}

// === impl Accounts ===

impl Accounts {
    /// Makes the accounts at the first start, finds them at later ones, and writes a token for each.
    pub async fn open(folder: &AccessFolder, client: &Client, roles: &[&'static str]) -> anyhow::Result<Self> {
        let password = read(&folder.secret(name::OPERATOR, "admin-password"))?;
        let admin = json!({ "grant_type": "password", "username": ADMIN, "password": password });
        let (there, missing): (Vec<_>, Vec<_>) =
            roles.iter().copied().partition(|role| client_secret(folder, role).exists());
        if !missing.is_empty()
            && let Err(error) = bootstrap(folder, client, &password, &missing).await
        {
            // The password may have been changed since the others were made, which go on.
            if there.is_empty() {
                return Err(error);
            }
            say(&format!("no account for {}: {error:#}; {}", missing.join(", "), remedy(ADMIN)));
        }
        let mut grants = vec![(ADMIN, admin)];
        for role in roles.iter().copied().filter(|role| client_secret(folder, role).exists()) {
            let secret = read(&client_secret(folder, role))?;
            let grant =
                json!({ "grant_type": "client_credentials", "client_id": account(role), "client_secret": secret });
            grants.push((role, grant));
        }
        let accounts = Self { grants };
        let failed = accounts.write_tokens(folder, client).await?;
        for (role, error) in &failed {
            say(&format!("no token for {role}: {error:#}; {}", remedy(role)));
        }
        Ok(accounts)
    }

    /// Writes new tokens every few minutes, without end. While one cannot be had, it tries again after a pause that grows; the others are
    /// renewed.
    pub async fn keep_fresh(&self, folder: &AccessFolder, client: &Client) -> anyhow::Result<()> {
        let (mut wait, mut pause) = (TOKEN_PERIOD, RETRY_PERIOD);
        loop {
            tokio::time::sleep(wait).await;
            let failed = self.write_tokens(folder, client).await?;
            if failed.is_empty() {
                (wait, pause) = (TOKEN_PERIOD, RETRY_PERIOD);
                continue;
            }
            for (role, error) in &failed {
                say(&format!("the token for {role} is not renewed yet, next try in {} s: {error:#}", pause.as_secs()));
            }
            wait = pause;
            pause = (pause * 2).min(TOKEN_PERIOD);
        }
    }

    /// Writes every token that can be had; the others with why not. Fails when a file cannot be written.
    async fn write_tokens(
        &self,
        folder: &AccessFolder,
        client: &Client,
    ) -> anyhow::Result<Vec<(&'static str, anyhow::Error)>> {
        let mut failed = Vec::new();
        for (role, grant) in &self.grants {
            match client.token(grant).await {
                Ok(token) => {
                    replace_file(&folder.token(role), token.as_bytes(), 0o600, None)?;
                    let header = format!("Authorization: Bearer {token}\n");
                    replace_file(&folder.header(role), header.as_bytes(), 0o600, None)?;
                }
                Err(error) => failed.push((*role, error)),
            }
        }
        Ok(failed)
    }
}

/// Exchanges the one-time token for the first admin, which then makes an account for each role.
async fn bootstrap(folder: &AccessFolder, client: &Client, password: &str, roles: &[&str]) -> anyhow::Result<()> {
    let bootstrap_token = read(&folder.secret(name::GATEWAY, "bootstrap-token"))?;
    let grant = json!({ "grant_type": "bootstrap", "bootstrap_token": bootstrap_token, "username": ADMIN, "password": password });
    let admin = match client.token(&grant).await {
        Ok(token) => token,
        // An earlier start was interrupted after it had made the first admin, with the same password.
        Err(_) => client.token(&json!({ "grant_type": "password", "username": ADMIN, "password": password })).await?,
    };
    make_folder(&folder.secrets().join(name::OPERATOR), 0o700)?;
    for role in roles {
        let body = open_account(client, &admin, role).await?;
        let secret = body.get("client_secret").and_then(Value::as_str).context("the answer has no client_secret")?;
        replace_file(&client_secret(folder, role), secret.as_bytes(), 0o600, None)?;
    }
    Ok(())
}

/// Makes the account, or gives the one that an interrupted start left behind a new secret.
async fn open_account(client: &Client, admin: &str, role: &str) -> anyhow::Result<Value> {
    let (name, path) = (account(role), "/api/admin/users");
    let user = json!({ "name": name, "kind": "machine", "tenant": "default", "roles": [role] });
    let answer = client.call(Method::POST, path, Some(admin), Some(&user)).await?;
    if answer.status != StatusCode::CONFLICT {
        return answer.expect_success(&format!("making the account {name}"));
    }
    let listed = client.call(Method::GET, path, Some(admin), None).await?.expect_success("listing the accounts")?;
    let users = listed.get("users").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let existing = users.iter().find(|user| user.get("name").and_then(Value::as_str) == Some(&name));
    let id = existing.and_then(|user| user.get("id")?.as_str()).with_context(|| format!("{name} is not listed"))?;
    let change = json!({ "new_client_secret": true });
    let path = ApiPath::from(path).segment(id)?;
    let answer = client.call(Method::PATCH, path, Some(admin), Some(&change)).await?;
    answer.expect_success(&format!("giving {name} a new secret"))
}

/// What to do about an account that was changed after its secret was written here.
fn remedy(role: &str) -> String {
    if role == ADMIN {
        "if the password was changed, write the new one into the file secrets/operator/admin-password".to_owned()
    } else {
        let account = account(role);
        format!(
            "if the account {account} was removed or has another secret, remove secrets/operator/{role}-client-secret, and the next start makes \
             it anew"
        )
    }
}

fn client_secret(folder: &AccessFolder, role: &str) -> PathBuf {
    folder.secret(name::OPERATOR, &format!("{role}-client-secret"))
}

fn account(role: &str) -> String {
    format!("example-{}", role.replace('_', "-"))
}

fn read(path: &std::path::Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
