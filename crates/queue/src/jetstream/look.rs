//! Looking at a stream without making or changing anything: for whoever asks how things stand.

use async_nats::jetstream::ErrorCode;

use super::{api, connection, stream};
use crate::{NatsAddress, OpenError, Options};

/// A stream as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Version of the server that answered.
    pub version: String,
    /// Records in it.
    pub records: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes after which it refuses; none where nothing bounds it.
    pub max_bytes: Option<u64>,
    /// Servers that keep it.
    pub replicas: usize,
    /// Why events would be lost or doubled in it, and what to do.
    pub complaint: Option<String>,
}

/// Connects and looks at the stream; none where it was not made yet. It takes at most some ten seconds.
pub async fn look(address: &NatsAddress, partitions: u16) -> Result<Option<Found>, OpenError> {
    let connection = connection::connect(address).await?;
    let info = match api::info(&connection.jetstream, &address.stream).await {
        Ok(info) => info,
        Err(refusal) if refusal.kind() == Some(ErrorCode::STREAM_NOT_FOUND) => return Ok(None),
        Err(refusal) => {
            return Err(OpenError::Unusable { servers: address.servers(), reason: refusal.to_string() });
        }
    };
    let wanted = stream::wanted(address, Options { partitions, max_bytes: u64::MAX }, 1);
    Ok(Some(Found {
        name: address.stream.clone(),
        version: connection.client.server_info().version.clone(),
        records: info.state.messages,
        bytes: info.state.bytes,
        max_bytes: u64::try_from(info.config.max_bytes).ok().filter(|bytes| *bytes > 0),
        replicas: info.config.num_replicas,
        complaint: stream::compare(&info.config, &wanted).err(),
    }))
}
