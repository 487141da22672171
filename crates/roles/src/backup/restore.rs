//! A backup that is looked at, or put back.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use caelum_drivers::archive;
use caelum_model::backup::Manifest;
use caelum_queue::Embedded;
use caelum_store::{STREAM, Store};

use super::{BackupError, DUMP, QUEUE, RECORDS, SECRETS, SETTINGS, Scratch, blocking, words};

/// The queue of a backup is opened for a look, however large.
const QUEUE_BYTES_MAX: u64 = u64::MAX;

/// Restores a backup aside and looks at all of it: every byte, the records by their own check, the queue.
pub async fn verify(file: &Path) -> Result<Manifest, BackupError> {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let scratch = Scratch::name(folder, &format!(".{name}.check"))?;
    let (from, into) = (file.to_owned(), scratch.0.clone());
    let manifest = blocking(move || archive::unpack(&from, &into)).await??;
    look_into(&scratch.0).await?;
    Ok(manifest)
}

/// Opens what was unpacked as what it is. Records of an older version are brought up to date by that.
async fn look_into(folder: &Path) -> Result<(), BackupError> {
    let records = folder.join(RECORDS);
    if records.is_file() {
        let unusable = |why| BackupError::Unusable { what: RECORDS, why };
        let store = Store::open(&records).map_err(|error| unusable(words(&error)))?;
        let complaints = store.check().await?;
        store.close();
        if !complaints.is_empty() {
            return Err(unusable(complaints.join("; ")));
        }
    }
    let queue = folder.join(QUEUE);
    if queue.is_file() {
        let opened = blocking(move || Embedded::open(&queue, QUEUE_BYTES_MAX)).await?;
        opened.map_err(|error| BackupError::Unusable { what: QUEUE, why: words(&error) })?;
    }
    Ok(())
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Restored {
    /// What the backup said of itself.
    pub manifest: Manifest,
    /// Where what was there before is now.
    pub aside: Option<PathBuf>,
    /// A dump of records that their server's own tool must read.
    pub dump: Option<PathBuf>,
}

/// Puts a backup into a data directory whose lock the caller holds. What is there already is refused or, with
/// `is_replacing`, set aside whole.
pub async fn restore(file: &Path, data: &Path, is_replacing: bool) -> Result<Restored, BackupError> {
    let is_occupied = data.join(RECORDS).exists() || data.join(SECRETS).join("ca.key").exists();
    if is_occupied && !is_replacing {
        return Err(BackupError::Occupied(data.to_owned()));
    }
    archive::make_private(data)?;
    let scratch = Scratch::name(data, ".restore")?;
    let (from, into) = (file.to_owned(), scratch.0.clone());
    let manifest = blocking(move || archive::unpack(&from, &into)).await??;
    look_into(&scratch.0).await?;
    count_anew(&scratch.0.join(RECORDS)).await?;

    let aside = is_occupied.then(|| unused(data));
    if let Some(aside) = &aside {
        archive::make_private(aside)?;
        for name in [RECORDS, QUEUE, SECRETS, SETTINGS, "spool"] {
            move_to(data, aside, name)?;
            for companion in ["-wal", "-shm"] {
                move_to(data, aside, &format!("{name}{companion}"))?;
            }
        }
    }
    // The records last: a directory without them is one that was never started.
    for name in [SETTINGS, SECRETS, DUMP, QUEUE, RECORDS] {
        if name == SECRETS && data.join(SECRETS).is_dir() {
            // What is left of an empty directory that was made in advance.
            fs::remove_dir(data.join(SECRETS)).map_err(|source| BackupError::File {
                what: "replace",
                path: data.join(SECRETS),
                source,
            })?;
        }
        // What was written to the records while they were looked at may still stand in their log.
        move_to(&scratch.0, data, &format!("{name}-wal"))?;
        move_to(&scratch.0, data, name)?;
    }
    let dump = Some(data.join(DUMP)).filter(|path| path.is_file());
    Ok(Restored { manifest, aside, dump })
}

/// The queue that comes back is a stream of its own, read from its beginning; the head of this file says why.
async fn count_anew(records: &Path) -> Result<(), BackupError> {
    if !records.is_file() {
        return Ok(());
    }
    let store =
        Store::open(records).map_err(|error| BackupError::Unusable { what: RECORDS, why: words(&error) })?;
    store.restart_offsets().await?;
    store.put_fact(STREAM, String::new()).await?;
    store.close();
    Ok(())
}

/// A directory for what was there before; nothing that was set aside earlier is written over.
fn unused(data: &Path) -> PathBuf {
    let names = (1u64..).map(|number| data.join(format!("before-restore-{number}")));
    names.into_iter().find(|path| !path.exists()).expect("there are more numbers than directories")
}

fn move_to(from: &Path, to: &Path, name: &str) -> Result<(), BackupError> {
    let (from, to) = (from.join(name), to.join(name));
    match fs::rename(&from, &to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        moved => moved.map_err(|source| BackupError::File { what: "move", path: from, source }),
    }
}
