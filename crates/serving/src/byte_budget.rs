//! Bytes of calls under way: bodies, tensors, and answers that their callers have not read yet.
//!
//! All calls share one budget, and each caller has a share of it, so that many large calls of one leave room for the others. A call that
//! is the only one of its caller may be of any size that other limits allow.

use std::{
    collections::HashMap,
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use metrics::Gauge;
use parking_lot::Mutex;
use problem::Problem;

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

/// A request's body whose bytes are taken out of the budget before they are kept.
pub(crate) struct CountedBody {
    body: Body,
    bytes: CallBytes,
    /// Announced and taken, and not arrived yet.
    prepaid: u64,
    refused: Option<OverBudget>,
}

/// An answer that holds its bytes until it was read.
pub(crate) struct HeldBody {
    body: Body,
    _bytes: CallBytes,
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

    /// Counts a body as it arrives; what it announces is taken at once.
    pub(crate) fn count(&self, body: Body) -> CountedBody {
        let announced = body.size_hint().lower();
        let refused = self.grow(announced).err();
        CountedBody { body, bytes: self.clone(), prepaid: announced, refused }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let held = *self.bytes.get_mut();
        let _given_back = self.budget.exchange(&self.caller, held, 0);
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
        if wanted > held {
            if others > 0 && others.saturating_add(wanted) > self.total_max {
                return Err(OverBudget::Total);
            }
            if other_calls > 0 && other_calls.saturating_add(wanted) > self.caller_max {
                return Err(OverBudget::Caller);
            }
        }
        taken.total = others.saturating_add(wanted);
        if other_calls.saturating_add(wanted) == 0 {
            taken.by_caller.remove(caller);
        } else {
            taken.by_caller.insert(Arc::clone(caller), other_calls.saturating_add(wanted));
        }
        self.gauge.set(u32::try_from(taken.total).map_or(f64::MAX, f64::from));
        Ok(())
    }
}

// === impl OverBudget ===

impl From<OverBudget> for Problem {
    fn from(over: OverBudget) -> Self {
        Self::unavailable(over.to_string())
    }
}

/// Whether a body ended because there was no room for it.
pub(crate) fn over_budget(error: &(dyn Error + 'static)) -> Option<OverBudget> {
    error.downcast_ref().copied().or_else(|| over_budget(error.source()?))
}

// === impl CountedBody ===

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(over) = self.refused {
            return Poll::Ready(Some(Err(axum::Error::new(over))));
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        let Some(Ok(frame)) = frame else { return Poll::Ready(frame) };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        let prepaid = self.prepaid.min(length);
        self.prepaid -= prepaid;
        if length > prepaid
            && let Err(over) = self.bytes.grow(length - prepaid)
        {
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
        Self { body, _bytes: bytes }
    }
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
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

    fn budget() -> ByteBudget {
        ByteBudget::new(100, 60, Gauge::noop())
    }

    #[test]
    fn callers_have_a_share_and_all_have_a_bound() {
        let budget = budget();
        let (first, second, other) = (budget.open("a"), budget.open("a"), budget.open("b"));
        assert_eq!(first.hold(40), Ok(()));
        assert_eq!((second.hold(21), second.hold(20)), (Err(OverBudget::Caller), Ok(())));
        assert_eq!((other.hold(41), other.hold(40)), (Err(OverBudget::Total), Ok(())));
        assert_eq!(first.hold(10), Ok(()), "less is never refused");
        assert_eq!(other.hold(70), Ok(()), "the only call of its caller is bounded by what is left");
        drop((first, second, other));
        let taken = budget.0.taken.lock();
        assert!(taken.total == 0 && taken.by_caller.is_empty());
    }

    #[test]
    fn a_call_alone_may_be_of_any_size() {
        let budget = budget();
        let alone = budget.open("a");
        assert_eq!(alone.hold(1000), Ok(()));
        assert_eq!(budget.open("b").hold(1), Err(OverBudget::Total));
        assert_eq!(alone.hold(20), Ok(()));
        assert_eq!(budget.open("b").hold(80), Ok(()));
    }

    #[tokio::test]
    async fn a_body_is_taken_before_it_is_kept() {
        let budget = budget();
        let other = budget.open("b");
        other.hold(50).unwrap();
        let call = budget.open("a");
        let error = call.count(Body::from(vec![0; 51])).collect().await.err().unwrap();
        assert_eq!(over_budget(&error), Some(OverBudget::Total));
        let read = call.count(Body::from(vec![0; 50])).collect().await.unwrap().to_bytes();
        assert_eq!((read.len(), *call.0.bytes.lock()), (50, 50));
        let unannounced = Body::from_stream(futures::stream::iter([Ok::<_, std::io::Error>(vec![0_u8; 1])]));
        assert!(call.count(unannounced).collect().await.is_err());
        drop(call);
        assert_eq!(budget.0.taken.lock().total, 50);
    }
}
