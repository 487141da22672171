//! What a child did to its files, and what a disk may hold of it after a power cut.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail};

/// A disk writes so many bytes at once or none of them.
const SECTOR: usize = 512;

#[derive(Debug)]
enum Op {
    Create { inode: u64, name: String },
    Write { inode: u64, at: usize, data: Vec<u8> },
    Truncate { inode: u64, size: usize },
    Sync { inode: u64 },
    SyncFolder,
    Rename { from: String, to: String },
    Unlink { name: String },
    Mark(String),
}

/// Everything that a child did, in order.
#[derive(Debug)]
pub struct Journal {
    ops: Vec<Op>,
}

/// One power cut.
#[derive(Debug)]
pub struct Cut<'a> {
    /// So many calls were made before it.
    pub at: usize,
    /// What the child had said by then.
    pub marks: &'a [String],
}

/// A change of a file that no sync has covered.
#[derive(Clone, Debug)]
enum Change {
    Write { at: usize, data: Vec<u8> },
    Truncate { size: usize },
}

/// A change of names that no sync of the folder has covered.
#[derive(Clone, Debug)]
enum Renaming {
    Create { name: String, file: usize },
    Rename { from: String, to: String },
    Unlink { name: String },
}

#[derive(Default)]
struct Disk {
    /// Kept bytes, and what came after them.
    files: Vec<(Vec<u8>, Vec<Change>)>,
    inodes: BTreeMap<u64, usize>,
    names: BTreeMap<String, usize>,
    renamings: Vec<Renaming>,
}

/// What becomes of what was not synced.
#[derive(Clone, Copy)]
enum Fate {
    Gone,
    Kept,
    Chance,
}

impl Journal {
    pub(super) fn read(mut bytes: &[u8]) -> Option<Self> {
        let mut ops = Vec::new();
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at_checked(25)?;
            let number = |from: usize, to: usize| {
                head[from..to].iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
            };
            let (inode, at) = (number(1, 9), usize::try_from(number(9, 17)).ok()?);
            let (name, rest) = rest.split_at_checked(usize::try_from(number(17, 21)).ok()?)?;
            let (data, rest) = rest.split_at_checked(usize::try_from(number(21, 25)).ok()?)?;
            let name = String::from_utf8_lossy(name).into_owned();
            let text = || String::from_utf8_lossy(data).into_owned();
            ops.push(match head[0] {
                b'C' => Op::Create { inode, name },
                b'W' => Op::Write { inode, at, data: data.to_vec() },
                b'T' => Op::Truncate { inode, size: at },
                b'S' => Op::Sync { inode },
                b'D' => Op::SyncFolder,
                b'R' => Op::Rename { from: name, to: text() },
                b'U' => Op::Unlink { name },
                b'M' => Op::Mark(text()),
                _ => return None,
            });
            bytes = rest;
        }
        Some(Self { ops })
    }

    /// How many calls there are.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether the child did nothing.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Cuts the power at so many points, spread over the child's life, and shows each folder. What was not
    /// synced is gone in one cut out of four, kept in another, and torn by chance in the rest.
    pub fn each_cut(&self, count: usize, seed: u64, mut look: impl FnMut(&Path, &Cut<'_>)) -> Result<()> {
        let (mut disk, mut marks, mut done) = (Disk::default(), Vec::new(), 0);
        for number in 0..count {
            let at = (number + 1) * self.ops.len() / count;
            for op in &self.ops[done..at] {
                match op {
                    Op::Mark(text) => marks.push(text.clone()),
                    op => disk.apply(op)?,
                }
            }
            done = at;
            let fate = [Fate::Chance, Fate::Gone, Fate::Chance, Fate::Kept][number % 4];
            let folder = tempfile::tempdir().context("make a folder for what is left")?;
            disk.write(folder.path(), fate, &mut Chance(seed ^ (number as u64) << 32))?;
            look(folder.path(), &Cut { at, marks: &marks });
        }
        Ok(())
    }

    /// Whether what was seen is all that was done: otherwise a way to write is not watched.
    pub(super) fn check_against(&self, root: &Path) -> Result<()> {
        let mut disk = Disk::default();
        for op in &self.ops {
            disk.apply(op)?;
        }
        let rebuilt = tempfile::tempdir().context("make a folder for what is left")?;
        disk.write(rebuilt.path(), Fate::Kept, &mut Chance(0))?;
        for entry in fs::read_dir(root).context("list the child's folder")? {
            let name = entry.context("list the child's folder")?.file_name();
            if name == "lock" || name.to_string_lossy().ends_with("-shm") {
                continue;
            }
            let ours = fs::read(rebuilt.path().join(&name)).unwrap_or_default();
            let theirs = fs::read(root.join(&name)).context("read what the child wrote")?;
            if ours != theirs {
                bail!("{} was changed in a way that is not watched", name.display());
            }
        }
        Ok(())
    }
}

