//! Bills of materials: what the system's receipt of a package says was installed.
//!
//! A store of numbered blocks with named entrances. `Paths` is a tree whose single leaf lists, for each member,
//! the block that describes it and the block that names it under its parent; the other entrances are there
//! because readers expect them, and are empty. All numbers are big-endian.

use std::collections::BTreeMap;

use super::{Member, cpio};

/// Bytes of the header, most of them nothing.
const HEADER_BYTES: usize = 512;
/// Most members of one leaf; our packages have far fewer.
const LEAF_MAX: usize = 256;
/// The size of a page that trees name; nothing is of that size.
const PAGE_BYTES: u32 = 4_096;

/// Blocks by number, and where to enter.
#[derive(Default)]
struct Store {
    blocks: Vec<Vec<u8>>,
    entrances: Vec<(&'static str, u32)>,
}

impl Store {
    /// Keeps a block; its number, from 1 on.
    fn add(&mut self, block: Vec<u8>) -> u32 {
        self.blocks.push(block);
        self.blocks.len() as u32
    }

    fn enter(&mut self, name: &'static str, block: Vec<u8>) {
        let number = self.add(block);
        self.entrances.push((name, number));
    }

    /// A tree over a leaf.
    fn tree(&mut self, leaf: Vec<u8>, page_bytes: u32, paths: u32) -> Vec<u8> {
        let child = self.add(leaf);
        let mut tree = b"tree".to_vec();
        for number in [1, child, page_bytes, paths] {
            tree.extend(number.to_be_bytes());
        }
        tree.push(0);
        tree
    }

