//! Where a password is checked, and its hash made: Argon2id, off the async threads.

use std::sync::Arc;

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};
use secrets::Secret;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::normal_form::normal_form;

/// Memory of one hash. OWASP's minimum for Argon2id with two passes.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Whether a password is the right one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordMatch {
    /// It is not.
    Wrong,
    /// It is.
    Right,
    /// It is, but the hash was made of the text as it was typed, before there was a normal form.
    AsTyped {
        /// To be hashed in its place.
        normal: Secret,
    },
}

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

    /// The hash to store for a new password, which is in its normal form.
    pub async fn hash(&self, password: Secret) -> Result<String, HashError> {
        self.run(move || hash_now(password.expose())).await
    }

    /// Whether `password` is the one `stored` was made of. Without `stored` the answer is no and takes as long.
    pub async fn verify(&self, password: Secret, stored: Option<String>) -> Result<PasswordMatch, HashError> {
        let hash = stored.as_deref().unwrap_or(&self.dummy).to_owned();
        let matches = self.run(move || Ok(verify_now(&password, &hash))).await?;
        Ok(if stored.is_some() { matches } else { PasswordMatch::Wrong })
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

fn verify_now(typed: &Secret, stored: &str) -> PasswordMatch {
    // A credential that is no password hash is a machine's; passwords never match it.
    let Ok(hash) = PasswordHash::new(stored) else { return PasswordMatch::Wrong };
    let matches = |password: &Secret| argon2().verify_password(password.expose(), &hash).is_ok();
    match normal_form(typed) {
        Some(normal) if matches(&normal) => PasswordMatch::Right,
        Some(normal) if normal == *typed => PasswordMatch::Wrong,
        Some(normal) if matches(typed) => PasswordMatch::AsTyped { normal },
        None if matches(typed) => PasswordMatch::Right,
        Some(_) | None => PasswordMatch::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_verifies_its_own_password_only() {
        let hasher = Hasher::new(2, 2).unwrap();
        let stored = hasher.hash(Secret::new("only spoons jump")).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        let verdict = async |password: &str, stored: Option<&str>| {
            hasher.verify(Secret::new(password), stored.map(str::to_owned)).await.unwrap()
        };
        assert_eq!(verdict("only spoons jump", Some(&stored)).await, PasswordMatch::Right);
        assert_eq!(verdict("only\u{a0}spoons\u{3000}jump", Some(&stored)).await, PasswordMatch::Right);
        assert_eq!(verdict("only spoons jumP", Some(&stored)).await, PasswordMatch::Wrong);
        assert_eq!(verdict("sha256:00", Some("sha256:00")).await, PasswordMatch::Wrong);
        let dummys = verdict("compared with when there is no user", None).await;
        assert_eq!(dummys, PasswordMatch::Wrong, "not even the dummy's own");
    }

    #[tokio::test]
    async fn a_hash_of_the_text_as_it_was_typed_is_found_out() {
        let hasher = Hasher::new(2, 2).unwrap();
        let (typed, normal) = ("gro\u{308}\u{df}er", "gr\u{f6}\u{df}er");
        let stored = hasher.hash(Secret::new(typed)).await.unwrap();
        let verdict = async |password: &str| hasher.verify(Secret::new(password), Some(stored.clone())).await.unwrap();
        assert_eq!(verdict(typed).await, PasswordMatch::AsTyped { normal: Secret::new(normal) });
        assert_eq!(verdict(normal).await, PasswordMatch::Wrong, "only its own text leads to it");
        let control = hasher.hash(Secret::new("a\tb")).await.unwrap();
        assert_eq!(hasher.verify(Secret::new("a\tb"), Some(control)).await.unwrap(), PasswordMatch::Right);
    }

    #[tokio::test]
    async fn one_more_than_the_queue_holds_is_refused_at_once() {
        let hasher = Hasher::new(1, 1).unwrap();
        let waiting: Vec<_> = (0..3).map(|_| hasher.hash(Secret::new("x"))).collect();
        let outcomes = futures::future::join_all(waiting).await;
        assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Err(HashError::Busy))).count(), 1);
    }
}
