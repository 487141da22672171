//! The schema's steps, in order, each run once inside a transaction, by one process at a time.
//!
//! A step that has been released never changes; the next change is a new file.

use deadpool_postgres::Object;
use tokio_postgres::Error;

use super::{faults, parts::LOCK_MIGRATE, schema_version};
use crate::OpenError;

pub(super) const STEPS: &[&str] = &[
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
    include_str!("migrations/0004.sql"),
    include_str!("migrations/0005.sql"),
    include_str!("migrations/0006.sql"),
    include_str!("migrations/0007.sql"),
    include_str!("migrations/0008.sql"),
];

/// The newest schema this version knows.
pub(super) fn known() -> u32 {
    u32::try_from(STEPS.len()).expect("there are few steps")
}

/// Takes the connection for good where a step fails: the lock and whatever else it holds go with it.
pub(super) async fn run(mut client: Object, place: &str) -> Result<(), OpenError> {
    let done = steps(&mut client, place).await;
    if done.is_err() {
        drop(Object::take(client));
    }
    done
}

async fn steps(client: &mut Object, place: &str) -> Result<(), OpenError> {
    let found = schema_version(client).await.map_err(|error| open(place, error))?;
    if found > known() {
        return Err(OpenError::TooNew { place: place.to_owned(), found, known: known() });
    }
    if found == known() {
        return Ok(());
    }
    // A lock of the session, taken before each step's transaction begins: what the server remembers of the
    // names of tables is as old as the transaction.
    let lock = format!(
        "set lock_timeout = '120s'; set statement_timeout = '600s'; select pg_advisory_lock({LOCK_MIGRATE})"
    );
    client.batch_execute(&lock).await.map_err(|error| open(place, error))?;
    for (step, version) in STEPS.iter().zip(1u32..).skip(found as usize) {
        apply(client, step, version).await.map_err(|error| match faults::kind(&error) {
            crate::FaultKind::Transient => open(place, error),
            _ => OpenError::Migrate { place: place.to_owned(), version, source: told(error) },
        })?;
    }
    let unlock =
        format!("select pg_advisory_unlock({LOCK_MIGRATE}); reset lock_timeout; reset statement_timeout");
    client.batch_execute(&unlock).await.map_err(|error| open(place, error))
}

/// Another process may have made the step while this one waited for the lock.
async fn apply(client: &mut Object, step: &str, version: u32) -> Result<(), Error> {
    let transaction = client.transaction().await?;
    if schema_version(transaction.client()).await? < version {
        transaction.batch_execute(step).await?;
        transaction
            .execute(
                "insert into schema_steps (version, digest) values ($1, md5($2))",
                &[&version.cast_signed(), &step],
            )
            .await?;
    }
    transaction.commit().await
}

fn told(error: Error) -> crate::BoxedError {
    match faults::of("bring the schema up to date", error) {
        crate::StoreError::Backend { source, .. } => source,
        other => Box::new(other),
    }
}

fn open(place: &str, error: Error) -> OpenError {
    let place = place.to_owned();
    match faults::kind(&error) {
        crate::FaultKind::Transient => OpenError::Away { place, source: told(error) },
        _ => OpenError::Open { place, source: told(error) },
    }
}
