//! A backup's file: a tar archive packed by zstd, whose first entry says what the others are.
//!
//! # Rules
//! - The file has its name only when all of it is on the disk: it is written beside, synced and renamed.
//! - What is unpacked is what the first entry names, each file with its length and SHA-256. Anything else, and
//!   anything that leads out of the directory, is refused.
//! - Files and directories are their owner's only.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use caelum_model::backup::{BackedUp, FORMAT, Manifest};
use ring::digest::{Context, SHA256};

/// The first entry.
const MANIFEST: &str = "manifest.json";
/// Most bytes of it.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// Most files of a backup.
const FILES_MAX: usize = 256;
/// Quick, and records shrink to about a fifth by it.
const LEVEL: i32 = 1;

/// A file that goes into a backup.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its place in the data directory.
    pub name: String,
    /// Where it is now.
    pub path: PathBuf,
}

/// Why a backup was not written or not read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The disk or the directory said no.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is no backup, or was damaged.
    #[error("{} is no whole backup: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    move |source| ArchiveError::File { what, path: path.to_owned(), source }
}

/// Length and SHA-256 of a source.
pub fn describe(source: &Source) -> Result<BackedUp, ArchiveError> {
    let mut file = File::open(&source.path).map_err(failed("read", &source.path))?;
    let (bytes, sha256) = copy(&mut file, &mut io::sink()).map_err(failed("read", &source.path))?;
    Ok(BackedUp { name: source.name.clone(), bytes, sha256 })
}

/// Writes a backup of these sources, which `manifest` describes in the same order; answers how long it is.
pub fn write(to: &Path, manifest: &Manifest, sources: &[Source]) -> Result<u64, ArchiveError> {
    let part = to.with_extension("part");
    let written = write_part(&part, manifest, sources);
    if written.is_err() {
        // What is wrong is told already; half a backup helps nobody.
        drop(fs::remove_file(&part));
    }
    let bytes = written?;
    fs::rename(&part, to).map_err(failed("write", to))?;
    let folder = to.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("write", folder))?;
    Ok(bytes)
}

fn write_part(part: &Path, manifest: &Manifest, sources: &[Source]) -> Result<u64, ArchiveError> {
    let failed = |source| ArchiveError::File { what: "write", path: part.to_owned(), source };
    let file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(part).map_err(failed)?;
    let packed = zstd::Encoder::new(file, LEVEL).map_err(failed)?;
    let mut archive = tar::Builder::new(packed);
    let about = serde_json::to_vec_pretty(manifest).expect("a manifest is plain data");
    let mut append = |name: &str, bytes: u64, from: &mut dyn Read| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes);
        header.set_mode(0o600);
        header.set_mtime(manifest.made_at_ms.unsigned_abs() / 1_000);
        header.set_cksum();
        archive.append_data(&mut header, name, from)
    };
    append(MANIFEST, about.len() as u64, &mut &about[..]).map_err(failed)?;
    for (source, described) in sources.iter().zip(&manifest.files) {
        let mut file = File::open(&source.path).map_err(|error| ArchiveError::File {
            what: "read",
            path: source.path.clone(),
            source: error,
        })?;
        append(&described.name, described.bytes, &mut file).map_err(failed)?;
    }
    let file = archive.into_inner().and_then(zstd::Encoder::finish).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    Ok(file.metadata().map_err(failed)?.len())
}

/// What a backup says of itself. Nothing else of it is read.
pub fn manifest(from: &Path) -> Result<Manifest, ArchiveError> {
    let mut archive = open(from)?;
    let mut entries = archive.entries().map_err(|error| damaged(from, &error))?;
    let first = entries.next().ok_or_else(|| damaged(from, &"it is empty"))?;
    read_manifest(from, &mut first.map_err(|error| damaged(from, &error))?)
}

/// Unpacks a backup into a directory that must not be there yet, and checks every byte of it.
pub fn unpack(from: &Path, into: &Path) -> Result<Manifest, ArchiveError> {
    let mut archive = open(from)?;
    let mut entries = archive.entries().map_err(|error| damaged(from, &error))?;
    let first = entries.next().ok_or_else(|| damaged(from, &"it is empty"))?;
    let manifest = read_manifest(from, &mut first.map_err(|error| damaged(from, &error))?)?;
    make_private(into)?;
    for described in &manifest.files {
        let entry = entries.next().ok_or_else(|| damaged(from, &format!("{} is missing", described.name)))?;
        let mut entry = entry.map_err(|error| damaged(from, &error))?;
        if *entry.path_bytes() != *described.name.as_bytes() || !entry.header().entry_type().is_file() {
            return Err(damaged(from, &format!("{} is not where it should be", described.name)));
        }
        let path = into.join(&described.name);
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            make_private(folder)?;
        }
        let options = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = options.map_err(failed("write", &path))?;
        let mut entry = (&mut entry).take(described.bytes.saturating_add(1));
        let (bytes, sha256) = copy(&mut entry, &mut file).map_err(failed("unpack", &path))?;
        if bytes != described.bytes || sha256 != described.sha256 {
            return Err(damaged(from, &format!("{} is not what was packed", described.name)));
        }
        file.sync_all().map_err(failed("write", &path))?;
    }
    match entries.next() {
        None => Ok(manifest),
        Some(_) => Err(damaged(from, &"there is more in it than it names")),
    }
}

