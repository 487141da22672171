//! The records and the event stream as the doctor meets them: where the settings say they are, files or servers.
//! It looks only: no schema is changed and no stream is made.

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use caelum_engine::doctor::{
    Finding, Grade,
    backends::{self, Database, Refusal, Stream},
};
use caelum_engine::master_key::KeyPlace;
use caelum_queue::{Embedded, NatsAddress, Queue as _};
use caelum_roles::master_key::{MasterKey, Standing};
use caelum_store::{Address, Store};

use super::broken;
use crate::{
    commands::{backends as places, up::shared},
    config::Settings,
    data::DataDirectory,
};

/// Most time that a server is given. Each has shorter bounds of its own for each step.
const LOOK_MAX: Duration = Duration::from_secs(20);

/// The records.
pub(super) async fn of_store(settings: &Settings, data: &DataDirectory, findings: &mut Vec<Finding>) {
    match places::store_address(settings, data) {
        Ok(Address::Sqlite(file)) if file.is_file() => findings.push(of_file(&file).await),
        // `caelum up` makes it; the data directory's own finding says so.
        Ok(Address::Sqlite(_)) => {}
        Ok(address) => {
            let found = tokio::time::timeout(LOOK_MAX, of_database(&address)).await;
            let silent = |_| Err(away(format!("the database {address} does not answer")));
            findings.extend(backends::database(found.unwrap_or_else(silent)));
        }
        Err(error) => findings.push(unread("store", &error, "server.store")),
    }
}

/// The event stream.
pub(super) async fn of_queue(settings: &Settings, data: &DataDirectory, findings: &mut Vec<Finding>) {
    match places::queue_address(settings, data) {
        Ok(caelum_queue::Address::Embedded(file)) if file.is_file() => {
            findings.push(match Embedded::open(&file, u64::MAX) {
                Ok(queue) => Finding::ok("queue", format!("{} events wait in it", queue.depth().events)),
                Err(error) => broken("queue", &error, "restore queue.db from a backup, or move it away"),
            });
        }
        Ok(caelum_queue::Address::Embedded(_)) => {}
        Ok(caelum_queue::Address::Nats(address)) => {
            let partitions = settings.config.aggregator.partitions;
            let found = tokio::time::timeout(LOOK_MAX, of_nats(&address, partitions)).await;
            let silent = |_| Err(away(format!("NATS at {} does not answer", address.servers())));
            findings.extend(backends::stream(&address.servers(), found.unwrap_or_else(silent)));
        }
        Err(error) => findings.push(unread("queue", &error, "server.queue")),
    }
}

/// Whether the master key that a start would find here opens what is sealed in the records. Records that cannot be
/// looked at are a finding of their own.
pub(super) async fn of_master_key(settings: &Settings, data: &DataDirectory, findings: &mut Vec<Finding>) {
    let Ok(Some((secret, place))) = shared::master_key(&settings.config, &data.secrets()) else { return };
    let Ok(address) = places::store_address(settings, data) else { return };
    let found = tokio::time::timeout(LOOK_MAX, async {
        // To look is not to make one.
        if matches!(&address, Address::Sqlite(file) if !file.is_file()) {
            return None;
        }
        let store = Arc::new(Store::reach(&address).await.ok()?);
        let key = match MasterKey::in_memory(Arc::clone(&store), &secret) {
            Ok(key) => key,
            Err(error) => return Some(Err(error.to_string())),
        };
        let standing = key.standing().await.ok();
        store.close();
        standing.map(Ok)
    });
    match found.await {
        Ok(Some(Ok(standing))) => findings.extend(of_standing(&standing, place)),
        Ok(Some(Err(error))) => {
            findings.push(Finding::new(
                Grade::Fault,
                "master key",
                error,
                format!("correct {}", place.name()),
            ));
        }
        Ok(None) | Err(_) => {}
    }
}

