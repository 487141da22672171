//! Opening the queue that an address names.

use std::sync::Arc;

use crate::{Address, BackendError, Embedded, JetStream, Queue};

/// What a queue is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many partitions; fixed once the stream is made.
    pub partitions: u16,
    /// Bytes after which appends are refused.
    pub max_bytes: u64,
}

/// Why a queue could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The embedded queue's file.
    #[error("failed to open the queue {path}")]
    File {
        /// Its path.
        path: String,
        /// What SQLite said.
        source: BackendError,
    },
    /// No server could be reached, or none let us in.
    #[error("failed to reach NATS at {servers}: {reason}")]
    Unreachable {
        /// Which were tried.
        servers: String,
        /// What was missing.
        reason: String,
    },
    /// A server was reached and is of no use.
    #[error("failed to use NATS at {servers}: {reason}")]
    Unusable {
        /// Which were tried.
        servers: String,
        /// What is missing.
        reason: String,
    },
    /// The stream is there and is not like what is wanted. It is never changed from here.
    #[error("failed to use the stream {stream} at {servers}: {reason}")]
    Stream {
        /// Its name.
        stream: String,
        /// Where it was looked for.
        servers: String,
        /// What does not fit, and what to do.
        reason: String,
    },
}

/// Opens a queue; makes it where it is not there yet. It takes at most some ten seconds to fail.
pub async fn open(address: &Address, options: Options) -> Result<Arc<dyn Queue>, OpenError> {
    match address {
        Address::Embedded(path) => {
            let (path, max_bytes) = (path.clone(), options.max_bytes);
            let shown = path.display().to_string();
            let opened = tokio::task::spawn_blocking(move || Embedded::open(&path, max_bytes)).await;
            match opened {
                Ok(queue) => Ok(Arc::new(queue?)),
                Err(panicked) => Err(OpenError::File { path: shown, source: panicked.into() }),
            }
        }
        Address::Nats(address) => Ok(Arc::new(JetStream::open(address, options).await?)),
    }
}
