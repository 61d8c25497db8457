//! Renews the files of one service: its certificate, and the password that Vault rotates in the database.

use std::path::PathBuf;
use std::time::Duration;

use metrics::{Unit, counter, describe_counter};
use problem::Chain;
use serde_json::{Map, Value, json};
use telemetry::FailureLog;
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::certificate::renew;
use crate::client::text;
use crate::{Login, Vault, VaultConfig, VaultError};

/// A token is valid for ten minutes; a login costs little.
const TOKEN_AGE_MAX: Duration = Duration::from_secs(5 * 60);
/// After a failure.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How often a password is asked for that is due: Vault looks for passwords to rotate every five seconds.
const DUE_PERIOD: Duration = Duration::from_millis(250);
/// After that long it is late, and asked for less often.
const DUE_MAX: Duration = Duration::from_secs(15);
/// The longest pause, however far away the next renewal is: clocks are set, and roles are changed.
const CHECK_PERIOD: Duration = Duration::from_secs(60);
/// A password that the server has refused for that long, while Vault calls it the present one, is not: the database was restored to a time
/// before it, or Vault was. A rotation under way is over much sooner.
const REFUSED_MAX: Duration = Duration::from_secs(10);
/// Refusals further apart than that are not one.
const REFUSALS_APART_MAX: Duration = Duration::from_secs(5);
/// A lasting outage is logged at most that often.
const REPORT_PERIOD: Duration = Duration::from_secs(60);

const RENEWALS: &str = "ml_vault_renewals_total";

/// Renews what a service has from Vault. Cannot be printed, like its session.
pub struct Agent {
    config: VaultConfig,
    directory: PathBuf,
    session: Option<VaultSession>,
    certificate: Option<Lifetime>,
    /// The names in it.
    names: Option<Map<String, Value>>,
    password: Option<Password>,
    refused: Option<Refusals>,
}

/// Refusals of a password, one soon after the other.
#[derive(Debug, Clone, Copy)]
struct Refusals {
    first: Instant,
    last: Instant,
}

struct VaultSession {
    vault: Vault,
    token: String,
    login: Login,
    since: Instant,
}

/// From when to when a certificate is valid.
#[derive(Debug, Clone, Copy)]
struct Lifetime {
    since: OffsetDateTime,
    until: OffsetDateTime,
}

#[derive(Debug)]
struct Password {
    /// Tells one rotation from the next.
    rotated_at: String,
    /// When Vault will rotate it, or when that is checked again.
    due: Instant,
}

// === impl Agent ===

impl Agent {
    /// For the identity in `directory`.
    pub fn new(config: VaultConfig, directory: PathBuf) -> Self {
        describe_counter!(RENEWALS, Unit::Count, "Certificates and database passwords taken from Vault.");
        for what in ["certificate", "database_password"] {
            counter!(RENEWALS, "what" => what).increment(0);
        }
        Self { config, directory, session: None, certificate: None, names: None, password: None, refused: None }
    }

    /// Tries until every file is written, and calls `report` with the cause of a failure, at most once a minute.
    pub async fn fetch_all(&mut self, mut report: impl FnMut(&VaultError)) {
        let mut failures = FailureLog::repeating(REPORT_PERIOD);
        while let Err(error) = self.renew_due().await {
            if failures.failed() {
                report(&error);
            }
            self.session = None;
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Renews until stopped.
    pub async fn renew_until(mut self, stop: CancellationToken) {
        let mut failures = FailureLog::repeating(REPORT_PERIOD);
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                () = rejected_after(DUE_PERIOD) => self.mark_password_due(),
            }
            pause = match self.renew_due().await {
                Ok(pause) => {
                    if failures.recovered() {
                        tracing::info!("Vault answers again");
                    }
                    pause
                }
                Err(error) => {
                    self.session = None;
                    if failures.failed() {
                        tracing::warn!(error = %Chain(&error), "Vault cannot be used: certificate and database password are not renewed and stay until they expire; tried again each second");
                    }
                    RETRY_AFTER
                }
            };
        }
    }

    /// The server rejected the password, whenever Vault said that it rotates.
    fn mark_password_due(&mut self) {
        self.refused = Some(Refusals::and_now(self.refused, Instant::now()));
        if let Some(password) = &mut self.password {
            password.due = password.due.min(Instant::now());
        }
    }

