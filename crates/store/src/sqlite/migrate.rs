//! The schema's steps, in order, each run once inside a transaction.
//!
//! A step that has been released never changes; the next change is a new file.

use std::path::Path;

use rusqlite::Connection;

use crate::OpenError;

const STEPS: &[&str] = &[
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
    include_str!("migrations/0004.sql"),
    include_str!("migrations/0005.sql"),
    include_str!("migrations/0006.sql"),
    include_str!("migrations/0007.sql"),
    include_str!("migrations/0008.sql"),
    include_str!("migrations/0009.sql"),
    include_str!("migrations/0010.sql"),
];

/// The newest schema this version knows.
pub(super) fn known() -> u32 {
    u32::try_from(STEPS.len()).expect("there are few steps")
}

pub(super) fn run(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let shown = || path.display().to_string();
    let found: u32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|source| OpenError::Open { place: shown(), source: Box::new(source) })?;
    let known = known();
    if found > known {
        return Err(OpenError::TooNew { place: shown(), found, known });
    }
    for (step, version) in STEPS.iter().zip(1u32..).skip(found as usize) {
        apply(connection, step, version).map_err(|source| OpenError::Migrate {
            place: shown(),
            version,
            source: Box::new(source),
        })?;
    }
    Ok(())
}

fn apply(connection: &mut Connection, step: &str, version: u32) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(step)?;
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()
}
