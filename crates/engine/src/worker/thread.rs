//! A worker as a thread of the replica, for models that are trusted: the same loop over the same sockets.

use std::{io, sync::Arc, thread};

use tokio::sync::{oneshot, watch};
use tokio_util::codec::Framed;

use super::{
    Exit, Worker, codec,
    compute::{CallSocket, CurrentRun, compute_calls, obey_cancellations},
    socket_pair, write_only,
};
use crate::{
    fault::{LoadFault, Reason},
    session::Session,
};

/// Gives a session to a thread of its own. The thread ends when the worker is dropped and its call is computed, which the receiver says.
pub(crate) fn start_thread(
    name: &str,
    mut session: Session,
    answer_bytes_max: u64,
) -> Result<(Worker, watch::Receiver<Option<Exit>>), LoadFault> {
    let internal = |error: io::Error| LoadFault::new(Reason::Internal, format!("no worker thread: {error}"));
    let (calls, their_calls) = socket_pair().map_err(internal)?;
    let (control, their_control) = socket_pair().map_err(internal)?;
    let run = Arc::new(CurrentRun::new().map_err(|error| LoadFault::new(Reason::Internal, error.to_string()))?);
    obey_cancellations(their_control, Arc::clone(&run), || {}).map_err(internal)?;
    let (exit, exited) = watch::channel(None);
    // Linux keeps 15 bytes of a thread's name.
    let compute = move || {
        if let Err(error) = compute_calls(&mut session, &mut CallSocket::new(their_calls), &run, None, answer_bytes_max)
        {
            tracing::debug!(%error, "a worker thread ended");
        }
        exit.send_replace(Some(Exit::Unknown));
    };
    thread::Builder::new().name(format!("ort-{name}")).spawn(compute).map_err(internal)?;
    let (dropped, _) = oneshot::channel();
    let calls = Framed::new(calls, codec(answer_bytes_max));
    let control = write_only(control).map_err(internal)?;
    let worker = Worker { calls, control, exit: exited.clone(), _dropped: dropped };
    Ok((worker, exited))
}
