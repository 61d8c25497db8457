//! Brings Vault from an empty volume to one that serves: initialized, unsealed after every restart, configured, and with a
//! fresh login for every container.
//!
//! No root token is stored: when there is work, one is made with the unseal share and revoked afterwards. The one daily task
//! (copying the password of the role `detektor`) has an `AppRole` with few rights.

mod database;
mod logins;
mod mounts;
mod pki;
mod unseal;

use std::time::Duration;

use ::vault::{Vault, VaultError};
use anyhow::Context as _;
use authority::Authority;
use bootstrap::{say, say_error};
use serde_json::json;
use tokio::time::Instant;
use topology::Instance;

use crate::Arguments;

/// A secret id lives for seven days, so six of these may fail.
const LOGIN_PERIOD: Duration = Duration::from_secs(24 * 3600);
/// How soon a sealed Vault is noticed.
const CHECK_PERIOD: Duration = Duration::from_secs(1);
/// After a failure: PostgreSQL may not be there yet.
const RETRY_PERIOD: Duration = Duration::from_secs(3);
/// Docker kills the process ten seconds after SIGTERM.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The same failure is printed at most that often.
const REPORT_PERIOD: Duration = Duration::from_secs(60);

/// Keeps one Vault in the state that the platform needs.
pub(super) struct Reconciler<'a> {
    arguments: &'a Arguments,
    authority: &'a Authority,
    containers: &'a [Instance],
    /// A root token, while there is work.
    root_token: Option<String>,
    logins_renewed: Option<Instant>,
    has_database: bool,
    detektor_password: database::DetektorPassword,
}

// === impl Reconciler ===

impl<'a> Reconciler<'a> {
    pub(super) fn new(arguments: &'a Arguments, authority: &'a Authority, containers: &'a [Instance]) -> Self {
        let detektor_password = database::DetektorPassword::default();
        Self {
            arguments,
            authority,
            containers,
            root_token: None,
            logins_renewed: None,
            has_database: false,
            detektor_password,
        }
    }

    /// Reconciles without end.
    pub(super) async fn run(&mut self) {
        let mut reported: Option<(String, Instant)> = None;
        loop {
            let pause = match self.reconcile().await {
                Ok(()) => {
                    if reported.take().is_some() {
                        say("vault: recovered");
                    }
                    CHECK_PERIOD
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    let is_repeated =
                        reported.as_ref().is_some_and(|(last, at)| *last == text && at.elapsed() < REPORT_PERIOD);
                    if !is_repeated {
                        say_error(&format!("vault: {text}"));
                        reported = Some((text, Instant::now()));
                    }
                    RETRY_PERIOD
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Revokes the root token if there was work under way.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        if self.root_token.is_none() {
            return Ok(());
        }
        let vault = Vault::new(&self.arguments.vault, &self.arguments.certs.join("ca.pem"))?;
        tokio::time::timeout(REVOKE_TIMEOUT, self.revoke_root_token(&vault))
            .await
            .context("Vault did not answer in time")?
    }

    /// One pass: unseal, configure what is due, copy the rotated password.
    async fn reconcile(&mut self) -> anyhow::Result<()> {
        let vault = Vault::new(&self.arguments.vault, &self.arguments.certs.join("ca.pem"))?;
        if let Some(token) = unseal::ensure_unsealed(&vault, self.arguments).await? {
            self.root_token = Some(token);
        }
        let configured = self.configure_if_due(&vault).await;
        // A failure above must not delay the password that people use.
        let copied = self.detektor_password.copy_if_rotated(&vault, self.arguments, self.containers).await;
        configured.and(copied)
    }

    async fn configure_if_due(&mut self, vault: &Vault) -> anyhow::Result<()> {
        let logins_are_due = self.logins_renewed.is_none_or(|at| at.elapsed() >= LOGIN_PERIOD);
        if logins_are_due || !self.has_database {
            let configured = self.configure(vault, logins_are_due).await;
            if configured.as_ref().is_err_and(is_denied) {
                self.root_token = None;
            }
            configured?;
        }
        self.revoke_root_token(vault).await
    }

    async fn configure(&mut self, vault: &Vault, logins_are_due: bool) -> anyhow::Result<()> {
        let token = match &self.root_token {
            Some(token) => token.clone(),
            None => self.root_token.insert(unseal::root_token(vault, self.arguments).await?).clone(),
        };
        if logins_are_due {
            mounts::ensure(vault, &token).await.context("cannot set up the engines")?;
            let (front_names, lifetime) = (&self.arguments.front_names, self.arguments.certificate_lifetime_s);
            pki::ensure(vault, &token, self.authority, self.containers, front_names, lifetime)
                .await
                .context("cannot set up the PKI")?;
            logins::ensure_roles(vault, &token, self.containers, front_names)
                .await
                .context("cannot set up the AppRoles")?;
            logins::renew(vault, &token, self.containers, front_names, &self.arguments.state)
                .await
                .context("cannot renew logins")?;
            self.logins_renewed = Some(Instant::now());
            say("vault: configured, and every container has a fresh login");
        }
        if !self.has_database {
            database::ensure(vault, &token, self.arguments).await.context("cannot set up the database engine")?;
            self.has_database = true;
            say("vault: rotates the passwords of the database");
        }
        Ok(())
    }

    /// A token that people made is left alone. One that could not be revoked stays for the next attempt.
    async fn revoke_root_token(&mut self, vault: &Vault) -> anyhow::Result<()> {
        if let (Some(token), false) = (&self.root_token, self.arguments.unseal_by_people) {
            match vault.post(token, "auth/token/revoke-self", &json!({})).await {
                // It is revoked already.
                Err(error) if error.status() == Some(403) => {}
                revoked => drop(revoked.context("cannot revoke the root token")?),
            }
        }
        self.root_token = None;
        Ok(())
    }
}

fn is_denied(error: &anyhow::Error) -> bool {
    error.downcast_ref::<VaultError>().is_some_and(|error| error.status() == Some(403))
}
