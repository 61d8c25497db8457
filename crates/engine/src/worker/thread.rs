//! A worker as a thread of the replica, for models that are trusted: the same loop over the same sockets.

use std::{io, sync::Arc, thread};

use tokio::sync::{oneshot, watch};
use tokio_util::codec::FramedRead;

use super::{
    Answers, Exit, OWN_SLOT, Worker, codec,
    compute::{CallPipes, CurrentRun, answer_requests, obey_cancellations},
    connect, line,
    models::Models,
};
use crate::{
    fault::{LoadFault, Reason},
    session::Session,
};

/// Gives a session to a thread of its own. The thread ends when the worker is dropped and its call is computed, which the receiver says.
pub(crate) fn start_thread(
    name: &str,
    session: Session,
    answer_bytes_max: u64,
) -> Result<(Worker, Answers, watch::Receiver<Option<Exit>>), LoadFault> {
    let internal = |error: io::Error| LoadFault::new(Reason::Internal, format!("no worker thread: {error}"));
    let (ours, theirs) = connect().map_err(internal)?;
    let run = Arc::new(CurrentRun::new().map_err(|error| LoadFault::new(Reason::Internal, error.to_string()))?);
    obey_cancellations(theirs.control, Arc::clone(&run), || {}).map_err(internal)?;
    let (exit, exited) = watch::channel(None);
    let mut models = Models::of_thread(OWN_SLOT, session);
    // Linux keeps 15 bytes of a thread's name.
    let compute = move || {
        let mut pipes = CallPipes::new(theirs.calls, theirs.answers);
        if let Err(error) = answer_requests(&mut models, &mut pipes, &run, answer_bytes_max) {
            tracing::debug!(%error, "a worker thread ended");
        }
        exit.send_replace(Some(Exit::Unknown));
    };
    thread::Builder::new().name(format!("ort-{name}")).spawn(compute).map_err(internal)?;
    let (dropped, _) = oneshot::channel();
    let frames = FramedRead::new(ours.answers, codec(answer_bytes_max));
    let (_, control) = ours.control.into_split();
    let (worker, answers) = line::new(frames, ours.calls, control, exited.clone(), dropped);
    Ok((worker, answers, exited))
}
