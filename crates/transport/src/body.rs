//! Request bodies: they may not pause for too long, and are heard out although nobody reads them.

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
    /// Fails when the next frame takes longer than the longest pause.
    pub(crate) struct Paced<B> {
        #[pin]
        body: B,
        pause_max: Duration,
        // Made at the first wait: most bodies have arrived together with their header.
        deadline: Option<Pin<Box<Sleep>>>,
    }
}

/// How long the rest of a body is heard that its reader gave up.
const HEAR_OUT_MAX: Duration = Duration::from_secs(1);

/// A body that comes back when its reader drops it before its end.
pub(crate) struct Returning<B: Body> {
    body: Option<B>,
    back: Option<oneshot::Sender<B>>,
}

/// Where an unread body comes back to.
pub(crate) struct Unread<B>(oneshot::Receiver<B>);

/// The peer stopped in the middle of a body.
#[derive(Debug, thiserror::Error)]
#[error("body paused for more than {0:?}")]
pub(crate) struct PauseError(Duration);

// === impl Paced ===

impl<B> Paced<B> {
    pub(crate) fn new(body: B, pause_max: Duration) -> Self {
        Self { body, pause_max, deadline: None }
    }
}

impl<B> Body for Paced<B>
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
        let pause_max = *this.pause_max;
        let deadline = this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause_max)));
        deadline.as_mut().poll(cx).map(|()| Some(Err(PauseError(pause_max).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Returning ===

impl<B: Body> Returning<B> {
    pub(crate) fn new(body: B) -> (Self, Unread<B>) {
        let (back, unread) = oneshot::channel();
        (Self { body: Some(body), back: Some(back) }, Unread(unread))
    }
}

impl<B: Body> Drop for Returning<B> {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take())
            && !body.is_end_stream()
        {
            // Nobody takes it back once the answer is on its way.
            let _ = back.send(body);
        }
    }
}

impl<B: Body + Unpin> Body for Returning<B> {
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

// === impl Unread ===

impl<B: Body + Unpin> Unread<B> {
    /// Reads what was left unread, within the body's own bounds and for a moment. An answer that came first would be
    /// followed by a reset (RFC 9113, 8.1), and a proxy that still sends the body would take that for the loss of the
    /// request.
    pub(crate) async fn hear_out(mut self) {
        let Ok(mut body) = self.0.try_recv() else { return };
        let rest = async { while let Some(Ok(_)) = body.frame().await {} };
        let _ = timeout(HEAR_OUT_MAX, rest).await;
    }
}
