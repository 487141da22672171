//! Calls into a file system that may hang: a few at once, on threads where waiting harms nobody, and no longer than
//! any other call.

use std::{io, sync::Arc};

use tokio::sync::Semaphore;

use super::{CALL_MAX, CoordinationError};

/// Asks, once one of the `calls` is free. What comes too late happens all the same; the caller has to look again, as
/// after any lost answer.
pub(crate) async fn ask<T: Send + 'static>(
    calls: &Arc<Semaphore>,
    operation: &'static str,
    place: String,
    ask: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, CoordinationError> {
    let asked = async {
        let call = Arc::clone(calls).acquire_owned().await.map_err(io::Error::other)?;
        let done = tokio::task::spawn_blocking(move || {
            let _call = call;
            ask()
        });
        done.await.map_err(io::Error::other)?
    };
    let detail = match tokio::time::timeout(CALL_MAX, asked).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    // A directory that is not mounted, full or slow may be well again.
    Err(CoordinationError { operation, place, detail, is_transient: true })
}
