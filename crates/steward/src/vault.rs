//! Vault, from an empty volume to one that serves: initialized, unsealed after every restart, set up, and a fresh login
//! for every container.
//!
//! No token of power is kept: when there is work, a root token is made with the unseal share and revoked after it. What is
//! needed day by day (the password that people use) has a small role of its own.

mod database;
mod logins;
mod mounts;
mod open;
mod pki;

use std::{path::PathBuf, time::Duration};

use ::vault::{Vault, VaultError};
use anyhow::Context as _;
use authority::Authority;
use bootstrap::{say, say_error};
use serde_json::json;
use tokio::time::Instant;

use super::containers::Container;

/// A secret id lives for seven days, so six of these may fail.
const LOGIN_PERIOD: Duration = Duration::from_secs(24 * 3600);
/// How soon a sealed Vault is noticed.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// After a failure: PostgreSQL may not be there yet.
const RETRY_PERIOD: Duration = Duration::from_secs(3);
/// Docker kills ten seconds after it asked us to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// A lasting failure is told at most that often.
const REPORT_PERIOD: Duration = Duration::from_secs(60);

/// What the tender is told.
pub(super) struct Settings {
    /// `https://host:port` of Vault.
    pub(super) address: String,
    /// The folder of the root CA, outside of all volumes: the unseal share lies there, too.
    pub(super) certs: PathBuf,
    /// The folder with a volume for each container.
    pub(super) state: PathBuf,
    /// Whether people initialize and unseal Vault, and give us a token in `certs/vault-token`.
    pub(super) is_strict: bool,
    /// How long the certificates that Vault signs for services live.
    pub(super) certificate_lifetime: Duration,
    /// How often Vault changes the passwords of the database.
    pub(super) rotation_period: Duration,
    /// What Vault's container says of its plugin: `<sha256>  <file>`; a Vault that has it built in has no such file.
    pub(super) plugin_digest: PathBuf,
}

/// Looks after one Vault.
pub(super) struct Tender<'a> {
    settings: &'a Settings,
    authority: &'a Authority,
    containers: &'a [Container],
    /// While there is work to do.
    token: Option<String>,
    logins_renewed: Option<Instant>,
    has_database: bool,
    people: database::PeoplesPassword,
}

// === impl Tender ===

impl<'a> Tender<'a> {
    pub(super) fn new(settings: &'a Settings, authority: &'a Authority, containers: &'a [Container]) -> Self {
        let people = database::PeoplesPassword::default();
        Self { settings, authority, containers, token: None, logins_renewed: None, has_database: false, people }
    }

    /// For as long as the process lives.
    pub(super) async fn run(&mut self) {
        let mut reported: Option<(String, Instant)> = None;
        loop {
            let pause = match self.round().await {
                Ok(()) => {
                    if reported.take().is_some() {
                        say("Vault is as it should be");
                    }
                    LOOK_PERIOD
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    let is_known =
                        reported.as_ref().is_some_and(|(known, at)| *known == text && at.elapsed() < REPORT_PERIOD);
                    if !is_known {
                        say_error(&format!("vault: {text}"));
                        reported = Some((text, Instant::now()));
                    }
                    RETRY_PERIOD
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Leaves no token of power behind that was at work when we were told to end.
    pub(super) async fn end(&mut self) -> anyhow::Result<()> {
        if self.token.is_none() {
            return Ok(());
        }
        let vault = Vault::new(&self.settings.address, &self.settings.certs.join("ca.pem"))?;
        tokio::time::timeout(END_TIMEOUT, self.give_up_token(&vault)).await.context("Vault did not answer in time")?
    }

    /// Brings Vault one step nearer to what it should be.
    async fn round(&mut self) -> anyhow::Result<()> {
        let vault = Vault::new(&self.settings.address, &self.settings.certs.join("ca.pem"))?;
        if let Some(token) = open::ensure_open(&vault, self.settings).await? {
            self.token = Some(token);
        }
        let worked = self.work_if_due(&vault).await;
        // What people use day by day waits for nothing that is due once a day.
        let followed = self.people.follow(&vault, self.settings, self.containers).await;
        worked.and(followed)
    }

    async fn work_if_due(&mut self, vault: &Vault) -> anyhow::Result<()> {
        let logins_are_due = self.logins_renewed.is_none_or(|at| at.elapsed() >= LOGIN_PERIOD);
        if logins_are_due || !self.has_database {
            let worked = self.work(vault, logins_are_due).await;
            if worked.as_ref().is_err_and(is_refused) {
                self.token = None;
            }
            worked?;
        }
        self.give_up_token(vault).await
    }

    async fn work(&mut self, vault: &Vault, logins_are_due: bool) -> anyhow::Result<()> {
        let token = match &self.token {
            Some(token) => token.clone(),
            None => self.token.insert(open::root_token(vault, self.settings).await?).clone(),
        };
        if logins_are_due {
            mounts::ensure(vault, &token).await.context("cannot set up the engines")?;
            let lifetime = self.settings.certificate_lifetime;
            pki::ensure(vault, &token, self.authority, self.containers, lifetime)
                .await
                .context("cannot set up the PKI")?;
            logins::ensure_roles(vault, &token, self.containers).await.context("cannot set up the AppRoles")?;
            logins::renew(vault, &token, self.containers, &self.settings.state).await.context("cannot renew logins")?;
            self.logins_renewed = Some(Instant::now());
            say("Vault is set up, and every container has a fresh login");
        }
        if !self.has_database {
            database::ensure(vault, &token, self.settings).await.context("cannot set up the database engine")?;
            self.has_database = true;
            say("Vault keeps the passwords of the database");
        }
        Ok(())
    }

    /// A token that people gave stays; ours is dead after use. One that could not be revoked is kept, to be tried again.
    async fn give_up_token(&mut self, vault: &Vault) -> anyhow::Result<()> {
        if let (Some(token), false) = (&self.token, self.settings.is_strict) {
            match vault.post(token, "auth/token/revoke-self", &json!({})).await {
                // It is dead already.
                Err(error) if error.status() == Some(403) => {}
                revoked => drop(revoked.context("cannot revoke the root token")?),
            }
        }
        self.token = None;
        Ok(())
    }
}

fn is_refused(error: &anyhow::Error) -> bool {
    error.downcast_ref::<VaultError>().is_some_and(|error| error.status() == Some(403))
}
