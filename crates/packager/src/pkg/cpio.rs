//! Archives in the old portable form of `cpio` (odc), as macOS packages hold them.

use super::Member;

/// Device that all members are said to be on: any will do, but the pair with the inode must differ.
const DEVICE: u32 = 0;

/// Writes members in their order, all of root and of one time.
pub(crate) fn write(members: &[Member<'_>], mtime_s: u64) -> Vec<u8> {
    let mut archive = Vec::new();
    for (inode, member) in (1_u32..).zip(members) {
        let links = if member.is_folder() { 2 } else { 1 };
        entry(&mut archive, &member.path, inode, member.mode, links, mtime_s, member.bytes);
    }
    entry(&mut archive, "TRAILER!!!", 0, 0, 1, 0, b"");
    archive
}

fn entry(to: &mut Vec<u8>, path: &str, inode: u32, mode: u32, links: u32, mtime_s: u64, bytes: &[u8]) {
    let header = format!(
        "070707{DEVICE:06o}{:06o}{mode:06o}{:06o}{:06o}{links:06o}{:06o}{:011o}{:06o}{:011o}{path}\0",
        inode & 0o777_777,
        0,
        0,
        0,
        mtime_s & 0o77_777_777_777,
        path.len() + 1,
        bytes.len(),
    );
    to.extend_from_slice(header.as_bytes());
    to.extend_from_slice(bytes);
}

/// The checksum of `cksum(1)`, which bills of materials hold.
pub(crate) fn cksum(bytes: &[u8]) -> u32 {
    let mut length = Vec::new();
    let mut rest = bytes.len();
    while rest > 0 {
        length.push((rest & 0xff) as u8);
        rest >>= 8;
    }
    let crc = bytes
        .iter()
        .chain(&length)
        .fold(0_u32, |crc, byte| (crc << 8) ^ TABLE[usize::from((crc >> 24) as u8 ^ byte)]);
    !crc
}

/// The polynomial, divided into every byte.
const TABLE: [u32; 256] = {
    let mut table = [0_u32; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000_0000 != 0 { (crc << 1) ^ 0x04c1_1db7 } else { crc << 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_the_standard() {
        // As cksum(1) prints them.
        assert_eq!(cksum(b""), 4_294_967_295);
        assert_eq!(cksum(b"123456789"), 930_766_865);
    }
}
