//! Keeps the keys that passports are verified with up to date: from any gateway, every 30 s and when an unknown one shows.

use std::sync::Arc;
use std::time::Duration;

use authz::PassportKeys;
use problem::Chain;
use proto::auth::v1::PassportKeysRequest;
use proto::auth::v1::authorization_client::AuthorizationClient;
use tokio::time::{sleep, timeout};
use transport::Channel;

use crate::{BoxError, Latch, Lifecycle};

const REFRESH_INTERVAL: Duration = Duration::from_secs(30);

/// However many unknown keys show: anybody can make one up, and must not make us ask more often than this.
const ASK_INTERVAL_MIN: Duration = Duration::from_secs(5);

/// While there is no key at all, and so nobody can be served.
const FIRST_RETRY: Duration = Duration::from_millis(200);

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
    let mut client = AuthorizationClient::new(gateway);
    while let Err(error) = fetch(&mut client, keys).await {
        // Expected while the gateway is starting too; readiness says that we wait for it.
        tracing::info!(error = %Chain(error.as_ref()), "no passport keys yet");
        sleep(FIRST_RETRY).await;
    }
    latch.open();
    let mut is_reachable = true;
    loop {
        sleep(ASK_INTERVAL_MIN).await;
        if is_reachable {
            // Whichever comes first; what showed during the sleep above is not lost.
            let _unknown_or_time = timeout(REFRESH_INTERVAL - ASK_INTERVAL_MIN, keys.unknown_kid()).await;
        }
        is_reachable = match fetch(&mut client, keys).await {
            Ok(()) => {
                if !is_reachable {
                    tracing::info!("passport keys are current again");
                }
                true
            }
            Err(error) => {
                let error = Chain(error.as_ref());
                if is_reachable {
                    tracing::warn!(%error, "passport keys could not be refreshed, the present ones stay");
                }
                false
            }
        };
    }
}

async fn fetch(client: &mut AuthorizationClient<Channel>, keys: &PassportKeys) -> Result<(), BoxError> {
    let answer = timeout(CALL_TIMEOUT, client.passport_keys(PassportKeysRequest {})).await??;
    keys.replace(&answer.into_inner().jwks)?;
    Ok(())
}
