//! The revocation stream of every gateway, followed for as long as the process lives.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};

use super::{
    Access,
    gateways::Client,
    revocation_log::{FINAL, Revocation, Revoked},
};
use crate::metrics::revocation_stream_up;
use proto::auth::v1::{WatchRevocationsRequest, WatchRevocationsResponse, watch_revocations_response::Event};
use tokio_util::sync::CancellationToken;

/// Gateways send something every second; a stream that is silent for longer is dead.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(3);
/// 100 ms at first, doubled up to 2 s.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(2))
    .without_max_times();

/// Follows every gateway's stream until stopped.
pub async fn watch(access: Arc<Access>, stop: CancellationToken) {
    let gateways: Vec<_> = access.gateways.all().map(|(name, client)| (name.to_owned(), client)).collect();
    let streams = gateways.into_iter().map(|(name, client)| follow_gateway(&access, name, client));
    tokio::select! {
        () = stop.cancelled() => {}
        _ = futures::future::join_all(streams) => stop.cancelled().await,
    }
}

async fn follow_gateway(access: &Access, gateway: String, mut client: Client) {
    let up = revocation_stream_up(&gateway);
    up.set(0.0);
    let mut delays = BACKOFF.build();
    loop {
        let mut has_started = false;
        let ended = follow_stream(access, &mut client, || {
            has_started = true;
            up.set(1.0);
            tracing::info!(%gateway, "the gateway's revocations are followed");
        });
        let why = ended.await;
        up.set(0.0);
        if has_started {
            tracing::info!(%gateway, why, "the gateway's revocation stream ended; cached passports expire within a minute at most");
            delays = BACKOFF.build();
        } else {
            tracing::debug!(%gateway, why, "no revocation stream");
        }
        tokio::time::sleep(delays.next().unwrap_or(SILENCE_TIMEOUT)).await;
    }
}

/// One stream from its beginning to its end. Returns why it ended.
async fn follow_stream(access: &Access, client: &mut Client, mut on_begin: impl FnMut()) -> String {
    let silence = |_| String::from("silent for 3 s");
    let opened = tokio::time::timeout(SILENCE_TIMEOUT, client.watch_revocations(WatchRevocationsRequest {})).await;
    let mut stream = match opened.map_err(silence) {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return crate::describe(&status),
        Err(why) => return why,
    };
    let mut has_snapshot = false;
    loop {
        let message = match tokio::time::timeout(SILENCE_TIMEOUT, stream.message()).await.map_err(silence) {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return "closed by the gateway".into(),
            Ok(Err(status)) => return crate::describe(&status),
            Err(why) => return why,
        };
        let is_snapshot = apply(access, message);
        if is_snapshot && !has_snapshot {
            has_snapshot = true;
            on_begin();
        } else if !has_snapshot {
            return "it did not begin with a snapshot".into();
        }
    }
}

fn apply(access: &Access, message: WatchRevocationsResponse) -> bool {
    let WatchRevocationsResponse { event, authz_version, feed_position } = message;
    let revoke = |revoked, authz_version| access.revoke(&Revocation { revoked, authz_version, feed_position });
    match event {
        Some(Event::Snapshot(_)) => {
            access.make_all_stale(feed_position);
            return true;
        }
        Some(Event::TokenId(id)) => revoke(Revoked::Token(id), FINAL),
        Some(Event::SessionId(id)) => revoke(Revoked::Session(id), FINAL),
        Some(Event::Subject(id)) if authz_version > 0 => revoke(Revoked::Subject(id), authz_version),
        // Of a gateway of the release before, which names no version; or of a newer one, and unknown to this version.
        Some(Event::Subject(_)) | None => access.make_all_stale(feed_position),
        Some(Event::Heartbeat(_)) => {}
    }
    false
}
