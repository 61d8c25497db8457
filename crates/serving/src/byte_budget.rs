//! Bytes of calls under way: bodies, tensors, and answers that were not sent yet.
//!
//! All calls share one budget, and each caller has a share of it, so that many large calls of one leave room for the others. A call that
//! is the only one of its caller may be of any size that other limits allow, and callers with little under way always have room: what others
//! hold keeps no one from small calls.

use std::{
    collections::HashMap,
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use metrics::Gauge;
use parking_lot::Mutex;
use problem::{Kind, Problem};
use tokio::time::{Sleep, sleep_until};

/// A caller whose calls hold no more than this together is never refused.
const SMALL_BYTES: u64 = 1 << 20;
/// The most that a packed byte becomes: deflate's own limit.
const UNPACKED_MAX: u64 = 1032;
/// Of an answer that is longer each piece holds its bytes until it was sent.
const HELD_BYTES_MIN: usize = 64 << 10;

/// What calls may hold.
#[derive(Clone)]
pub(crate) struct ByteBudget(Arc<Shared>);

struct Shared {
    taken: Mutex<Taken>,
    total_max: u64,
    caller_max: u64,
    gauge: Gauge,
}

#[derive(Default)]
struct Taken {
    total: u64,
    by_caller: HashMap<Arc<str>, u64>,
}

/// What one call holds. Clones are of the same call; the last one gives everything back.
#[derive(Clone)]
pub(crate) struct CallBytes(Arc<Held>);

struct Held {
    budget: Arc<Shared>,
    caller: Arc<str>,
    bytes: Mutex<u64>,
}

/// There is no room for a call now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OverBudget {
    #[error(
        "the calls of all callers that are under way take as many bytes as they may (inference.bytes_under_way_max)"
    )]
    Total,
    #[error("your calls that are under way take as many bytes as they may (inference.bytes_per_caller_max)")]
    Caller,
}

/// A body did not arrive in the time that a call may take.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the body did not arrive in time")]
pub(crate) struct BodyLate;

/// A request's body whose bytes are taken out of the budget before they are kept.
pub(crate) struct CountedBody {
    body: Body,
    bytes: CallBytes,
    /// Announced and taken, and not arrived yet.
    prepaid: u64,
    /// What is still to be taken for what it may become when it is unpacked.
    unpacked_left: u64,
    refused: Option<OverBudget>,
    /// When all of it must have arrived; its timer is made when there is something to wait for.
    due: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

/// An answer that holds its bytes until it was sent.
pub(crate) struct HeldBody {
    body: Body,
    bytes: CallBytes,
}

/// A piece of an answer. It lives as long as a connection still has it to send.
struct HeldPiece {
    piece: Bytes,
    _bytes: CallBytes,
}

impl AsRef<[u8]> for HeldPiece {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

// === impl ByteBudget ===

impl ByteBudget {
    pub(crate) fn new(total_max: u64, caller_max: u64, gauge: Gauge) -> Self {
        Self(Arc::new(Shared { taken: Mutex::default(), total_max, caller_max, gauge }))
    }

    /// A call that holds nothing yet.
    pub(crate) fn open(&self, caller: &str) -> CallBytes {
        let held = Held { budget: Arc::clone(&self.0), caller: caller.into(), bytes: Mutex::default() };
        CallBytes(Arc::new(held))
    }
}

// === impl CallBytes ===

impl CallBytes {
    /// From here on the call holds so many bytes, if there is room for what is new of them.
    pub(crate) fn hold(&self, bytes: usize) -> Result<(), OverBudget> {
        self.change(|_| bytes as u64)
    }

    /// The same, whether there is room or not: what was computed is not thrown away.
    pub(crate) fn hold_computed(&self, bytes: usize) {
        let Held { budget, caller, bytes: held } = &*self.0;
        let mut held = held.lock();
        budget.replace(caller, *held, bytes as u64);
        *held = bytes as u64;
    }

    /// Makes room for what a packed body may become, of which `packed` bytes are there.
    pub(crate) fn hold_unpacked(&self, packed: usize, bytes_max: usize) -> Result<(), OverBudget> {
        self.change(|_| (packed as u64).saturating_mul(UNPACKED_MAX).min(bytes_max as u64))
    }

    /// So many bytes more.
    fn grow(&self, bytes: u64) -> Result<(), OverBudget> {
        self.change(|held| held.saturating_add(bytes))
    }

