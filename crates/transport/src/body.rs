//! Request bodies: the pause between frames is bounded, and the rest of an unread body is drained.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::{
    sync::oneshot,
    time::{Sleep, timeout},
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

pin_project_lite::pin_project! {
    /// Fails when the next frame takes longer than `idle_timeout`.
    pub(crate) struct IdleTimeoutBody<B> {
        #[pin]
        body: B,
        idle_timeout: Duration,
        // Made at the first wait: most bodies have arrived together with their header.
        deadline: Option<Pin<Box<Sleep>>>,
    }
}

/// How long the rest of a body is read after its reader dropped it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A body that is handed back for draining when its reader drops it before its end.
pub(crate) struct DrainOnDrop<B: Body> {
    body: Option<B>,
    back: Option<oneshot::Sender<B>>,
}

/// The rest of a body that its reader dropped.
pub(crate) struct UnreadBody<B>(oneshot::Receiver<B>);

/// The peer stopped in the middle of a body.
#[derive(Debug, thiserror::Error)]
#[error("body paused for more than {0:?}")]
pub(crate) struct IdleTimeoutError(Duration);

// === impl IdleTimeoutBody ===

impl<B> IdleTimeoutBody<B> {
    pub(crate) fn new(body: B, idle_timeout: Duration) -> Self {
        Self { body, idle_timeout, deadline: None }
    }
}

impl<B> Body for IdleTimeoutBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let this = self.project();
        if let Poll::Ready(frame) = this.body.poll_frame(cx) {
            *this.deadline = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let idle_timeout = *this.idle_timeout;
        let deadline = this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle_timeout)));
        deadline.as_mut().poll(cx).map(|()| Some(Err(IdleTimeoutError(idle_timeout).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl DrainOnDrop ===

impl<B: Body> DrainOnDrop<B> {
    pub(crate) fn new(body: B) -> (Self, UnreadBody<B>) {
        let (back, unread) = oneshot::channel();
        (Self { body: Some(body), back: Some(back) }, UnreadBody(unread))
    }
}

impl<B: Body> Drop for DrainOnDrop<B> {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take())
            && !body.is_end_stream()
        {
            // Not drained when the response is on its way already.
            let _ = back.send(body);
        }
    }
}

impl<B: Body + Unpin> Body for DrainOnDrop<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        Pin::new(body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

// === impl UnreadBody ===

impl<B: Body + Unpin> UnreadBody<B> {
    /// Reads what was left unread, within the body's own bounds and for a moment. A response that came first would be
    /// followed by a reset (RFC 9113, 8.1), and a proxy that still sends the body would take that for the loss of the
    /// request.
    pub(crate) async fn drain(mut self) {
        let Ok(mut body) = self.0.try_recv() else { return };
        let rest = async { while let Some(Ok(_)) = body.frame().await {} };
        let _ = timeout(DRAIN_TIMEOUT, rest).await;
    }
}
