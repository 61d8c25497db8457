//! Using new files while the process runs.
//!
//! A renewal replaces several files one after the other, so a read may see some old and some new ones. Therefore refused files
//! are checked once more before they are reported: only what stays wrong is, and only once.

use std::{path::Path, sync::Arc, time::Duration};

use rustls_pki_types::CertificateDer;
use sha256::Sha256Digest;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{
    Identity, IdentityError,
    material::{IdentityFiles, VerifiedFiles},
    metrics,
};

const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Files that did not pass, and whether that was reported.
struct RefusedFiles {
    digest: Option<Sha256Digest>,
    reported: bool,
}

impl Identity {
    /// Reads the files twice a second until stopped, and uses what passes verification.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refused = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let identity = self.clone();
            // Reading and verifying takes about a millisecond, and the directory may be a slow volume.
            let checked = tokio::task::spawn_blocking(move || identity.check_files(refused)).await;
            refused = checked.unwrap_or_else(|error| {
                tracing::error!(%error, "the task that reads certificate files panicked; the certificate in use stays, read again in half a second");
                None
            });
            // Also without a change: a recorder that was installed after the start would miss the first values.
            metrics::set_validity(&self.material.load());
        }
    }

    fn check_files(&self, refused: Option<RefusedFiles>) -> Option<RefusedFiles> {
        let current = self.material.load();
        let (digest, verified) = read_and_verify(&self.directory, &current.digest);
        match verified {
            Ok(None) => None,
            Ok(Some(material)) if material.name == self.name => {
                self.use_files(material, &current.roots);
                None
            }
            Ok(Some(material)) => {
                let error =
                    IdentityError::OtherName { expected: self.name.to_string(), found: material.name.to_string() };
                Some(self.report_refusal(digest, &error, refused))
            }
            Err(error) => Some(self.report_refusal(digest, &error, refused)),
        }
    }

    fn use_files(&self, material: VerifiedFiles, roots_before: &[CertificateDer<'static>]) {
        let trust_changed = material.roots != roots_before;
        let not_after = material.not_after;
        self.material.store(Arc::new(material));
        self.generation.send_modify(|generation| {
            generation.reload += 1;
            generation.trust += u64::from(trust_changed);
        });
        // Before it is counted: a reader that has seen the count finds the new times.
        metrics::set_validity(&self.material.load());
        metrics::count_reload();
        tracing::info!(identity = %self.name, %not_after, trust_changed, "new certificate files are in use");
    }

    fn report_refusal(
        &self,
        digest: Option<Sha256Digest>,
        error: &IdentityError,
        before: Option<RefusedFiles>,
    ) -> RefusedFiles {
        let Some(before) = before.filter(|before| before.digest == digest) else {
            return RefusedFiles { digest, reported: false };
        };
        if !before.reported {
            metrics::count_failure();
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::warn!(identity = %self.name, %error, cause, "new certificate files are refused, the old ones stay in use");
        }
        RefusedFiles { digest, reported: true }
    }
}

/// `Ok(None)` if the files are those in use. The digest is missing if they could not be read.
fn read_and_verify(
    directory: &Path,
    current: &Sha256Digest,
) -> (Option<Sha256Digest>, Result<Option<VerifiedFiles>, IdentityError>) {
    let files = match IdentityFiles::read(directory) {
        Ok(files) => files,
        Err(error) => return (None, Err(error)),
    };
    let digest = files.digest();
    if digest == *current {
        return (Some(digest), Ok(None));
    }
    (Some(digest), VerifiedFiles::verify(directory, files).map(Some))
}
