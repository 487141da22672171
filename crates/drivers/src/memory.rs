//! Memory that this process holds and does not use, given back to the system.
//!
//! Starting takes much code that is never run again: reading arguments and settings, making certificates,
//! first handshakes. The kernel maps such pages of the program file with all their neighbours and keeps them
//! until memory runs short, and the allocator keeps what a burst of work left free. Both count as resident.
//! Pages of the program file, and of the libraries it is linked with, stay in the page cache, so that taking one
//! back is no read of a disk.
//!
//! It does not bound what the process uses; that is for whoever uses it. On systems other than Linux there
//! is nothing to do.

/// Why nothing could be given back.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The kernel does not tell what is mapped.
    #[error("read /proc/self/smaps: {0}")]
    Unreadable(#[from] std::io::Error),
    /// A mapping was refused.
    #[error("give back {length} bytes of the program's files: {source}")]
    Refused {
        /// How much it was about.
        length: usize,
        /// Why.
        source: std::io::Error,
    },
}

/// Keeps the allocator to two heaps, where it would have one for each thread, and notes which files the program
/// consists of. To be called first in a program: what is mapped later may go again.
pub fn prepare() {
    #[cfg(target_os = "linux")]
    linux::note_files();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only sets a number inside the allocator, before other threads exist.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Gives back what is free in the allocator and every page of the program file, and of the libraries that were
/// there when [`prepare`] was called. What is needed of a file is there again when it is touched. Takes about a
/// millisecond.
pub fn give_back() -> Result<(), MemoryError> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim only hands free memory of the allocator to the kernel.
    unsafe {
        libc::malloc_trim(0);
    }
    #[cfg(target_os = "linux")]
    linux::drop_file_pages()?;
    Ok(())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::sync::OnceLock;

    use super::MemoryError;

    /// A mapped part of the program file that was never written to.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) struct Clean {
        pub(super) start: usize,
        pub(super) length: usize,
    }

    /// A file: device and inode, as the kernel writes them.
    pub(super) type FileId = (String, String);

    /// The program's file and the libraries it is linked with: they stay mapped as they are for as long as the
    /// process lives, which cannot be said of libraries that are loaded later.
    static FILES: OnceLock<Vec<FileId>> = OnceLock::new();

    /// The clean mappings of these files, as they were when they were first looked for.
    static CLEAN: OnceLock<Vec<Clean>> = OnceLock::new();

    /// The kernel maps a page together with its neighbours, 64 or 128 kB at once, of one mapping. Of a program
    /// of which little is needed at a time, most of that is never touched. In smaller mappings it has fewer
    /// neighbours.
    const PART: usize = 8 << 10;

    pub(super) fn note_files() {
        FILES.get_or_init(|| {
            // Where the kernel does not tell, nothing is given back later.
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
            files(&maps)
        });
    }

    pub(super) fn drop_file_pages() -> Result<(), MemoryError> {
        let clean = match CLEAN.get() {
            Some(clean) => clean,
            None => {
                let smaps = std::fs::read_to_string("/proc/self/smaps")?;
                let files = FILES.get().map(Vec::as_slice).unwrap_or_default();
                let clean = CLEAN.get_or_init(|| clean(&smaps, files));
                clean.iter().try_for_each(divide)?;
                clean
            }
        };
        clean.iter().try_for_each(|Clean { start, length }| advise(*start, *length, libc::MADV_DONTNEED))
    }

    /// Makes many mappings of one: neighbours differ in an advice that is without effect here, for a core
    /// holds no file's pages anyway. The first part is left alone: it names the program in a core.
    fn divide(Clean { start, length }: &Clean) -> Result<(), MemoryError> {
        let first = (start / PART + 1) * PART;
        let last = (start + length).saturating_sub(PART);
        (first..=last).step_by(2 * PART).try_for_each(|part| advise(part, PART, libc::MADV_DONTDUMP))
    }

    /// Advice about clean mappings only.
    fn advise(start: usize, length: usize, advice: libc::c_int) -> Result<(), MemoryError> {
        // SAFETY: the range is a private mapping of the program's own file or of a library it was linked with,
        // which is mapped as long as the process lives; nobody may write to it and no page of it was ever
        // written to, so the file holds the same bytes and the kernel brings them back at the next touch. The
        // other advice changes no page.
        if unsafe { libc::madvise(start as *mut libc::c_void, length, advice) } == 0 {
            return Ok(());
        }
        Err(MemoryError::Refused { length, source: std::io::Error::last_os_error() })
    }

    /// One mapping, as its lines begin.
    struct Mapping<'a> {
        start: usize,
        end: usize,
        permissions: &'a str,
        /// Device and inode.
        file: (&'a str, &'a str),
        anonymous: Option<&'a str>,
    }

    /// The files with code that are mapped.
    pub(super) fn files(maps: &str) -> Vec<FileId> {
        let code = maps.lines().filter_map(heading).filter(|mapping| mapping.permissions.starts_with("r-x"));
        let named = code.map(|mapping| mapping.file).filter(|(_, inode)| *inode != "0");
        named.map(|(device, inode)| (device.to_owned(), inode.to_owned())).collect()
    }

    /// The mappings of these files that are private, not writable, and of which no page differs from the file.
    pub(super) fn clean(smaps: &str, files: &[FileId]) -> Vec<Clean> {
        let mut mappings: Vec<Mapping<'_>> = Vec::new();
        for line in smaps.lines() {
            if let Some(mapping) = heading(line) {
                mappings.push(mapping);
            } else if let (Some(size), Some(last)) = (line.strip_prefix("Anonymous:"), mappings.last_mut()) {
                last.anonymous = Some(size.trim());
            }
        }
        let is_clean = |mapping: &&Mapping<'_>| {
            let is_private = mapping.permissions.ends_with('p') && !mapping.permissions.contains('w');
            let is_known = files.iter().any(|(device, inode)| (&**device, &**inode) == mapping.file);
            is_known && is_private && mapping.anonymous == Some("0 kB")
        };
        let part = |mapping: &Mapping<'_>| Clean {
            start: mapping.start,
            length: mapping.end.saturating_sub(mapping.start),
        };
        mappings.iter().filter(is_clean).map(part).collect()
    }

    /// `5567505a8000-556750d02000 r--p 00000000 fe:00 1234 /usr/bin/caelum`
    fn heading(line: &str) -> Option<Mapping<'_>> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        let (permissions, _offset, device, inode) =
            (words.next()?, words.next()?, words.next()?, words.next()?);
        Some(Mapping { start, end, permissions, file: (device, inode), anonymous: None })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{linux::Clean, *};

    const SMAPS: &str = "\
1000-5000 r--p 00000000 fe:00 77 /usr/bin/caelum
Size:                 16 kB
Anonymous:             0 kB
5000-9000 r-xp 00004000 fe:00 77 /usr/bin/caelum
Anonymous:             0 kB
9000-a000 r--p 00008000 fe:00 77 /usr/bin/caelum
Anonymous:             4 kB
a000-b000 rw-p 00009000 fe:00 77 /usr/bin/caelum
Anonymous:             0 kB
b000-c000 rw-p 00000000 00:00 0 [heap]
Anonymous:             4 kB
c000-d000 r-xp 00000000 fe:00 78 /usr/lib/libc.so.6
Anonymous:             0 kB
d000-e000 r--s 00000000 fe:00 77 /usr/bin/caelum
Anonymous:             0 kB
e000-f000 r--p 00000000 fe:00 77 /usr/bin/caelum
";

    #[test]
    fn only_what_still_equals_the_program_s_files_is_given_back() {
        let file = |inode: &str| ("fe:00".to_owned(), inode.to_owned());
        let clean = |files: &[linux::FileId]| linux::clean(SMAPS, files);
        let program = [Clean { start: 0x1000, length: 0x4000 }, Clean { start: 0x5000, length: 0x4000 }];
        let library = [Clean { start: 0xc000, length: 0x1000 }];
        assert_eq!(clean(&[file("77")]), program);
        assert_eq!(clean(&[file("78")]), library);
        assert_eq!(clean(&[]), [], "what was not there at first may go again");
        assert_eq!(linux::clean("no such\ntable", &[file("77")]), []);
        assert_eq!(linux::files(SMAPS), [file("77"), file("78")]);
    }

    #[test]
    fn a_process_that_gave_everything_back_goes_on() {
        prepare();
        let kept: Vec<u64> = (0..10_000).collect();
        for _ in 0..3 {
            give_back().expect("the kernel tells and takes");
        }
        assert_eq!(kept.iter().sum::<u64>(), 49_995_000);
    }
}
