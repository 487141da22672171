//! The stream itself: made when it is not there, compared when it is, never changed.
//!
//! Settings that would lose or double events are errors; those that only bound what is kept are warnings.

use std::{collections::BTreeSet, time::Duration};

use async_nats::jetstream::{
    Context, ErrorCode,
    stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType},
};
use tokio::time::Instant;

use super::{
    OPEN_WAIT,
    api::{self, Refusal},
};
use crate::{NatsAddress, OpenError, Options};

/// How long the server remembers names of records.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Replicas where nobody says how many and there are enough servers.
const REPLICAS: usize = 3;
/// Between two tries while the servers are coming up.
const RETRY: Duration = Duration::from_millis(200);

/// The subject of a partition.
pub(super) fn subject(stream: &str, partition: u16) -> String {
    format!("{stream}.{partition}")
}

pub(super) fn wanted(address: &NatsAddress, options: Options, replicas: usize) -> Config {
    Config {
        name: address.stream.clone(),
        description: Some("events of Caelum, a subject a partition".to_owned()),
        subjects: (0..options.partitions).map(|partition| subject(&address.stream, partition)).collect(),
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        max_bytes: i64::try_from(options.max_bytes).unwrap_or(-1),
        duplicate_window: DUPLICATE_WINDOW,
        num_replicas: replicas,
        ..Config::default()
    }
}