    fn change(&self, change: impl FnOnce(u64) -> u64) -> Result<(), OverBudget> {
        let Held { budget, caller, bytes } = &*self.0;
        let mut held = bytes.lock();
        let wanted = change(*held);
        budget.exchange(caller, *held, wanted)?;
        *held = wanted;
        Ok(())
    }

    /// Counts a body as it arrives, until it is due; what it announces is taken at once.
    pub(crate) fn count(&self, body: Body, due: Instant) -> CountedBody {
        let announced = body.size_hint().lower();
        let refused = self.grow(announced).err();
        CountedBody { body, bytes: self.clone(), prepaid: announced, unpacked_left: 0, refused, due, timer: None }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let held = *self.bytes.get_mut();
        self.budget.replace(&self.caller, held, 0);
    }
}

// === impl Shared ===

impl Shared {
    /// Gives back what a call held, and takes what it wants to hold. Less is never refused.
    fn exchange(&self, caller: &Arc<str>, held: u64, wanted: u64) -> Result<(), OverBudget> {
        if held == wanted {
            return Ok(());
        }
        let mut taken = self.taken.lock();
        let of_caller = taken.by_caller.get(caller).copied().unwrap_or(0);
        let (others, other_calls) = (taken.total - held, of_caller - held);
        if wanted > held && other_calls.saturating_add(wanted) > SMALL_BYTES {
            if others > 0 && others.saturating_add(wanted) > self.total_max {
                return Err(OverBudget::Total);
            }
            if other_calls > 0 && other_calls.saturating_add(wanted) > self.caller_max {
                return Err(OverBudget::Caller);
            }
        }
        taken.replace(caller, held, wanted);
        self.show(&taken);
        Ok(())
    }

    /// The same, whether there is room or not.
    fn replace(&self, caller: &Arc<str>, held: u64, wanted: u64) {
        let mut taken = self.taken.lock();
        taken.replace(caller, held, wanted);
        self.show(&taken);
    }

