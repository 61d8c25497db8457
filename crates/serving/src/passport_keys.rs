//! The keys that passports are verified with, fetched from the gateways and kept fresh.

use std::{sync::Arc, time::Duration};

use authz::PassportKeys;
use problem::Chain;
use proto::auth::v1::{PassportKeysRequest, authorization_client::AuthorizationClient};
use service::Latch;
use tokio_util::sync::CancellationToken;
use transport::Channel;

/// How old keys may become while the gateways answer.
const REFRESH: Duration = Duration::from_secs(60);
/// Between two tries, also when unknown keys are named all the time: anybody can cause that.
const PAUSE: Duration = Duration::from_millis(500);
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Fetches keys until the stop. The latch opens with the first; until then no passport is believed.
pub(crate) async fn keep(gateways: Channel, keys: Arc<PassportKeys>, latch: Latch, stop: CancellationToken) {
    let mut client = AuthorizationClient::new(gateways);
    let mut latch = Some(latch);
    let work = async {
        loop {
            let is_fresh = fetch(&mut client, &keys).await;
            if is_fresh {
                drop(latch.take());
            }
            tokio::time::sleep(PAUSE).await;
            if is_fresh {
                let _renewed = tokio::time::timeout(REFRESH, keys.unknown_kid()).await;
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

async fn fetch(client: &mut AuthorizationClient<Channel>, keys: &PassportKeys) -> bool {
    match tokio::time::timeout(CALL_TIMEOUT, client.passport_keys(PassportKeysRequest {})).await {
        Ok(Ok(response)) => match keys.replace(&response.into_inner().jwks) {
            Ok(_) => return true,
            Err(error) => tracing::warn!(error = %Chain(&error), "the gateway's passport keys cannot be used"),
        },
        Ok(Err(status)) => tracing::debug!(error = %Chain(&status), "no passport keys"),
        Err(_) => tracing::debug!("no passport keys in time"),
    }
    false
}
