//! Keeps what the process holds of memory near what it uses: see [`caelum_drivers::memory`].

use std::time::Duration;

use caelum_drivers::memory;
use tokio_util::sync::CancellationToken;

/// By then the start is over: settings are read, certificates made, first links up.
const FIRST: Duration = Duration::from_secs(20);
/// Between two times after that. Work that is done seldom leaves its pages behind each time.
const EVERY: Duration = Duration::from_secs(60);

/// Gives back what is not used, until told to stop.
pub async fn run(stop: CancellationToken) {
    let mut wait = FIRST;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => wait = EVERY,
        }
        // About a millisecond, so here and not on a thread that would cost more.
        if let Err(error) = memory::give_back() {
            tracing::debug!(code = "memory.kept", %error, "memory that is not used stays with this process");
            return;
        }
    }
}