    /// Renews what is due. Returns the time until something is due again.
    async fn renew_due(&mut self) -> Result<Duration, VaultError> {
        let now = OffsetDateTime::now_utc();
        let has_other_names = self.has_other_names();
        if has_other_names {
            // Vault signs the names that it was told with the login.
            self.session = None;
        }
        let wants_certificate = has_other_names || self.certificate.is_none_or(|lifetime| lifetime.is_half_over(now));
        let wants_password = self.config.database_role.is_some()
            && self.password.as_ref().is_none_or(|password| password.due <= Instant::now());
        if wants_certificate {
            let session = self.session().await?;
            let (vault, token, login) = (session.vault.clone(), session.token.clone(), session.login.clone());
            let until = renew(&vault, &token, &login, &self.config.ca_file, &self.directory).await?;
            self.certificate = Some(Lifetime { since: now, until });
            self.names = Some(login.names());
            counter!(RENEWALS, "what" => "certificate").increment(1);
        }
        let mut pause = CHECK_PERIOD;
        if wants_password {
            pause = pause.min(self.fetch_password().await?);
        } else if let Some(password) = &self.password {
            pause = pause.min(password.due.saturating_duration_since(Instant::now()));
        }
        let half = self.certificate.map_or(CHECK_PERIOD, |lifetime| lifetime.until_half(OffsetDateTime::now_utc()));
        Ok(pause.min(half).max(Duration::from_millis(10)))
    }

    /// Whether the login file, which is written anew when an operator gives the front other names, no longer has those of the
    /// certificate. One that cannot be read at the moment tells nothing; a login will.
    fn has_other_names(&self) -> bool {
        let login = self.names.as_ref().and_then(|names| Some((names, self.config.login().ok()?)));
        login.is_some_and(|(names, login)| login.names() != *names)
    }

    /// Writes the password as it is now. Returns when to ask again.
    async fn fetch_password(&mut self) -> Result<Duration, VaultError> {
        let (Some(role), Some(file)) = (self.config.database_role.clone(), self.config.database_password_file.clone())
        else {
            return Ok(CHECK_PERIOD);
        };
        let path = format!("database/static-creds/{role}");
        let session = self.session().await?;
        let answer = session.vault.get(&session.token, &path).await?;
        let call = format!("GET {path}");
        let password = text(&answer, "/data/password", &call, "password")?;
        let rotated_at = text(&answer, "/data/last_vault_rotation", &call, "time of rotation")?;
        let left = Duration::from_secs(answer.pointer("/data/ttl").and_then(Value::as_u64).unwrap_or(0));
        if self.password.as_ref().is_none_or(|known| known.rotated_at != rotated_at) {
            secrets::replace_file(&file, password.as_bytes(), 0o600, None)?;
            counter!(RENEWALS, "what" => "database_password").increment(1);
            self.password =
                Some(Password { rotated_at: rotated_at.to_owned(), due: Instant::now() + left.min(CHECK_PERIOD) });
            self.refused = None;
            return Ok(left.max(DUE_PERIOD));
        }
        if self.refused.is_some_and(|refused| refused.are_lasting(Instant::now())) {
            self.refused = None;
            tracing::warn!(
                role,
                "the database refuses the password that Vault has for it, so Vault makes a new one: was the database restored?"
            );
            let session = self.session().await?;
            session.vault.post(&session.token, &format!("database/rotate-role/{role}"), &json!({})).await?;
            return Ok(DUE_PERIOD);
        }
        let Some(known) = &mut self.password else { return Ok(CHECK_PERIOD) };
        if left > Duration::ZERO {
            known.due = Instant::now() + left.min(CHECK_PERIOD);
            return Ok(left);
        }
        let is_late = known.due.elapsed() > DUE_MAX;
        Ok(if is_late { RETRY_AFTER } else { DUE_PERIOD })
    }

    async fn session(&mut self) -> Result<&VaultSession, VaultError> {
        let is_fresh = self.session.as_ref().is_some_and(|session| session.since.elapsed() < TOKEN_AGE_MAX);
        if !is_fresh {
            self.session = None;
        }
        match &mut self.session {
            Some(session) => Ok(session),
            empty => Ok(empty.insert(log_in(&self.config).await?)),
        }
    }
}

/// Resolves when the password was rejected. Not sooner than `pause`: the database pool signals twenty times a second while it
/// waits for a new one, and Vault is to be asked less often.
async fn rejected_after(pause: Duration) {
    tokio::time::sleep(pause).await;
    secrets::rejection_signal().notified().await;
}

