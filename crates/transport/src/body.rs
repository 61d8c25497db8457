//! A request body that may not pause for too long.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

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
