//! A file with an access token and, beside it, the login that renews the token.
//!
//! `rampart login` writes both, for their owner alone. A refresh token is good once: commands that need the next one at the same time wait
//! for each other, and the gateway gives the same successor to those that cannot (another machine with the same home).

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::Read as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail, ensure};
use bootstrap::client::{ApiResponse, Client};
use http::{Method, StatusCode};
use secrets::{SecretError, SecretFile, replace_file};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// How long before its end a token is renewed: a call with it may take a while.
const EARLY: Duration = Duration::from_secs(60);
/// Longer than the call that the holder of the lock makes.
const LOCK_TIMEOUT: Duration = Duration::from_secs(40);
const LOCK_PERIOD: Duration = Duration::from_millis(20);
const TOKEN_BYTES_MAX: u64 = 64 << 10;

/// A file with an access token.
pub(crate) struct TokenFile {
    path: PathBuf,
}

/// What the gateway gave for a grant.
pub(crate) struct Tokens {
    access: String,
    refresh: Option<String>,
    lifetime: Duration,
}

/// The content of the file beside the token's.
#[derive(Deserialize, Serialize)]
struct Login {
    /// Where it is good: a refresh token is sent to no other platform.
    front: String,
    user: String,
    refresh_token: String,
    /// From when on the access token is to be renewed. Seconds since 1970.
    renew_at: u64,
}

// === impl TokenFile ===

impl TokenFile {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The token as it is.
    pub(crate) fn read(&self) -> anyhow::Result<String> {
        let read = || {
            let mut token = String::new();
            File::open(&self.path)?.take(TOKEN_BYTES_MAX).read_to_string(&mut token)?;
            std::io::Result::Ok(token)
        };
        let token = read().with_context(|| format!("cannot read the token in {}", self.path.display()))?;
        Ok(token.trim().to_owned())
    }

    /// The token, renewed first if its end is near and there is a login.
    pub(crate) async fn token(&self, client: &Client) -> anyhow::Result<String> {
        match self.login()? {
            Some(login) if login.is_due(now()) || !self.path.exists() => self.renewed(client, None).await,
            _ => self.read(),
        }
    }

    /// Another token than the one that was refused, if there is a login to have it from.
    pub(crate) async fn other_than(&self, client: &Client, refused: &str) -> anyhow::Result<Option<String>> {
        if self.login()?.is_none() {
            return Ok(None);
        }
        self.renewed(client, Some(refused)).await.map(Some)
    }

    /// Writes the tokens of a new login.
    pub(crate) async fn log_in(&self, client: &Client, user: &str, tokens: &Tokens) -> anyhow::Result<()> {
        let _lock = self.lock().await?;
        self.write(client.front(), user, tokens)
    }