fn of_standing(standing: &Standing, place: KeyPlace) -> Option<Finding> {
    const COPY: &str = "copy secrets/master.key from a server that runs, or set the new key where this server finds \
                        its own, and restart it; or join again by a token";
    let name = place.name();
    match standing {
        Standing::New => None,
        Standing::Current { generation, is_handing_over: false } => {
            Some(Finding::ok("master key", format!("number {generation}, from {name}")))
        }
        Standing::Current { generation, is_handing_over: true } => Some(Finding::new(
            Grade::Note,
            "master key",
            format!("number {generation}, from {name}; the key before it is still good for taking it up"),
            "`caelum fleet key` shows who waits, `caelum fleet rotate-key --finish` ends it",
        )),
        Standing::Before { generation } => Some(Finding::new(
            Grade::Warning,
            "master key",
            format!("{name} has the key before number {generation}, which is good until the hand-over ends"),
            match place {
                KeyPlace::File => "start the server: it takes up the new key by itself".to_owned(),
                place => format!("set {} to the new key and restart the server", place.name()),
            },
        )),
        Standing::Useless { generation, was_current: true, .. } => Some(Finding::new(
            Grade::Fault,
            "master key",
            format!("{name} has a key that was replaced; number {generation} is the current one"),
            COPY,
        )),
        Standing::Useless { .. } => Some(Finding::new(
            Grade::Fault,
            "master key",
            format!("{name} has a key that never was the one of these records"),
            COPY,
        )),
    }
}

async fn of_file(file: &Path) -> Finding {
    const REMEDY: &str = "stop Caelum and restore caelum.db from a backup";
    let store = match Store::open(file) {
        Ok(store) => store,
        Err(error) => return broken("store", &error, REMEDY),
    };
    match store.check().await {
        Ok(complaints) if complaints.is_empty() => Finding::ok("store", "opens and is whole"),
        Ok(complaints) => Finding::new(Grade::Fault, "store", complaints.join("; "), REMEDY),
        Err(error) => broken("store", &error, REMEDY),
    }
}

async fn of_database(address: &Address) -> Result<Database, Refusal> {
    let store = Store::reach(address).await.map_err(|error| Refusal {
        is_away: matches!(error, caelum_store::OpenError::Away { .. }),
        what: said(&error),
    })?;
    let refused =
        |error: caelum_store::StoreError| Refusal { is_away: error.is_transient(), what: said(&error) };
    let status = store.status().await.map_err(refused)?;
    // What is looked at next is only there in a database of this version; what comes first is a finding itself.
    let complaints = match status.health.schema == status.known_schema && status.health.is_primary {
        true => store.check().await.map_err(refused)?,
        false => Vec::new(),
    };
    store.close();
    let health = status.health;
    let replicas = health.replicas.into_iter();
    Ok(Database {
        what: format!("{} {} at {}", health.backend, health.version, health.place),
        is_too_old: health.is_too_old,
        schema: health.schema,
        known_schema: status.known_schema,
        is_primary: health.is_primary,
        complaints,
        lost_replicas: replicas
            .filter_map(|replica| Some(format!("{}: {}", replica.place, replica.fault?)))
            .collect(),
    })
}

async fn of_nats(address: &NatsAddress, partitions: u16) -> Result<Option<Stream>, Refusal> {
    let found = caelum_queue::look(address, partitions).await.map_err(|error| Refusal {
        is_away: matches!(error, caelum_queue::OpenError::Unreachable { .. }),
        what: said(&error),
    })?;
    Ok(found.map(|found| Stream {
        what: format!("the stream {} of NATS {} at {}", found.name, found.version, address.servers()),
        records: found.records,
        bytes: found.bytes,
        max_bytes: found.max_bytes,
        replicas: found.replicas,
        complaint: found.complaint,
    }))
}

fn away(what: String) -> Refusal {
    Refusal { what, is_away: true }
}

fn unread(subject: &str, error: &anyhow::Error, setting: &str) -> Finding {
    Finding::new(Grade::Fault, subject, format!("{error:#}"), format!("correct {setting}"))
}

/// An error with everything that led to it; of a database, why is deep inside.
fn said(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_opens_nothing_is_a_fault_and_one_that_still_hands_over_is_not() {
        let found = |standing, place| of_standing(&standing, place).expect("is said");
        let useless = Standing::Useless { generation: 3, changed_at_ms: None, was_current: true };
        let finding = found(useless, KeyPlace::File);
        assert_eq!(finding.level, Grade::Fault);
        assert!(finding.remedy.expect("what to do").contains("secrets/master.key"));
        let finding = found(Standing::Before { generation: 3 }, KeyPlace::Configuration);
        assert_eq!(finding.level, Grade::Warning);
        assert!(finding.remedy.expect("what to do").contains("set cluster.cluster_secret"));
        let current = Standing::Current { generation: 3, is_handing_over: false };
        assert_eq!(found(current, KeyPlace::File).level, Grade::Ok);
        assert!(of_standing(&Standing::New, KeyPlace::File).is_none());
    }
}
