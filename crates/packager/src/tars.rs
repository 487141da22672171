//! Archives whose bytes depend on nothing but what is put in: owner, order and times are given.

use std::io::{self, Write};

use flate2::{Compression, GzBuilder, write::GzEncoder};
use tar::{Builder, EntryType, Header};

/// Compresses well enough, at a fraction of the time of the best.
const LEVEL: u32 = 6;

/// Begins a gzip stream without a time or a name in it.
pub(crate) fn gzip() -> GzEncoder<Vec<u8>> {
    GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::new(LEVEL))
}

/// Bytes as a gzip stream.
pub(crate) fn gzipped(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = gzip();
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// A tar archive in the making.
pub(crate) struct Tar<W: Write> {
    builder: Builder<W>,
    mtime_s: u64,
    /// Owner of what follows, by number.
    pub owner: u64,
}

impl<W: Write> Tar<W> {
    /// An archive whose members all have this time.
    pub fn new(to: W, mtime_s: u64) -> Self {
        Self { builder: Builder::new(to), mtime_s, owner: 0 }
    }

    fn header(&self, kind: EntryType, mode: u32, size: usize) -> io::Result<Header> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_mtime(self.mtime_s);
        header.set_uid(self.owner);
        header.set_gid(self.owner);
        if self.owner == 0 {
            header.set_username("root")?;
            header.set_groupname("root")?;
        }
        Ok(header)
    }

    /// Adds a folder.
    pub fn folder(&mut self, path: &str, mode: u32) -> io::Result<()> {
        let mut header = self.header(EntryType::Directory, mode, 0)?;
        self.builder.append_data(&mut header, format!("{path}/"), io::empty())
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        let mut header = self.header(EntryType::Regular, mode, bytes.len())?;
        self.builder.append_data(&mut header, path, bytes)
    }

    /// Ends the archive.
    pub fn finish(self) -> io::Result<W> {
        self.builder.into_inner()
    }
}
