//! Where a password is checked, and its hash made: Argon2id, off the async threads.

use std::sync::Arc;

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};
use secrets::Secret;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Memory of one hash. OWASP's minimum for Argon2id with two passes.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Why a password could be neither hashed nor compared.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// More sign-ins than this process takes at once.
    #[error("too many passwords wait to be checked")]
    Busy,
    /// The hash failed, which valid parameters exclude.
    #[error("password hash")]
    Hash(#[source] argon2::password_hash::Error),
    /// The process is stopping.
    #[error("password hashing was cut short")]
    Stopped,
}

/// Hashes passwords off the async threads, a few at a time: each takes 19 MiB and tens of milliseconds on purpose,
/// which would otherwise make signing in a way to stop everything else.
#[derive(Clone, Debug)]
pub struct Hasher {
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
    /// Compared with when there is no such user, so that the time is the same.
    dummy: Arc<str>,
}

// === impl Hasher ===

impl Hasher {
    /// Hashes `concurrency` passwords at once and lets `queue` more wait.
    pub fn new(concurrency: usize, queue: usize) -> Result<Self, HashError> {
        let dummy = hash_now(b"compared with when there is no user")?;
        Ok(Self {
            running: Arc::new(Semaphore::new(concurrency)),
            admitted: Arc::new(Semaphore::new(concurrency + queue)),
            dummy: dummy.into(),
        })
    }

    /// The hash to store for a new password.
    pub async fn hash(&self, password: Secret) -> Result<String, HashError> {
        self.run(move || hash_now(password.expose())).await
    }

    /// Whether `password` is the one `stored` was made of. Without `stored` the answer is no and takes as long.
    pub async fn verify(&self, password: Secret, stored: Option<String>) -> Result<bool, HashError> {
        let hash = stored.as_deref().unwrap_or(&self.dummy).to_owned();
        let matches = self.run(move || verify_now(password.expose(), &hash)).await?;
        Ok(matches && stored.is_some())
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, HashError> + Send + 'static,
    ) -> Result<T, HashError> {
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| HashError::Busy)?;
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_: AcquireError| HashError::Stopped)?;
        // The permits move into the work: a caller that disconnects frees its place only when the hash is done.
        let permits: (OwnedSemaphorePermit, OwnedSemaphorePermit) = (admitted, running);
        let work = move || {
            let _permits = permits;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| HashError::Stopped)?
    }
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("the constants are within Argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn hash_now(password: &[u8]) -> Result<String, HashError> {
    argon2().hash_password(password).map(|hash| hash.to_string()).map_err(HashError::Hash)
}

fn verify_now(password: &[u8], stored: &str) -> Result<bool, HashError> {
    // A credential that is no password hash is a machine's; passwords never match it.
    let Ok(hash) = PasswordHash::new(stored) else { return Ok(false) };
    Ok(argon2().verify_password(password, &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_verifies_its_own_password_only() {
        let hasher = Hasher::new(2, 2).unwrap();
        let stored = hasher.hash(Secret::new("only spoons jump")).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert!(hasher.verify(Secret::new("only spoons jump"), Some(stored.clone())).await.unwrap());
        assert!(!hasher.verify(Secret::new("only spoons jumP"), Some(stored)).await.unwrap());
        let machine = Some("sha256:00".to_owned());
        assert!(!hasher.verify(Secret::new("sha256:00"), machine).await.unwrap());
        assert!(
            !hasher.verify(Secret::new("compared with when there is no user"), None).await.unwrap(),
            "not even the dummy's own"
        );
    }

    #[tokio::test]
    async fn one_more_than_the_queue_holds_is_refused_at_once() {
        let hasher = Hasher::new(1, 1).unwrap();
        let waiting: Vec<_> = (0..3).map(|_| hasher.hash(Secret::new("x"))).collect();
        let outcomes = futures::future::join_all(waiting).await;
        assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Err(HashError::Busy))).count(), 1);
    }
}
