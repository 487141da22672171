//! What a process stands on: the records and the event stream, where the settings say they are.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use caelum_model::join::ServerGrant;
use caelum_queue::Queue;
use caelum_store::{STREAM, Store};

use crate::{
    config::{Fault, Faults, Settings, keys},
    data::DataDirectory,
    enrolled,
    exit::Unreachable,
};

/// How long a start waits for backends that start at the same time.
const AWAIT_MAX: Duration = Duration::from_secs(60);
/// Time between tries.
const AWAIT_PAUSE: Duration = Duration::from_secs(1);

/// Records and event stream.
pub(super) struct Backends {
    pub(super) store: Arc<Store>,
    pub(super) queue: Arc<dyn Queue>,
    /// Whether others may use them at the same time.
    pub(super) is_shared: bool,
    /// Where they are, as it was written.
    pub(super) places: Places,
}

/// Where the backends are, as it was written: passwords are in it.
#[derive(Clone)]
pub(super) struct Places {
    /// The records.
    pub(super) store: String,
    /// The event stream, unless it is a file of this machine.
    pub(super) queue: Option<String>,
    /// Coordination, if it is not the records.
    pub(super) coordination: Option<String>,
}

impl Places {
    /// The same for another server, or for the next start of this one.
    pub(super) fn granted(&self, master_key: String) -> ServerGrant {
        ServerGrant {
            master_key,
            store: self.store.clone(),
            queue: self.queue.clone(),
            coordination: self.coordination.clone(),
        }
    }

    /// What the settings say or else what a join token brought along, or held at the last start.
    pub(super) fn of(settings: &Settings, data: &DataDirectory) -> Result<Self> {
        let granted = enrolled::grant(&data.secrets())?;
        let config = &settings.config;
        let own_store = || format!("sqlite:{}", data.store_file().display());
        let granted_store = granted.as_ref().map(|granted| granted.store.clone());
        Ok(Self {
            store: config.server.store.clone().or(granted_store).unwrap_or_else(own_store),
            queue: config
                .server
                .queue
                .clone()
                .or_else(|| granted.as_ref().and_then(|granted| granted.queue.clone())),
            coordination: config
                .cluster
                .address
                .clone()
                .or_else(|| granted.as_ref().and_then(|granted| granted.coordination.clone())),
        })
    }
}

impl Backends {
    /// Waits until everything that was accepted is durable.
    pub(super) fn close(&self) {
        self.queue.close();
        self.store.close();
    }
}

/// Opens both, and makes what is missing. Waits a while for servers that are just starting.
pub(super) async fn open(settings: &Settings, data: &DataDirectory) -> Result<Backends> {
    let store_address = store_address(settings, data)?;
    let is_shared = store_address.is_shared();
    let store = Arc::new(open_store(&store_address).await?);
    let partitions = settings.config.aggregator.partitions;
    keep_partitions(&store, partitions).await?;
    let queue_address = queue_address(settings, data)?;
    let options = caelum_queue::Options { partitions, max_bytes: settings.config.server.queue_max_mb << 20 };
    let queue = insist(&queue_address.to_string(), async || {
        caelum_queue::open(&queue_address, options).await.map_err(|error| match error {
            away @ caelum_queue::OpenError::Unreachable { .. } => Refused::ForNow(away.into()),
            other => Refused::ForGood(other.into()),
        })
    })
    .await?;
    keep_stream(&store, queue.as_ref()).await?;
    Ok(Backends { store, queue, is_shared, places: Places::of(settings, data)? })
}

/// Opens the records alone.
pub(super) async fn open_store(address: &caelum_store::Address) -> Result<Store> {
    insist(&address.to_string(), async || {
        Store::connect(address).await.map_err(|error| match error {
            away @ caelum_store::OpenError::Away { .. } => Refused::ForNow(away.into()),
            other => Refused::ForGood(other.into()),
        })
    })
    .await
}

/// Where the settings say that the records are.
pub(super) fn store_address(settings: &Settings, data: &DataDirectory) -> Result<caelum_store::Address> {
    Places::of(settings, data)?.store.parse().map_err(|error| fault(settings, "server.store", &error))
}

pub(super) fn queue_address(settings: &Settings, data: &DataDirectory) -> Result<caelum_queue::Address> {
    match &Places::of(settings, data)?.queue {
        Some(text) => text.parse().map_err(|error| fault(settings, "server.queue", &error)),
        None => Ok(caelum_queue::Address::Embedded(queue_file(data.root()))),
    }
}

fn queue_file(root: &Path) -> std::path::PathBuf {
    root.join("queue.db")
}

fn fault(settings: &Settings, key: &str, error: &dyn std::fmt::Display) -> anyhow::Error {
    let origin = settings.origins[keys::position(key)].clone();
    Faults(vec![Fault { origin, key: key.to_owned(), what: error.to_string() }]).into()
}

enum Refused {
    ForNow(anyhow::Error),
    ForGood(anyhow::Error),
}

async fn insist<T>(place: &str, open: impl AsyncFn() -> Result<T, Refused>) -> Result<T> {
    let started = tokio::time::Instant::now();
    let mut is_told = false;
    loop {
        match open().await {
            Ok(opened) => return Ok(opened),
            Err(Refused::ForGood(error)) => return Err(error),
            Err(Refused::ForNow(error)) if started.elapsed() >= AWAIT_MAX => {
                return Err(Unreachable(format!(
                    "{error:#}; it was tried for {} s: start it, or correct the address",
                    AWAIT_MAX.as_secs()
                ))
                .into());
            }
            Err(Refused::ForNow(error)) => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(code = "start.waiting", place, "waiting for a backend: {error:#}");
                }
            }
        }
        tokio::time::sleep(AWAIT_PAUSE).await;
    }
}

/// Offsets of one stream mean nothing in another: counting on would pass over what is in it.
async fn keep_stream(store: &Store, queue: &dyn Queue) -> Result<()> {
    let identity = queue.identity();
    let kept = store.fact(STREAM).await.context("read which stream was counted")?;
    match kept {
        Some(kept) if kept == identity => Ok(()),
        None => Ok(store.put_fact(STREAM, identity).await?),
        Some(kept) if kept.is_empty() => Ok(store.put_fact(STREAM, identity).await?),
        Some(kept) => Err(anyhow!(
            "these records were counted from the stream {kept}, and the settings name {identity}: set the queue \
             back and let it be counted to its end; or, to go on with the new stream from its beginning, say \
             `caelum db new-stream`. What is counted stays; what waits in the old stream does not come along"
        )),
    }
}

/// The stream's parts are fixed when it is made: with another number, probes would change their part and
/// what is counted of them would not be found.
async fn keep_partitions(store: &Store, partitions: u16) -> Result<()> {
    let kept = store.fact("partitions").await.context("read the number of partitions")?;
    match kept {
        None => Ok(store.put_fact("partitions", partitions.to_string()).await?),
        Some(kept) if kept == partitions.to_string() => Ok(()),
        Some(kept) => Err(anyhow!(
            "aggregator.partitions is {partitions}, and these records were made with {kept}: the number cannot \
             change; set it back"
        )),
    }
}