impl Disk {
    fn apply(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::Create { inode, name } => {
                self.inodes.insert(*inode, self.files.len());
                self.renamings.push(Renaming::Create { name: name.clone(), file: self.files.len() });
                self.files.push((Vec::new(), Vec::new()));
            }
            Op::Write { inode, at, data } => {
                self.changes(*inode)?.push(Change::Write { at: *at, data: data.clone() });
            }
            Op::Truncate { inode, size } => self.changes(*inode)?.push(Change::Truncate { size: *size }),
            Op::Sync { inode } => {
                let file = self.file(*inode)?;
                let (kept, changes) = &mut self.files[file];
                for change in changes.drain(..) {
                    apply(kept, &change);
                }
            }
            Op::SyncFolder => {
                for renaming in std::mem::take(&mut self.renamings) {
                    rename(&mut self.names, &renaming);
                }
            }
            Op::Rename { from, to } => {
                self.renamings.push(Renaming::Rename { from: from.clone(), to: to.clone() });
            }
            Op::Unlink { name } => self.renamings.push(Renaming::Unlink { name: name.clone() }),
            Op::Mark(_) => {}
        }
        Ok(())
    }

    fn file(&self, inode: u64) -> Result<usize> {
        self.inodes.get(&inode).copied().context("find a file: it was not made while it was watched")
    }

    fn changes(&mut self, inode: u64) -> Result<&mut Vec<Change>> {
        let file = self.file(inode)?;
        Ok(&mut self.files[file].1)
    }

    fn write(&self, folder: &Path, fate: Fate, chance: &mut Chance) -> Result<()> {
        let through = match fate {
            Fate::Gone => 0,
            Fate::Kept => self.renamings.len(),
            Fate::Chance => chance.below(self.renamings.len() + 1),
        };
        let mut names = self.names.clone();
        for renaming in &self.renamings[..through] {
            rename(&mut names, renaming);
        }
        for (name, file) in names {
            let (kept, changes) = &self.files[file];
            let mut bytes = kept.clone();
            for change in changes {
                match (fate, change) {
                    (Fate::Gone, _) => {}
                    (Fate::Kept, change) => apply(&mut bytes, change),
                    (Fate::Chance, change) => match (chance.below(3), change) {
                        (0, _) => {}
                        (1, Change::Write { at, data }) => tear(&mut bytes, *at, data, chance),
                        (_, change) => apply(&mut bytes, change),
                    },
                }
            }
            let path = folder.join(&name);
            fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { at, data } => put(bytes, *at, data),
        Change::Truncate { size } => bytes.resize(*size, 0),
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

/// Writes some of the sectors that a write touches.
fn tear(bytes: &mut Vec<u8>, at: usize, data: &[u8], chance: &mut Chance) {
    let mut from = 0;
    while from < data.len() {
        let to = (SECTOR - (at + from) % SECTOR + from).min(data.len());
        if chance.below(2) == 0 {
            put(bytes, at + from, &data[from..to]);
        }
        from = to;
    }
}

fn rename(names: &mut BTreeMap<String, usize>, renaming: &Renaming) {
    match renaming {
        Renaming::Create { name, file } => {
            names.insert(name.clone(), *file);
        }
        Renaming::Rename { from, to } => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Renaming::Unlink { name } => {
            names.remove(name);
        }
    }
}

/// Numbers that look like chance and are the same each time (SplitMix64; Steele, Lea, Flood 2014).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(ops: Vec<Op>, fate: Fate) -> BTreeMap<String, Vec<u8>> {
        let mut disk = Disk::default();
        for op in ops {
            disk.apply(&op).expect("the file is known");
        }
        let folder = tempfile::tempdir().expect("a folder");
        disk.write(folder.path(), fate, &mut Chance(7)).expect("written");
        fs::read_dir(folder.path())
            .expect("listed")
            .map(|entry| {
                let path = entry.expect("an entry").path();
                let name = path.file_name().expect("a name").to_string_lossy().into_owned();
                (name, fs::read(path).expect("read"))
            })
            .collect()
    }

    fn made(name: &str) -> Vec<Op> {
        let data = vec![1; 1200];
        vec![Op::Create { inode: 5, name: name.into() }, Op::Write { inode: 5, at: 0, data }]
    }

    #[test]
    fn bytes_are_kept_by_a_sync_of_the_file_and_its_name_by_one_of_the_folder() {
        let mut ops = made("a");
        ops.push(Op::Sync { inode: 5 });
        assert_eq!(left(ops, Fate::Gone).len(), 0);
        let mut ops = made("a");
        ops.push(Op::SyncFolder);
        assert_eq!(left(ops, Fate::Gone)["a"].len(), 0);
        let mut ops = made("a");
        ops.extend([Op::SyncFolder, Op::Sync { inode: 5 }, Op::Truncate { inode: 5, size: 0 }]);
        assert_eq!(left(ops, Fate::Gone)["a"], [1; 1200]);
        assert_eq!(left(made("a"), Fate::Kept)["a"], [1; 1200]);
    }

    #[test]
    fn a_file_of_a_new_name_is_under_its_old_one_until_the_folder_is_synced() {
        let mut ops = made("a");
        ops.extend([Op::SyncFolder, Op::Rename { from: "a".into(), to: "b".into() }]);
        assert!(left(ops, Fate::Gone).contains_key("a"));
        let mut ops = made("a");
        ops.extend([Op::Rename { from: "a".into(), to: "b".into() }, Op::SyncFolder]);
        assert_eq!(left(ops, Fate::Gone).into_keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_torn_write_is_whole_sectors() {
        let (mut bytes, mut chance) = (vec![0; 2048], Chance(3));
        for _ in 0..20 {
            bytes.fill(0);
            tear(&mut bytes, 100, &[1; 1500], &mut chance);
            for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                let written = sector.iter().filter(|byte| **byte == 1).count();
                let whole = [412, 512, 512, 64][index];
                assert!(written == 0 || written == whole, "{written} bytes of sector {index}");
            }
        }
    }
}
