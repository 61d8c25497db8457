//! Work on large requests and answers, kept away from the threads that serve all others.

use problem::Problem;

use crate::byte_budget::CallBytes;

/// What is longer is read and written beside the threads that serve requests: a few milliseconds of JSON would hold up all
/// others, health checks included.
const SMALL_BYTES_MAX: usize = 256 << 10;

/// Does the work at once if it is small, else on a thread where it may take its time.
pub(crate) async fn offload_if_large<T: Send + 'static>(
    bytes: usize,
    held: CallBytes,
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    if bytes <= SMALL_BYTES_MAX {
        return work();
    }
    // The work goes on when its caller is gone, and what it reads stays.
    let work = move || {
        let _held = held;
        work()
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Problem::internal(error)))
}