async fn log_in(config: &VaultConfig) -> Result<VaultSession, VaultError> {
    let login = config.login()?;
    let vault = Vault::new(&config.address, &config.ca_file)?;
    let path = "auth/approle/login";
    let answer = vault.post("", path, &json!({ "role_id": login.role_id, "secret_id": login.secret_id })).await?;
    let token = text(&answer, "/auth/client_token", "POST auth/approle/login", "token")?.to_owned();
    Ok(VaultSession { vault, token, login, since: Instant::now() })
}

// === impl Refusals ===

impl Refusals {
    /// The same and one more at `now`, or that one alone.
    fn and_now(before: Option<Self>, now: Instant) -> Self {
        match before {
            Some(before) if now - before.last <= REFUSALS_APART_MAX => Self { last: now, ..before },
            _ => Self { first: now, last: now },
        }
    }

    fn are_lasting(self, now: Instant) -> bool {
        now - self.last <= REFUSALS_APART_MAX && now - self.first >= REFUSED_MAX
    }
}

// === impl Lifetime ===

impl Lifetime {
    fn half(self) -> OffsetDateTime {
        self.since + (self.until - self.since) / 2
    }

    fn is_half_over(self, now: OffsetDateTime) -> bool {
        now >= self.half()
    }

    fn until_half(self, now: OffsetDateTime) -> Duration {
        Duration::try_from(self.half() - now).unwrap_or(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_at_half_of_its_life() {
        let since = OffsetDateTime::UNIX_EPOCH;
        let lifetime = Lifetime { since, until: since + time::Duration::hours(24) };
        assert!(!lifetime.is_half_over(since + time::Duration::hours(11)));
        assert!(lifetime.is_half_over(since + time::Duration::hours(12)));
        assert_eq!(lifetime.until_half(since), Duration::from_secs(12 * 3600));
        assert_eq!(lifetime.until_half(since + time::Duration::hours(13)), Duration::ZERO);
    }

    #[test]
    fn a_password_is_refused_for_good_when_refusals_go_on() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut refusals = None;
        for seconds in 0..10 {
            refusals = Some(Refusals::and_now(refusals, at(seconds)));
            assert!(!refusals.unwrap().are_lasting(at(seconds)), "after {seconds} s");
        }
        let lasting = Refusals::and_now(refusals, at(10));
        assert!(lasting.are_lasting(at(10)));
        assert!(!lasting.are_lasting(at(16)), "the last one is long over");
        assert!(!Refusals::and_now(Some(lasting), at(16)).are_lasting(at(16)), "another one begins");
    }

    #[test]
    fn a_login_with_other_names_asks_for_another_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("login.json");
        let write = |names: &[&str]| {
            let login = Login { dns_names: names.iter().map(|name| (*name).to_owned()).collect(), ..Login::default() };
            secrets::replace_file(&file, &serde_json::to_vec(&login).unwrap(), 0o600, None).unwrap();
            login.names()
        };
        let before = write(&["localhost"]);
        let config = VaultConfig {
            address: "https://127.0.0.1:1".into(),
            ca_file: folder.path().join("ca.pem"),
            login_file: secrets::SecretFile::new(&file),
            database_role: None,
            database_password_file: None,
        };
        let mut agent = Agent::new(config, folder.path().to_owned());
        assert!(!agent.has_other_names(), "there is no certificate yet");
        agent.names = Some(before);
        assert!(!agent.has_other_names());
        write(&["localhost", "ml.example.org"]);
        assert!(agent.has_other_names());
        std::fs::remove_file(&file).unwrap();
        assert!(!agent.has_other_names());
    }

    /// Without a login file the agent waits for it, and reports that once.
    #[tokio::test]
    async fn a_missing_login_is_reported_once_and_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let config = VaultConfig {
            address: "https://127.0.0.1:1".into(),
            ca_file: folder.path().join("ca.pem"),
            login_file: secrets::SecretFile::new(folder.path().join("login.json")),
            database_role: None,
            database_password_file: None,
        };
        let mut agent = Agent::new(config, folder.path().to_owned());
        let mut reports = Vec::new();
        let waited =
            tokio::time::timeout(Duration::from_millis(2500), agent.fetch_all(|error| reports.push(error.to_string())));
        assert!(waited.await.is_err());
        assert_eq!(reports, ["no login for Vault"]);
    }
}