    /// Ends the login at the platform, and removes the files. Returns whose it was.
    pub(crate) async fn log_out(&self, client: &Client) -> anyhow::Result<String> {
        let _lock = self.lock().await?;
        let login = self.login()?;
        let login = login.with_context(|| format!("there is no login in {}", self.login_path().display()))?;
        // The platform ends a login only for its owner, and the present token may have run out.
        let exchanged = login.exchange(client).await?;
        if !is_over(&exchanged) {
            let tokens = Tokens::of(&exchanged.expect_success("renewing the login")?)?;
            self.write(&login.front, &login.user, &tokens)?;
            let end = json!({ "token": tokens.refresh });
            let ended = client.call(Method::POST, "/api/auth/revoke", Some(&tokens.access), Some(&end)).await?;
            ended.expect_success("the end of the login")?;
        }
        for path in [self.login_path(), self.path.clone(), self.beside(".lock")] {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(login.user)
    }

    /// Where the login is.
    pub(crate) fn login_path(&self) -> PathBuf {
        self.beside(".login")
    }

    async fn renewed(&self, client: &Client, refused: Option<&str>) -> anyhow::Result<String> {
        let _lock = self.lock().await?;
        // While this command waited, another may have renewed the token, or logged out.
        let login = self.login()?.context("the login was ended just now")?;
        let is_good = |token: &String| refused.map_or(!login.is_due(now()), |refused| token != refused);
        if let Some(token) = self.read().ok().filter(is_good) {
            return Ok(token);
        }
        let answer = login.exchange(client).await?;
        if is_over(&answer) {
            let path = self.login_path();
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            bail!("the login of {} is over: log in again with `rampart login --user {}`", login.user, login.user);
        }
        let tokens = Tokens::of(&answer.expect_success("renewing the login")?)?;
        self.write(&login.front, &login.user, &tokens)?;
        Ok(tokens.access)
    }

    fn login(&self) -> anyhow::Result<Option<Login>> {
        let path = self.login_path();
        let secret = match SecretFile::new(&path).read() {
            Err(SecretError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            secret => secret?,
        };
        let login = serde_json::from_slice(secret.expose()).ok();
        login.map(Some).with_context(|| format!("{} is no login: remove it and log in again", path.display()))
    }

    /// The login first: without its newest refresh token it would be over.
    fn write(&self, front: &str, user: &str, tokens: &Tokens) -> anyhow::Result<()> {
        if let Some(refresh_token) = &tokens.refresh {
            let renew_at = now() + tokens.lifetime.saturating_sub(EARLY).as_secs();
            let (front, user, refresh_token) = (front.to_owned(), user.to_owned(), refresh_token.clone());
            let login = serde_json::to_vec(&Login { front, user, refresh_token, renew_at })?;
            replace_file(&self.login_path(), &login, 0o600, None)?;
        }
        Ok(replace_file(&self.path, tokens.access.as_bytes(), 0o600, None)?)
    }

    /// Held until it is dropped.
    async fn lock(&self) -> anyhow::Result<File> {
        let path = self.beside(".lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot write {}, so the login cannot be kept", path.display()))?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {
                    ensure!(Instant::now() < deadline, "another rampart has held {} for long", path.display());
                    sleep(LOCK_PERIOD).await;
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(ending);
        name.into()
    }
}

// === impl Login ===

impl Login {
    fn is_due(&self, now: u64) -> bool {
        now >= self.renew_at
    }

    async fn exchange(&self, client: &Client) -> anyhow::Result<ApiResponse> {
        ensure!(
            self.front == client.front(),
            "this is a login at {}, and not at {}: log in there, into another --token-file",
            self.front,
            client.front()
        );
        let grant = json!({ "grant_type": "refresh_token", "refresh_token": self.refresh_token });
        client.call(Method::POST, "/api/auth/token", None, Some(&grant)).await
    }
}

/// Whether the gateway will never take this refresh token again, as opposed to not now.
fn is_over(exchanged: &ApiResponse) -> bool {
    matches!(exchanged.status, StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

// === impl Tokens ===

impl Tokens {
    /// Those of an answer of the token endpoint.
    pub(crate) fn of(answer: &Value) -> anyhow::Result<Self> {
        let text = |name: &str| answer.get(name).and_then(Value::as_str).map(str::to_owned);
        let lifetime = answer.get("expires_in").and_then(Value::as_u64).context("the answer has no expires_in")?;
        Ok(Self {
            access: text("access_token").context("the answer has no access_token")?,
            refresh: text("refresh_token"),
            lifetime: Duration::from_secs(lifetime),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn tokens(expires_in: u64) -> Tokens {
        Tokens::of(&json!({ "access_token": "a", "refresh_token": "r", "expires_in": expires_in })).unwrap()
    }

    #[test]
    fn a_login_is_private_and_due_before_its_token_ends() {
        let folder = tempfile::tempdir().unwrap();
        let file = TokenFile::new(&folder.path().join("token"));
        assert!(file.login().unwrap().is_none());
        file.write("https://front", "ann", &tokens(600)).unwrap();
        let login = file.login().unwrap().unwrap();
        assert!(!login.is_due(now()) && login.is_due(now() + 600 - EARLY.as_secs()));
        assert_eq!(file.read().unwrap(), "a");
        for path in [folder.path().join("token"), file.login_path()] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        file.write("https://front", "ann", &tokens(1)).unwrap();
        assert!(file.login().unwrap().unwrap().is_due(now()), "a token that ends within a minute");
    }

    #[test]
    fn a_login_that_others_can_read_or_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = TokenFile::new(&folder.path().join("token"));
        file.write("https://front", "ann", &tokens(600)).unwrap();
        fs::set_permissions(file.login_path(), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(file.login().err().unwrap().to_string().contains("chmod 600"));
        replace_file(&file.login_path(), b"{}", 0o600, None).unwrap();
        assert!(file.login().err().unwrap().to_string().contains("log in again"));
    }

    #[tokio::test]
    async fn commands_wait_for_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let file = TokenFile::new(&folder.path().join("token"));
        let held = file.lock().await.unwrap();
        let other = file.lock();
        tokio::pin!(other);
        tokio::select! {
            biased;
            _ = &mut other => panic!("two commands have the lock"),
            () = tokio::task::yield_now() => {}
        }
        drop(held);
        other.await.unwrap();
    }
}