    fn into_bytes(self) -> Vec<u8> {
        let mut entrances = (self.entrances.len() as u32).to_be_bytes().to_vec();
        for (name, number) in &self.entrances {
            entrances.extend(number.to_be_bytes());
            entrances.push(name.len() as u8);
            entrances.extend(name.bytes());
        }
        let mut at = HEADER_BYTES + entrances.len();
        // Number 0 is no block.
        let mut index = (self.blocks.len() as u32 + 1).to_be_bytes().to_vec();
        index.extend([0; 8]);
        for block in &self.blocks {
            index.extend((at as u32).to_be_bytes());
            index.extend((block.len() as u32).to_be_bytes());
            at += block.len();
        }
        // The list of free blocks: none, and room for two as others leave it.
        index.extend([0; 4 + 2 * 8]);
        let mut bytes = b"BOMStore".to_vec();
        for number in [1, self.blocks.len(), at, index.len(), HEADER_BYTES, entrances.len()] {
            bytes.extend((number as u32).to_be_bytes());
        }
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend(entrances);
        for block in self.blocks {
            bytes.extend(block);
        }
        bytes.extend(index);
        bytes
    }
}

/// Lists members, all of root and of one time. Folders must be among them, before what is in them.
pub(crate) fn write(members: &[Member<'_>], mtime_s: u64) -> Vec<u8> {
    debug_assert!(members.len() <= LEAF_MAX, "a second leaf would be needed");
    let mut store = Store::default();
    let mut info = Vec::new();
    for number in [1, members.len() as u32 + 1, 1, 0, 0, 0, 0] {
        info.extend(number.to_be_bytes());
    }
    store.enter("BomInfo", info);

    // Readers go level by level: every member's parent has a smaller number.
    let mut ordered: Vec<&Member<'_>> = members.iter().collect();
    ordered.sort_by_key(|member| member.path.matches('/').count());
    let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
    let mut leaf = leaf(members.len());
    for (number, member) in (1_u32..).zip(ordered) {
        numbers.insert(&member.path, number);
        let (parent, name) = match member.path.rsplit_once('/') {
            Some((parent, name)) => (numbers.get(parent).copied().unwrap_or(0), name),
            None => (0, member.path.as_str()),
        };
        let about = store.add(description(member, mtime_s));
        let mut pair = number.to_be_bytes().to_vec();
        pair.extend(about.to_be_bytes());
        let pair = store.add(pair);
        let mut named = parent.to_be_bytes().to_vec();
        named.extend(name.bytes());
        named.push(0);
        let named = store.add(named);
        leaf.extend(pair.to_be_bytes());
        leaf.extend(named.to_be_bytes());
    }
    let paths = store.tree(leaf, PAGE_BYTES, members.len() as u32);
    store.enter("Paths", paths);
    let links = store.tree(self::leaf(0), PAGE_BYTES, 0);
    store.enter("HLIndex", links);
    let inner = store.tree(self::leaf(0), 128, 0);
    let inner = store.add(inner);
    let mut index = Vec::new();
    for number in [1, inner, 0] {
        index.extend(number.to_be_bytes());
    }
    index.push(0);
    store.enter("VIndex", index);
    let large = store.tree(self::leaf(0), PAGE_BYTES, 0);
    store.enter("Size64", large);
    store.into_bytes()
}

/// The head of a leaf: that it is one, how many it has, and that none is before or after it.
fn leaf(count: usize) -> Vec<u8> {
    let mut leaf = 1_u16.to_be_bytes().to_vec();
    leaf.extend((count as u16).to_be_bytes());
    leaf.extend([0; 8]);
    leaf
}

/// What is known of a member.
fn description(member: &Member<'_>, mtime_s: u64) -> Vec<u8> {
    let (kind, size, sum) = match member.is_folder() {
        true => (2, 0, 0),
        false => (1, member.bytes.len() as u32, cpio::cksum(member.bytes)),
    };
    let mut about = vec![kind, 1];
    about.extend(3_u16.to_be_bytes());
    about.extend((member.mode as u16).to_be_bytes());
    for number in [0, 0, mtime_s as u32, size] {
        about.extend(number.to_be_bytes());
    }
    about.push(1);
    for number in [sum, 0] {
        about.extend(number.to_be_bytes());
    }
    about
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A member as read back: its path, mode, size and sum.
    pub(crate) type Listed = (String, u16, u32, u32);

    /// Reads a bill of materials by its own description of itself, from the entrance on.
    pub(crate) fn read(bytes: &[u8]) -> Vec<Listed> {
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!((&bytes[..8], number(8)), (b"BOMStore".as_slice(), 1));
        let (index, entrances) = (number(16), number(24));
        assert_eq!(number(12) + 1, number(index));
        assert_eq!(index + number(20), bytes.len());
        let block = |id: usize| {
            let (at, length) = (number(index + 4 + id * 8), number(index + 8 + id * 8));
            &bytes[at..at + length]
        };
        let mut at = entrances + 4;
        let mut paths = None;
        for _ in 0..number(entrances) {
            let length = usize::from(bytes[at + 4]);
            if &bytes[at + 5..at + 5 + length] == b"Paths" {
                paths = Some(block(number(at)));
            }
            at += 5 + length;
        }
        let word =
            |block: &[u8], at: usize| u32::from_be_bytes(block[at..at + 4].try_into().unwrap()) as usize;
        let tree = paths.expect("an entrance");
        assert_eq!(&tree[..4], b"tree");
        let leaf = block(word(tree, 8));
        let count = usize::from(u16::from_be_bytes([leaf[2], leaf[3]]));
        assert_eq!(count, word(tree, 16));
        let mut found: BTreeMap<usize, String> = BTreeMap::new();
        let mut listed = Vec::new();
        for entry in leaf[12..].chunks(8) {
            let (pair, named) = (block(word(entry, 0)), block(word(entry, 4)));
            let name = std::str::from_utf8(&named[4..named.len() - 1]).unwrap();
            let path = match word(named, 0) {
                0 => name.to_owned(),
                parent => format!("{}/{name}", found[&parent]),
            };
            found.insert(word(pair, 0), path.clone());
            let about = block(word(pair, 4));
            let mode = u16::from_be_bytes([about[4], about[5]]);
            listed.push((path, mode, word(about, 18) as u32, word(about, 23) as u32));
        }
        assert_eq!(listed.len(), count);
        listed
    }

    #[test]
    fn every_member_is_listed_under_its_folder() {
        let member = |path: &str, mode, bytes| Member { path: path.to_owned(), mode, bytes };
        let members = [
            member(".", 0o040_755, b"".as_slice()),
            member("./a", 0o040_755, b""),
            member("./a/x", 0o100_600, b"123456789"),
            member("./b", 0o100_644, b""),
        ];
        let listed = read(&write(&members, 7));
        assert_eq!(
            listed,
            [
                (".".to_owned(), 0o040_755, 0, 0),
                ("./a".to_owned(), 0o040_755, 0, 0),
                ("./b".to_owned(), 0o100_644, 0, u32::MAX),
                ("./a/x".to_owned(), 0o100_600, 9, 930_766_865),
            ]
        );
    }
}
