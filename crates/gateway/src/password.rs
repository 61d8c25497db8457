//! Passwords of people: what may be one (NIST SP 800-63B: length and a list, no composition rules), and their hashing.

use std::sync::Arc;

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};
use secrets::Secret;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::user::UserName;

/// The shortest password, in characters.
pub const LENGTH_MIN: usize = 15;

/// The longest password, in bytes.
pub const BYTES_MAX: usize = 1_024;

/// Memory of one hash. OWASP's minimum for Argon2id with two passes.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Long passwords that many people chose. The famous short ones are too short anyway.
const COMMON: &str = include_str!("password/common.txt");

const DISTINCT_CHARACTERS_MIN: usize = 5;

/// What must be left of a password without the user's name.
const LENGTH_BESIDE_NAME_MIN: usize = 8;

/// Why a password was refused. Never says anything about the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeakPassword {
    /// Too short.
    #[error("wants at least {LENGTH_MIN} characters")]
    Short,
    /// Too long to be hashed.
    #[error("wants at most {BYTES_MAX} bytes")]
    Long,
    /// Others chose it too, or it is a pattern.
    #[error("is on the list of common passwords or a simple pattern; choose several unrelated words")]
    Common,
    /// The name with something around it.
    #[error("is little more than the user name; choose several unrelated words")]
    Name,
}

/// Why a password could be neither hashed nor compared.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// More sign-ins than this process takes at once.
    #[error("too many passwords wait to be checked")]
    Busy,
    /// Something that cannot happen with sound parameters.
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
    /// Compared with when there is no such user, so that the time tells nothing.
    dummy: Arc<str>,
}

/// Whether `password` may be the password of `name`.
pub fn check(password: &Secret, name: &UserName) -> Result<(), WeakPassword> {
    let Ok(text) = password.expose_str() else { return Err(WeakPassword::Common) };
    if text.len() > BYTES_MAX {
        return Err(WeakPassword::Long);
    }
    if text.chars().count() < LENGTH_MIN {
        return Err(WeakPassword::Short);
    }
    let lower = text.to_lowercase();
    let distinct: std::collections::BTreeSet<char> = lower.chars().collect();
    if distinct.len() < DISTINCT_CHARACTERS_MIN || is_repetition(&lower) || COMMON.lines().any(|line| line == lower) {
        return Err(WeakPassword::Common);
    }
    let beside_name = lower.replace(&name.as_str().to_lowercase(), "").chars().count();
    let has_name = beside_name < lower.chars().count();
    if has_name && beside_name < LENGTH_BESIDE_NAME_MIN {
        return Err(WeakPassword::Name);
    }
    Ok(())
}

/// Whether the text is one part, at most half of it, over and over.
fn is_repetition(text: &str) -> bool {
    let characters: Vec<char> = text.chars().collect();
    (1..=characters.len() / 2).any(|period| characters.iter().zip(characters.iter().skip(period)).all(|(a, b)| a == b))
}

// === impl Hasher ===

impl Hasher {
    /// Hashes `concurrency` passwords at once and lets `queue` more wait.
    pub fn new(concurrency: usize, queue: usize) -> Result<Self, HashError> {
        let dummy = hash_now(b"nobody has this password")?;
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
        // The permits go with the work: a caller that hangs up frees its place only when the hash is done.
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

    fn verdict(password: &str) -> Result<(), WeakPassword> {
        check(&Secret::new(password), &"ada.lovelace".parse().unwrap())
    }

    #[test]
    fn length_and_unpredictability_are_all_that_is_asked() {
        assert_eq!(verdict("only spoons jump"), Ok(()));
        assert_eq!(verdict("größe über alles"), Ok(()), "characters count, not bytes");
        assert_eq!(verdict(&"x1".repeat(7)), Err(WeakPassword::Short));
        assert_eq!(verdict("fourteen chars"), Err(WeakPassword::Short));
        assert_eq!(verdict(&format!("{}b", "ancdefgkl7".repeat(103))), Err(WeakPassword::Long));
        for common in ["passwordpassword", "PasswordPassword", "aaaaaaaaaaaaaaaaaaab", "correcthorsebatterystaple"] {
            assert_eq!(verdict(common), Err(WeakPassword::Common), "{common}");
        }
        assert_eq!(verdict("xAda.Lovelace99"), Err(WeakPassword::Name));
    }

    #[test]
    fn the_common_list_is_in_the_form_it_is_compared_in() {
        for line in COMMON.lines() {
            assert!(line.chars().count() >= LENGTH_MIN, "{line}: too short to ever matter");
            assert_eq!(line, line.to_lowercase());
        }
    }

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
            !hasher.verify(Secret::new("nobody has this password"), None).await.unwrap(),
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
