//! The file with the front certificate that the platform's owner brings: it may come, change and go while the process runs.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use secrets::{SecretError, SecretFile};
use sha256::Sha256Digest;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{FrontCertificate, Identity, metrics};

const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Always the newest certificate of the file that passed.
#[derive(Debug)]
pub struct FrontCertificateFile {
    file: SecretFile,
    current: ArcSwapOption<Used>,
}

#[derive(Debug)]
struct Used {
    digest: Sha256Digest,
    certificate: FrontCertificate,
}

/// Presents the owner's certificate to clients that ask for one of its names, and the identity's to all others.
#[derive(Debug)]
pub(crate) struct FrontCertResolver {
    pub(crate) identity: Arc<Identity>,
    pub(crate) own: Option<Arc<FrontCertificateFile>>,
}

// === impl FrontCertificateFile ===

impl FrontCertificateFile {
    /// Reads it once; it need not be there. One that is no good is reported, and not used.
    pub fn open(path: PathBuf) -> Arc<Self> {
        let file = Self { file: SecretFile::new(path), current: ArcSwapOption::empty() };
        file.check(None);
        Arc::new(file)
    }

    /// Reads it twice a second until stopped. What is no good changes nothing.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reported = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let file = Arc::clone(&self);
            let checked = tokio::task::spawn_blocking(move || file.check(reported)).await;
            reported = checked.unwrap_or_else(|error| {
                tracing::error!(%error, "the task that reads the front's certificate panicked; the certificate in use stays, read again in half a second");
                None
            });
        }
    }

    /// Takes a change into use. Returns what is wrong with the file, which is logged when it is not what was wrong before.
    fn check(&self, before: Option<String>) -> Option<String> {
        let current = self.current.load();
        let content = match self.file.read() {
            Ok(content) => content,
            Err(SecretError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                if current.is_some() {
                    self.current.store(None);
                    metrics::set_front_not_after(None);
                    tracing::info!(file = %self.file.path().display(), "the front has no certificate of its owner any more");
                }
                return None;
            }
            Err(error) => return Some(self.refuse(error.to_string(), before.as_ref())),
        };
        let digest = Sha256Digest::of(content.expose());
        if current.as_ref().is_some_and(|used| used.digest == digest) {
            return None;
        }
        match FrontCertificate::from_pem(content.expose()) {
            Ok(certificate) => {
                tracing::info!(names = ?certificate.names(), not_after = %certificate.not_after(), "the front uses a new certificate of its owner");
                metrics::set_front_not_after(Some(certificate.not_after()));
                self.current.store(Some(Arc::new(Used { digest, certificate })));
                None
            }
            Err(error) => Some(self.refuse(error.to_string(), before.as_ref())),
        }
    }

    fn refuse(&self, error: String, before: Option<&String>) -> String {
        if before != Some(&error) {
            tracing::warn!(file = %self.file.path().display(), %error, "the front's certificate of its owner is refused, the one in use stays");
        }
        error
    }

    fn for_host(&self, host: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let used = self.current.load();
        used.as_ref().filter(|used| used.certificate.is_for(host)).map(|used| Arc::clone(&used.certificate.certified))
    }
}

// === impl FrontCertResolver ===

impl ResolvesServerCert for FrontCertResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let own = self.own.as_ref().and_then(|own| own.for_host(hello.server_name()));
        Some(own.unwrap_or_else(|| Arc::clone(&self.identity.material.load().certified)))
    }
}