    fn show(&self, taken: &Taken) {
        self.gauge.set(u32::try_from(taken.total).map_or(f64::MAX, f64::from));
    }
}

// === impl Taken ===

impl Taken {
    fn replace(&mut self, caller: &Arc<str>, held: u64, wanted: u64) {
        let of_caller = self.by_caller.get(caller).copied().unwrap_or(0);
        let of_caller = (of_caller - held).saturating_add(wanted);
        self.total = (self.total - held).saturating_add(wanted);
        if of_caller == 0 {
            self.by_caller.remove(caller);
        } else {
            self.by_caller.insert(Arc::clone(caller), of_caller);
        }
    }
}

// === impl OverBudget ===

impl From<OverBudget> for Problem {
    fn from(over: OverBudget) -> Self {
        match over {
            // Another replica may have room.
            OverBudget::Total => Self::unavailable(over.to_string()),
            OverBudget::Caller => {
                Self::new(Kind::ResourceExhausted, over.to_string()).retry_after(Duration::from_secs(1))
            }
        }
    }
}

/// Whether a body ended because there was no room for it.
pub(crate) fn over_budget(error: &(dyn Error + 'static)) -> Option<OverBudget> {
    error.downcast_ref().copied().or_else(|| over_budget(error.source()?))
}

// === impl CountedBody ===

impl CountedBody {
    /// Its messages are packed: each byte counts as what it may become, up to the longest message.
    pub(crate) fn packed(self, bytes_max: usize) -> Self {
        Self { unpacked_left: bytes_max as u64, ..self }
    }
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(over) = self.refused {
            return Poll::Ready(Some(Err(axum::Error::new(over))));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            let due = self.due.into();
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            return timer.as_mut().poll(cx).map(|()| Some(Err(axum::Error::new(BodyLate))));
        };
        let Some(Ok(frame)) = frame else { return Poll::Ready(frame) };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        let prepaid = self.prepaid.min(length);
        self.prepaid -= prepaid;
        let unpacked = length.saturating_mul(UNPACKED_MAX).min(self.unpacked_left);
        self.unpacked_left -= unpacked;
        if let Err(over) = self.bytes.grow(length - prepaid + unpacked) {
            self.refused = Some(over);
            return Poll::Ready(Some(Err(axum::Error::new(over))));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.refused.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl HeldBody ===

impl HeldBody {
    pub(crate) fn new(body: Body, bytes: CallBytes) -> Self {
        Self { body, bytes }
    }
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        let hold = |piece: Bytes| {
            if piece.len() < HELD_BYTES_MIN {
                return piece;
            }
            Bytes::from_owner(HeldPiece { piece, _bytes: self.bytes.clone() })
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(hold))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    const MIB: usize = 1 << 20;

    fn budget() -> ByteBudget {
        ByteBudget::new(100 * MIB as u64, 60 * MIB as u64, Gauge::noop())
    }

    #[test]
    fn callers_have_a_share_and_all_have_a_bound() {
        let budget = budget();
        let (first, second, other) = (budget.open("a"), budget.open("a"), budget.open("b"));
        assert_eq!(first.hold(40 * MIB), Ok(()));
        assert_eq!((second.hold(21 * MIB), second.hold(20 * MIB)), (Err(OverBudget::Caller), Ok(())));
        assert_eq!((other.hold(41 * MIB), other.hold(40 * MIB)), (Err(OverBudget::Total), Ok(())));
        assert_eq!(first.hold(10 * MIB), Ok(()), "less is never refused");
        assert_eq!(other.hold(70 * MIB), Ok(()), "the only call of its caller is bounded by what is left");
        assert_eq!(budget.open("c").hold(MIB), Ok(()), "little is never refused");
        assert_eq!(budget.open("c").hold(MIB + 1), Err(OverBudget::Total));
        drop((first, second, other));
        let taken = budget.0.taken.lock();
        assert!(taken.total == 0 && taken.by_caller.is_empty());
    }

    #[test]
    fn a_call_alone_may_be_of_any_size() {
        let budget = budget();
        let alone = budget.open("a");
        assert_eq!(alone.hold(1000 * MIB), Ok(()));
        assert_eq!(budget.open("b").hold(2 * MIB), Err(OverBudget::Total));
        budget.open("b").hold_computed(2 * MIB);
        assert_eq!(alone.hold(20 * MIB), Ok(()));
        assert_eq!(budget.open("b").hold(80 * MIB), Ok(()));
    }

    #[tokio::test]
    async fn a_body_is_taken_before_it_is_kept() {
        let budget = budget();
        let due = Instant::now() + Duration::from_secs(60);
        let other = budget.open("b");
        other.hold(97 * MIB).unwrap();
        let call = budget.open("a");
        let error = call.count(Body::from(vec![0; 4 * MIB]), due).collect().await.err().unwrap();
        assert_eq!(over_budget(&error), Some(OverBudget::Total));
        let read = call.count(Body::from(vec![0; 3 * MIB]), due).collect().await.unwrap().to_bytes();
        assert_eq!((read.len(), *call.0.bytes.lock()), (3 * MIB, 3 * MIB as u64));
        let unannounced = Body::from_stream(futures::stream::iter([Ok::<_, std::io::Error>(vec![0_u8; 1])]));
        assert!(call.count(unannounced, due).collect().await.is_err());
        drop(call);
        assert_eq!(budget.0.taken.lock().total, 97 * MIB as u64);
    }

    /// Of a packed body more is taken than has arrived, and never more than a message may be.
    #[tokio::test]
    async fn a_packed_body_counts_as_what_it_may_become() {
        let due = Instant::now() + Duration::from_secs(60);
        for (packed, held) in [(1000, 1000 + 1_032_000), (MIB, 5 * MIB as u64)] {
            let call = budget().open("a");
            let body = call.count(Body::from(vec![0; packed]), due).packed(4 * MIB);
            body.collect().await.unwrap();
            assert_eq!(*call.0.bytes.lock(), held);
        }
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_given_up() {
        let call = budget().open("a");
        let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let error = call.count(never, Instant::now()).collect().await.err().unwrap();
        assert!(error.to_string().contains("in time"), "{error}");
    }

    /// A connection that has taken a piece of an answer holds its bytes as long as it has it.
    #[tokio::test]
    async fn an_answer_holds_its_bytes_until_it_was_sent() {
        let budget = budget();
        let call = budget.open("a");
        call.hold_computed(2 * MIB);
        let piece = HeldBody::new(Body::from(vec![0; 2 * MIB]), call).collect().await.unwrap().to_bytes();
        assert_eq!(budget.0.taken.lock().total, 2 * MIB as u64);
        drop(piece);
        assert_eq!(budget.0.taken.lock().total, 0);
    }
}