/// Makes a directory that is its owner's only.
pub fn make_private(folder: &Path) -> Result<(), ArchiveError> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().mode(0o700).recursive(true).create(folder).map_err(failed("make", folder))
}

fn open(from: &Path) -> Result<tar::Archive<impl Read>, ArchiveError> {
    let file = File::open(from).map_err(failed("read", from))?;
    Ok(tar::Archive::new(zstd::Decoder::new(file).map_err(failed("read", from))?))
}

fn damaged(from: &Path, what: &dyn ToString) -> ArchiveError {
    ArchiveError::Damaged { path: from.to_owned(), what: what.to_string() }
}

fn read_manifest(from: &Path, entry: &mut tar::Entry<'_, impl Read>) -> Result<Manifest, ArchiveError> {
    if *entry.path_bytes() != *MANIFEST.as_bytes() {
        return Err(damaged(from, &"it does not say what is in it"));
    }
    let mut text = Vec::new();
    entry.take(MANIFEST_BYTES_MAX).read_to_end(&mut text).map_err(|error| damaged(from, &error))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| damaged(from, &error))?;
    if manifest.format != FORMAT {
        return Err(damaged(
            from,
            &format!("its layout is {}, and this version knows {FORMAT}", manifest.format),
        ));
    }
    if manifest.files.len() > FILES_MAX {
        return Err(damaged(from, &format!("it names {} files", manifest.files.len())));
    }
    match manifest.files.iter().find(|file| !is_plain(&file.name)) {
        None => Ok(manifest),
        Some(file) => Err(damaged(from, &format!("it names {:?}", file.name))),
    }
}

/// Whether a name is that of a file in the data directory or in one of its directories.
fn is_plain(name: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|sign| sign.is_ascii_alphanumeric() || b"._-".contains(&sign))
    };
    name.len() <= 100 && name.split('/').count() <= 2 && name.split('/').all(is_part)
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<(u64, String)> {
    let (mut digest, mut bytes, mut buffer) = (Context::new(&SHA256), 0, vec![0; 64 << 10]);
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        digest.update(&buffer[..length]);
        to.write_all(&buffer[..length])?;
        bytes += length as u64;
    }
    Ok((bytes, digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(folder: &Path) -> (PathBuf, Manifest) {
        fs::create_dir(folder.join("from")).expect("a folder");
        let contents = [("caelum.db", &b"records"[..]), ("secrets/ca.key", b"a key")];
        let sources: Vec<_> = contents
            .iter()
            .enumerate()
            .map(|(number, (name, bytes))| {
                let path = folder.join("from").join(number.to_string());
                fs::write(&path, bytes).expect("written");
                Source { name: (*name).to_owned(), path }
            })
            .collect();
        let manifest = Manifest {
            format: FORMAT,
            version: "1".to_owned(),
            made_at_ms: 1_000,
            node_id: "n-1".to_owned(),
            cluster_name: "home".to_owned(),
            files: sources.iter().map(|source| describe(source).expect("read")).collect(),
        };
        let to = folder.join("caelum-19700101T000001Z.backup");
        assert!(write(&to, &manifest, &sources).expect("written") > 0);
        (to, manifest)
    }

    #[test]
    fn what_was_packed_comes_out_and_is_its_owners_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let (file, written) = packed(folder.path());
        let into = folder.path().join("into");
        assert_eq!(manifest(&file).expect("read"), written);
        assert_eq!(unpack(&file, &into).expect("unpacked"), written);
        assert_eq!(fs::read(into.join("secrets/ca.key")).expect("there"), b"a key");
        for path in [&file, &into.join("caelum.db"), &into.join("secrets")] {
            let mode = fs::metadata(path).expect("there").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", path.display());
        }
        assert!(unpack(&file, &into).is_err(), "nothing is written over");
    }

    #[test]
    fn a_backup_that_was_cut_or_changed_anywhere_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, _) = packed(folder.path());
        let whole = fs::read(&file).expect("there");
        let harmed = folder.path().join("harmed.backup");
        let is_refused = |bytes: &[u8], number: usize| {
            fs::write(&harmed, bytes).expect("written");
            let into = folder.path().join(format!("into-{number}"));
            unpack(&harmed, &into).is_err()
        };
        for length in (0..whole.len()).step_by(7) {
            assert!(is_refused(&whole[..length], length), "cut at {length}");
        }
        // Its contents, repacked with one byte changed: zstd does not notice, the digests do.
        let mut plain = zstd::decode_all(&whole[..]).expect("unpacked");
        let at = plain.windows(7).position(|window| window == b"records").expect("there");
        plain[at] ^= 1;
        assert!(is_refused(&zstd::encode_all(&plain[..], 1).expect("packed"), whole.len()));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in
            ["../x", "/etc/passwd", "a/../../b", "a/b/c", "", "a//b", ".ssh/key", "x\0y", "secrets/.."]
        {
            assert!(!is_plain(name), "{name:?}");
        }
        for name in ["caelum.db", "secrets/ca.key", "caelum.toml", "secrets/probe.token"] {
            assert!(is_plain(name), "{name}");
        }
    }
}
