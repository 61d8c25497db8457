//! Keeps the keys that passports are verified with up to date: from any gateway, every 30 s and when an unknown one shows.

use std::sync::Arc;
use std::time::Duration;

use authz::PassportKeys;
use backon::{ConstantBuilder, Retryable};
use problem::Chain;
use proto::auth::v1::PassportKeysRequest;
use proto::auth::v1::authorization_client::AuthorizationClient;
use tokio::time::{sleep, timeout};
use transport::Channel;

use crate::{BoxError, Latch, Lifecycle};

const REFRESH_INTERVAL: Duration = Duration::from_secs(30);

/// However many unknown keys show: anybody can make one up, and must not make us ask more often than this.
const ASK_INTERVAL_MIN: Duration = Duration::from_secs(5);

/// A minute's worth of them.
const FAILURES_TO_WARN: u32 = 12;

/// While there is no key at all, no caller can be identified.
const FIRST_RETRIES: ConstantBuilder =
    ConstantBuilder::new().with_delay(Duration::from_millis(200)).without_max_times();

const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Fetches the keys now and for the life of the process; the process is not ready until it has some. When no gateway
/// answers, the keys it has stay good: the gateway only ever signs with keys that were published long before.
pub fn follow(gateway: Channel, keys: Arc<PassportKeys>, lifecycle: &Lifecycle) {
    let latch = lifecycle.latch("passport keys");
    let soft_stop = lifecycle.soft_stop();
    lifecycle.spawn("passport keys", async move {
        let _stopped = soft_stop.run_until_cancelled(refresh(gateway, &keys, latch)).await;
    });
}

async fn refresh(gateway: Channel, keys: &PassportKeys, latch: Latch) {
    let client = AuthorizationClient::new(gateway);
    let first = (|| fetch(&client, keys)).retry(FIRST_RETRIES).notify(|error, _| {
        // Expected while the gateway is starting too; readiness names what is waited for.
        tracing::debug!(error = %Chain(error.as_ref()), "no passport keys yet");
    });
    let _retried_until_there = first.await;
    tracing::info!("passport keys are here");
    latch.open();
    let mut failures = 0_u32;
    loop {
        sleep(ASK_INTERVAL_MIN).await;
        if failures == 0 {
            // Whichever comes first; what showed during the sleep above is not lost.
            let _unknown_or_time = timeout(REFRESH_INTERVAL - ASK_INTERVAL_MIN, keys.wait_for_unknown_key()).await;
        }
        failures = match fetch(&client, keys).await {
            Ok(()) => 0,
            Err(error) => {
                report(failures + 1, error.as_ref());
                failures + 1
            }
        };
    }
}

/// A gateway that restarts is no news; keys that were not renewed for a minute are.
fn report(failures: u32, error: &(dyn std::error::Error + 'static)) {
    let error = Chain(error);
    if failures == FAILURES_TO_WARN {
        tracing::warn!(%error, "passport keys could not be refreshed for a minute, the present ones stay; is a gateway up?");
    } else {
        tracing::debug!(%error, failures, "passport keys not refreshed, the present ones stay");
    }
}

async fn fetch(client: &AuthorizationClient<Channel>, keys: &PassportKeys) -> Result<(), BoxError> {
    let mut client = client.clone();
    let answer = timeout(CALL_TIMEOUT, client.passport_keys(PassportKeysRequest {})).await??;
    keys.replace(&answer.into_inner().jwks)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::Ordering;

    use authz::{PassportClaims, PublicKey, SigningKey, TokenError, generate_pkcs8_pem, jwks_json};
    use identity::{Identity, IdentityConfig};
    use policy::Role;
    use testkit::{FakeGateway, ca::Ca, poll_until};

    use super::*;

    const NOW: u64 = 1_800_000_000;
    const PATIENCE: Duration = Duration::from_secs(20);

    fn issue(ca: &Ca, service: &str, directory: &Path) -> PathBuf {
        let directory = directory.join(service);
        ca.issue(service, &format!("{service}-1"), &directory);
        directory
    }

    fn passport(key: &SigningKey) -> String {
        let (aud, sub, sid, jti) = ("serving".into(), "u".into(), "s".into(), "j".into());
        let (tenant, roles, client_id) = ("t".into(), Role::Viewer.into(), "c".into());
        let (auth_time, iat, nbf, exp) = (NOW, NOW, NOW, NOW + 60);
        key.sign(&PassportClaims {
            aud,
            sub,
            tenant,
            roles,
            client_id,
            sid,
            jti,
            auth_time,
            token_exp: None,
            iat,
            nbf,
            exp,
        })
        .unwrap()
    }

    /// Ready with the first keys, a rotated key within seconds of its first passport, and an answer that is no key set
    /// changes nothing: over mutual TLS, against a server that only lets this call through.
    #[tokio::test(flavor = "multi_thread")]
    async fn keys_are_followed_and_never_lost() {
        identity::install_crypto_providers().unwrap();
        let (ca, directory) = (Ca::new(), tempfile::tempdir().unwrap());
        let keys: [SigningKey; 3] =
            std::array::from_fn(|_| SigningKey::from_pkcs8_pem(&generate_pkcs8_pem().unwrap()).unwrap());
        let public: Vec<PublicKey> = keys.iter().map(|key| key.public().clone()).collect();
        let gateway_identity = issue(&ca, "gateway", directory.path());
        let gateway = FakeGateway::start(&gateway_identity, &["serving"], (Ipv4Addr::LOCALHOST, 0).into());
        // Not a key set: asked again and again, and not ready.
        gateway.publish_keys("");

        let serving = Identity::load(&IdentityConfig { directory: issue(&ca, "serving", directory.path()) }).unwrap();
        let lifecycle = Lifecycle::new(Arc::clone(&serving));
        let known = Arc::new(PassportKeys::default());
        let channel = transport::channel(&serving, "gateway", &[gateway.address.to_string()]);
        follow(channel, Arc::clone(&known), &lifecycle);
        let readiness = lifecycle.readiness();
        assert_eq!(readiness.waits_for(), ["passport keys"]);

        let key_requests = || gateway.state.key_requests.load(Ordering::SeqCst);
        poll_until("asked twice", PATIENCE, async || key_requests() >= 2).await;
        assert!(!readiness.is_ready());
        gateway.publish_keys(jwks_json(&public[..1]));
        poll_until("ready", PATIENCE, async || readiness.is_ready()).await;
        assert!(known.verify(&passport(&keys[0]), "serving", NOW).is_ok());

        gateway.publish_keys(jwks_json(&public[..2]));
        let rotated = passport(&keys[1]);
        assert_eq!(known.verify(&rotated, "serving", NOW), Err(TokenError::UnknownKey));
        poll_until("the new key", PATIENCE, async || known.verify(&rotated, "serving", NOW).is_ok()).await;

        gateway.publish_keys("{}");
        let asked = key_requests();
        assert_eq!(known.verify(&passport(&keys[2]), "serving", NOW), Err(TokenError::UnknownKey));
        poll_until("asked again", PATIENCE, async || key_requests() > asked).await;
        for key in &keys[..2] {
            assert!(known.verify(&passport(key), "serving", NOW).is_ok());
        }
        assert!(lifecycle.stop(tokio_util::sync::CancellationToken::new()).await, "the task ends when told to");
    }
}