/// Finds the stream or makes it, and says what is wrong with it if anything is.
pub(super) async fn ensure(
    context: &Context,
    address: &NatsAddress,
    options: Options,
) -> Result<Info, OpenError> {
    let started = Instant::now();
    let mut replicas = address.replicas.unwrap_or(REPLICAS);
    loop {
        let refusal = match find_or_make(context, &wanted(address, options, replicas)).await {
            Ok(info) => {
                compare(&info.config, &wanted(address, options, replicas))
                    .map_err(|reason| stream_error(address, reason))?;
                warn(&info.config, &wanted(address, options, replicas), address.replicas.is_some());
                return Ok(info);
            }
            Err(refusal) => refusal,
        };
        let may_do_with_one = address.replicas.is_none() && replicas > 1;
        match refusal.kind() {
            Some(ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED) if may_do_with_one => {
                replicas = 1;
                continue;
            }
            // A cluster that is coming up may have three servers in a moment.
            Some(ErrorCode::CLUSTER_NO_PEERS) if may_do_with_one && started.elapsed() > OPEN_WAIT / 2 => {
                tracing::warn!(
                    code = "queue.few_servers",
                    stream = address.stream,
                    "NATS is a cluster of fewer than {REPLICAS} servers with JetStream: events are kept on one"
                );
                replicas = 1;
                continue;
            }
            Some(ErrorCode::STREAM_NAME_EXIST | ErrorCode::CLUSTER_NO_PEERS) => {}
            Some(ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT) => {
                return Err(OpenError::Unusable {
                    servers: address.servers(),
                    reason: "JetStream is not enabled there; add `jetstream {}` to its settings".to_owned(),
                });
            }
            Some(ErrorCode::STORAGE_RESOURCES_EXCEEDED | ErrorCode::INSUFFICIENT_RESOURCES) => {
                return Err(OpenError::Unusable {
                    servers: address.servers(),
                    reason: format!(
                        "it has no room for {} MiB of events ({refusal}); give JetStream more (max_file_store of \
                         nats-server, by itself three quarters of the free disk), or set a lower \
                         server.queue_max_mb",
                        options.max_bytes >> 20
                    ),
                });
            }
            _ if refusal.is_passing() => {}
            _ => return Err(stream_error(address, refusal.to_string())),
        }
        if started.elapsed() >= OPEN_WAIT {
            let reason = format!("the stream {} is not to be had: {refusal}", address.stream);
            return Err(OpenError::Unusable { servers: address.servers(), reason });
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn stream_error(address: &NatsAddress, reason: String) -> OpenError {
    OpenError::Stream { stream: address.stream.clone(), servers: address.servers(), reason }
}

async fn find_or_make(context: &Context, wanted: &Config) -> Result<Info, Refusal> {
    match api::info(context, &wanted.name).await {
        Err(refusal) if refusal.kind() == Some(ErrorCode::STREAM_NOT_FOUND) => {}
        found => return found,
    }
    let made: Info = api::ask(context, format!("STREAM.CREATE.{}", wanted.name), wanted).await?;
    tracing::info!(
        code = "queue.stream_made",
        stream = wanted.name,
        replicas = made.config.num_replicas,
        partitions = made.config.subjects.len(),
        max_bytes = made.config.max_bytes,
        "made the stream of events"
    );
    Ok(made)
}

/// Says why events would be lost or doubled in a stream like this, if they would.
pub(super) fn compare(found: &Config, wanted: &Config) -> Result<(), String> {
    let subjects = |config: &Config| config.subjects.iter().cloned().collect::<BTreeSet<_>>();
    if subjects(found) != subjects(wanted) {
        return Err(format!(
            "it has {} subjects ({} …) where {} partitions ({} …) are set; the number of partitions is fixed when \
             the stream is made, so set it back, or name another stream",
            found.subjects.len(),
            found.subjects.first().map_or("none", String::as_str),
            wanted.subjects.len(),
            wanted.subjects.first().map_or("none", String::as_str),
        ));
    }
    let faults = [
        (found.storage != wanted.storage, "it keeps records in memory only"),
        (
            found.retention != wanted.retention,
            "its retention is not \"limits\": reading would remove records",
        ),
        (found.discard != wanted.discard, "it discards old records to make room for new ones"),
        (!found.max_age.is_zero(), "it forgets records that are older than its max_age"),
        (
            found.max_messages_per_subject > 0 && !found.discard_new_per_subject,
            "it forgets records beyond its max_msgs_per_subject",
        ),
        (found.no_ack, "it does not acknowledge"),
        (found.sealed || found.deny_purge, "nothing can be removed from it"),
        (found.mirror.is_some() || found.sources.is_some(), "it is a copy of other streams"),
    ];
    match faults.iter().find(|(is_wrong, _)| *is_wrong) {
        Some((_, fault)) => {
            Err(format!("{fault}; change that with the tools of NATS, or name another stream"))
        }
        None => Ok(()),
    }
}

/// Says what is merely not as wished.
fn warn(found: &Config, wanted: &Config, replicas_are_set: bool) {
    let stream = &found.name;
    if found.max_bytes != wanted.max_bytes {
        tracing::warn!(
            code = "queue.stream_differs",
            stream,
            found = found.max_bytes,
            wanted = wanted.max_bytes,
            "the stream was made with another limit of bytes; it is left as it is, and its own limit holds"
        );
    }
    if found.duplicate_window < wanted.duplicate_window {
        tracing::warn!(
            code = "queue.stream_differs", stream, found = ?found.duplicate_window,
            "the stream forgets names of records early; what is sent again is told by its events instead"
        );
    }
    if replicas_are_set && found.num_replicas != wanted.num_replicas {
        tracing::warn!(
            code = "queue.stream_differs",
            stream,
            found = found.num_replicas,
            wanted = wanted.num_replicas,
            "the stream has another number of replicas; it is left as it is"
        );
    }
    if found.num_replicas < 2 {
        tracing::warn!(
            code = "queue.one_replica",
            stream,
            "the stream is on one server, which writes to its disk lazily: what is acknowledged survives a \
             killed program and not a lost machine or power; three servers and three replicas, or the \
             embedded queue, do better"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Address;

    fn some_config() -> Config {
        let Ok(Address::Nats(address)) = "nats://a".parse() else { panic!("an address of NATS") };
        wanted(&address, Options { partitions: 2, max_bytes: u64::MAX }, 1)
    }

    #[test]
    fn a_stream_has_a_subject_for_each_partition() {
        let config = some_config();
        assert_eq!(config.subjects, ["CAELUM_EVENTS.0", "CAELUM_EVENTS.1"]);
        assert_eq!(config.max_bytes, -1);
    }

    #[test]
    fn a_stream_that_would_lose_events_is_refused_with_the_reason() {
        type Wrong = fn(&mut Config);
        let wrongs: [(Wrong, &str); 6] = [
            (|config| config.subjects.truncate(1), "1 subjects"),
            (|config| config.discard = DiscardPolicy::Old, "discards old"),
            (|config| config.storage = StorageType::Memory, "in memory only"),
            (|config| config.retention = RetentionPolicy::WorkQueue, "reading would remove"),
            (|config| config.max_age = Duration::from_secs(1), "max_age"),
            (|config| config.deny_purge = true, "nothing can be removed"),
        ];
        assert_eq!(compare(&some_config(), &some_config()), Ok(()));
        for (wrong, reason) in wrongs {
            let mut found = some_config();
            wrong(&mut found);
            let error = compare(&found, &some_config()).expect_err(reason);
            assert!(error.contains(reason), "{error}");
        }
    }
}
