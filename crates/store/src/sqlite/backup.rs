//! A copy of the records as they are at one moment, made while they are written to.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::{Sqlite, fault};
use crate::StoreError;

impl Sqlite {
    /// Writes a copy into a file that must not be there yet. Neither readers nor the writer wait for it.
    pub(crate) async fn copy_to(&self, to: &Path) -> Result<(), StoreError> {
        const OPERATION: &str = "copy the records";
        let (from, to) = (self.path.clone(), to.to_owned());
        match tokio::task::spawn_blocking(move || copy(from, &to)).await {
            Ok(copied) => copied.map_err(|source| fault(OPERATION, source)),
            Err(_) => Err(StoreError::Closed { operation: OPERATION }),
        }
    }
}

/// On a connection of its own: the readers' are not allowed to write anywhere.
fn copy(from: PathBuf, to: &Path) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(from, flags)?;
    connection.execute_batch("pragma busy_timeout = 10000; pragma cache_size = -4096;")?;
    connection.execute("vacuum into ?1", [to.to_string_lossy()])?;
    Ok(())
}
