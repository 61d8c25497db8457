//! The stream of revocations to one watcher.

use std::{sync::Arc, time::Duration};

use futures::{Stream, stream};
use problem::{Kind, Problem};
use proto::auth::v1::{Heartbeat, Snapshot, WatchRevocationsResponse, watch_revocations_response::Event};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, broadcast},
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    auth_state::{AuthState, PlacedRevocation, Revocation},
    metrics,
};

/// Streams at once; there is one for each balancer.
const WATCHERS_MAX: usize = 128;

const HEARTBEAT: Duration = Duration::from_secs(1);

/// Slots for watchers.
#[derive(Clone, Debug)]
pub(crate) struct WatcherSlots(Arc<Semaphore>);

/// The slot of one watcher, free again when dropped.
#[derive(Debug)]
pub(crate) struct WatcherSlot {
    _permit: OwnedSemaphorePermit,
}

struct RevocationStream {
    revocations: broadcast::Receiver<PlacedRevocation>,
    heartbeat: Interval,
    stop: CancellationToken,
    /// The place in the feed that the stream begins at, until it was sent.
    begins_at: Option<u64>,
    _slot: WatcherSlot,
}

/// Every revocation from now on. Ends when the watcher has missed one or the process stops; the `Snapshot` that every
/// stream begins with tells the watcher to drop its cache.
pub(crate) fn watch(
    auth_state: &AuthState,
    stop: CancellationToken,
    slot: WatcherSlot,
) -> impl Stream<Item = Result<WatchRevocationsResponse, Status>> + Send + use<> {
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat.reset();
    // Subscribed before the snapshot is sent: a revocation in between follows it.
    let (revocations, begins_at) = auth_state.subscribe();
    let watch = RevocationStream { revocations, heartbeat, stop, begins_at: Some(begins_at), _slot: slot };
    stream::unfold(Some(watch), |watch| async {
        let mut watch = watch?;
        match watch.next().await {
            Ok(message) => Some((Ok(message), Some(watch))),
            Err(status) => Some((Err(status), None)),
        }
    })
}

// === impl WatcherSlots ===

impl Default for WatcherSlots {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WATCHERS_MAX)))
    }
}

impl WatcherSlots {
    /// A slot, if one is free.
    pub(crate) fn acquire(&self) -> Result<WatcherSlot, Problem> {
        let full = |_| Problem::new(Kind::ResourceExhausted, "as many watchers as allowed are here");
        let permit = Arc::clone(&self.0).try_acquire_owned().map_err(full)?;
        metrics::watchers(1.0);
        Ok(WatcherSlot { _permit: permit })
    }
}

// === impl WatcherSlot ===

impl Drop for WatcherSlot {
    fn drop(&mut self) {
        metrics::watchers(-1.0);
    }
}

// === impl RevocationStream ===

impl RevocationStream {
    async fn next(&mut self) -> Result<WatchRevocationsResponse, Status> {
        if let Some(begins_at) = self.begins_at.take() {
            return Ok(message(Event::Snapshot(Snapshot {}), 0, begins_at));
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Status::unavailable("this gateway stops; watch another")),
            revocation = self.revocations.recv() => match revocation {
                Ok((Revocation::Token(id), position)) => Ok(message(Event::TokenId(id.to_string()), 0, position)),
                Ok((Revocation::Session(id), position)) => Ok(message(Event::SessionId(id.to_string()), 0, position)),
                Ok((Revocation::Subject { id, authz_version }, position)) => {
                    Ok(message(Event::Subject(id.to_string()), authz_version, position))
                }
                Ok((Revocation::Reset, _)) | Err(_) => {
                    Err(Status::aborted("revocations may have been missed; watch again"))
                }
            },
            _ = self.heartbeat.tick() => Ok(message(Event::Heartbeat(Heartbeat {}), 0, 0)),
        }
    }
}

fn message(event: Event, authz_version: u64, feed_position: u64) -> WatchRevocationsResponse {
    WatchRevocationsResponse { event: Some(event), authz_version, feed_position }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use uuid::Uuid;

    use super::*;

    fn event(response: Option<Result<WatchRevocationsResponse, Status>>) -> Event {
        response.unwrap().unwrap().event.unwrap()
    }

    #[tokio::test]
    async fn a_watcher_gets_a_snapshot_then_revocations_then_heartbeats() {
        let auth_state = AuthState::default();
        let watchers = WatcherSlots::default();
        let mut stream = std::pin::pin!(watch(&auth_state, CancellationToken::new(), watchers.acquire().unwrap()));
        auth_state.broadcast(Revocation::Token(Uuid::nil()), 7);
        let deleted = Revocation::Subject { id: Uuid::nil(), authz_version: u64::MAX };
        auth_state.broadcast(deleted, 8);
        assert_eq!(event(stream.next().await), Event::Snapshot(Snapshot {}));
        let revocation = stream.next().await.unwrap().unwrap();
        assert_eq!(revocation, message(Event::TokenId(Uuid::nil().to_string()), 0, 7));
        let revocation = stream.next().await.unwrap().unwrap();
        assert_eq!(revocation, message(Event::Subject(Uuid::nil().to_string()), u64::MAX, 8));
        assert_eq!(event(stream.next().await), Event::Heartbeat(Heartbeat {}));
    }

    #[tokio::test]
    async fn the_stream_of_a_watcher_that_missed_a_revocation_ends() {
        let auth_state = AuthState::default();
        let watchers = WatcherSlots::default();
        let mut stream = std::pin::pin!(watch(&auth_state, CancellationToken::new(), watchers.acquire().unwrap()));
        for _ in 0..5_000 {
            auth_state.broadcast(Revocation::Session(Uuid::nil()), 1);
        }
        assert_eq!(event(stream.next().await), Event::Snapshot(Snapshot {}));
        assert_eq!(stream.next().await.unwrap().unwrap_err().code(), tonic::Code::Aborted);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_stop_ends_every_stream_and_frees_its_slot() {
        let (auth_state, stop, watchers) = (AuthState::default(), CancellationToken::new(), WatcherSlots::default());
        let slots: Vec<WatcherSlot> = (1..WATCHERS_MAX).map(|_| watchers.acquire().unwrap()).collect();
        let stream = watch(&auth_state, stop.clone(), watchers.acquire().unwrap());
        assert!(watchers.acquire().is_err(), "one more than allowed");
        stop.cancel();
        let seen: Vec<_> = stream.collect().await;
        assert_eq!(seen.len(), 2);
        assert!(watchers.acquire().is_ok());
        drop(slots);
    }
}
