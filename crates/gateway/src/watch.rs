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
    memory::{Memory, Revocation},
    metrics,
};

/// Streams at once; there is one for each balancer.
const WATCHERS_MAX: usize = 128;

const HEARTBEAT: Duration = Duration::from_secs(1);

/// Places for watchers.
#[derive(Clone, Debug)]
pub(crate) struct Watchers(Arc<Semaphore>);

/// The place of one watcher, free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

struct Watch {
    revocations: broadcast::Receiver<Revocation>,
    heartbeat: Interval,
    stop: CancellationToken,
    is_begun: bool,
    _place: Place,
}

/// Every revocation from now on. Ends when the watcher has missed one or the process stops; whoever comes again begins
/// with forgetting what it remembered.
pub(crate) fn watch(
    memory: &Memory,
    stop: CancellationToken,
    place: Place,
) -> impl Stream<Item = Result<WatchRevocationsResponse, Status>> + Send + use<> {
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat.reset();
    // Subscribed before the watcher is told to forget: what ends in between is told too.
    let watch = Watch { revocations: memory.subscribe(), heartbeat, stop, is_begun: false, _place: place };
    stream::unfold(Some(watch), |watch| async {
        let mut watch = watch?;
        match watch.next().await {
            Ok(event) => Some((Ok(WatchRevocationsResponse { event: Some(event) }), Some(watch))),
            Err(status) => Some((Err(status), None)),
        }
    })
}

// === impl Watchers ===

impl Default for Watchers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WATCHERS_MAX)))
    }
}

impl Watchers {
    /// A place, if one is free.
    pub(crate) fn take(&self) -> Result<Place, Problem> {
        let full = |_| Problem::new(Kind::ResourceExhausted, "as many watchers as allowed are here");
        let permit = Arc::clone(&self.0).try_acquire_owned().map_err(full)?;
        metrics::watchers(1.0);
        Ok(Place { _permit: permit })
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        metrics::watchers(-1.0);
    }
}

// === impl Watch ===

impl Watch {
    async fn next(&mut self) -> Result<Event, Status> {
        if !std::mem::replace(&mut self.is_begun, true) {
            return Ok(Event::Snapshot(Snapshot {}));
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Status::unavailable("this gateway stops; watch another")),
            revocation = self.revocations.recv() => match revocation {
                Ok(Revocation::Token(id)) => Ok(Event::TokenId(id.to_string())),
                Ok(Revocation::Session(id)) => Ok(Event::SessionId(id.to_string())),
                Ok(Revocation::Subject(id)) => Ok(Event::Subject(id.to_string())),
                Ok(Revocation::Reset) | Err(_) => Err(Status::aborted("revocations may have been missed; watch again")),
            },
            _ = self.heartbeat.tick() => Ok(Event::Heartbeat(Heartbeat {})),
        }
    }
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
    async fn a_watcher_is_told_to_forget_first_and_then_everything() {
        let memory = Memory::default();
        let watchers = Watchers::default();
        let mut stream = std::pin::pin!(watch(&memory, CancellationToken::new(), watchers.take().unwrap()));
        memory.tell(Revocation::Token(Uuid::nil()));
        assert_eq!(event(stream.next().await), Event::Snapshot(Snapshot {}));
        assert_eq!(event(stream.next().await), Event::TokenId(Uuid::nil().to_string()));
        assert_eq!(event(stream.next().await), Event::Heartbeat(Heartbeat {}));
    }

    #[tokio::test]
    async fn a_watcher_that_missed_something_is_sent_away() {
        let memory = Memory::default();
        let watchers = Watchers::default();
        let mut stream = std::pin::pin!(watch(&memory, CancellationToken::new(), watchers.take().unwrap()));
        for _ in 0..5_000 {
            memory.tell(Revocation::Session(Uuid::nil()));
        }
        assert_eq!(event(stream.next().await), Event::Snapshot(Snapshot {}));
        assert_eq!(stream.next().await.unwrap().unwrap_err().code(), tonic::Code::Aborted);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_stop_ends_every_stream_and_frees_its_place() {
        let (memory, stop, watchers) = (Memory::default(), CancellationToken::new(), Watchers::default());
        let places: Vec<Place> = (1..WATCHERS_MAX).map(|_| watchers.take().unwrap()).collect();
        let stream = watch(&memory, stop.clone(), watchers.take().unwrap());
        assert!(watchers.take().is_err(), "one more than allowed");
        stop.cancel();
        let seen: Vec<_> = stream.collect().await;
        assert_eq!(seen.len(), 2);
        assert!(watchers.take().is_ok());
        drop(places);
    }
}
