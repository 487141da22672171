//! What a program is for, read from its own header: an ELF or Mach-O file that would not run on the machine
//! must not be put into a package for it.
//!
//! The bytes are an operator's file and not trusted: every read is bounded, nothing panics.

use caelum_model::package::Platform;

/// How a program for Linux finds its C library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Libc {
    /// It brings its own, or needs none.
    Static,
    /// The machine's glibc, of this version of the 2 series or later.
    Glibc {
        /// The minor version.
        minor: u32,
    },
    /// Not known for this system.
    System,
}

/// What a program's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binary {
    /// The machines it runs on.
    pub platform: Platform,
    /// Its C library.
    pub libc: Libc,
}

/// Why a file is no program that can be packed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BinaryError {
    /// Neither form.
    #[error("the file is neither an ELF nor a Mach-O program for a 64-bit machine")]
    Unknown,
    /// It starts as one and does not go on as one.
    #[error("the file is damaged: {0}")]
    Damaged(&'static str),
    /// For other machines.
    #[error("the program is for {found}, not for {wanted}", found = .found.as_str(), wanted = .wanted.as_str())]
    Other {
        /// What it is for.
        found: Platform,
        /// What was asked for.
        wanted: Platform,
    },
    /// It needs a loader that few machines have.
    #[error("the program needs the loader {0:?}; use a static or a glibc one")]
    Loader(String),
    /// An image holds nothing but the program.
    #[error("the program needs the C library of its machine, and an image has none; use a static one")]
    NotStatic,
    /// macOS on ARM starts nothing unsigned.
    #[error("the program has no code signature, and macOS on ARM starts none without; an ad-hoc one will do")]
    Unsigned,
}

impl Binary {
    /// Refuses it where it is for other machines.
    pub fn expect(self, wanted: Platform) -> Result<(), BinaryError> {
        match self.platform == wanted {
            true => Ok(()),
            false => Err(BinaryError::Other { found: self.platform, wanted }),
        }
    }
}

/// Reads a program's header.
pub fn inspect(bytes: &[u8]) -> Result<Binary, BinaryError> {
    match bytes.get(..4) {
        Some(b"\x7fELF") => elf(bytes),
        Some([0xcf, 0xfa, 0xed, 0xfe]) => mach_o(bytes),
        _ => Err(BinaryError::Unknown),
    }
}

fn elf(bytes: &[u8]) -> Result<Binary, BinaryError> {
    const HEADER: BinaryError = BinaryError::Damaged("its header is cut short");
    const SEGMENTS: BinaryError = BinaryError::Damaged("its segments lie outside of it");
    /// Program headers that are looked at.
    const SEGMENTS_MAX: usize = 128;
    const INTERPRETER: u32 = 3;
    if bytes.get(4..6) != Some(&[2, 1]) {
        return Err(BinaryError::Unknown);
    }
    let is_program = matches!(u16_at(bytes, 16), Some(2 | 3));
    let platform = match u16_at(bytes, 18) {
        Some(0x3e) if is_program => Platform::LinuxX86,
        Some(0xb7) if is_program => Platform::LinuxArm,
        _ => return Err(BinaryError::Unknown),
    };
    let start = u64_at(bytes, 32).and_then(|at| usize::try_from(at).ok()).ok_or(HEADER)?;
    let (size, count) = (u16_at(bytes, 54).ok_or(HEADER)?, u16_at(bytes, 56).ok_or(HEADER)?);
    for index in 0..usize::from(count).min(SEGMENTS_MAX) {
        let at = start.checked_add(index * usize::from(size)).ok_or(SEGMENTS)?;
        if u32_at(bytes, at).ok_or(SEGMENTS)? != INTERPRETER {
            continue;
        }
        let read = |at| u64_at(bytes, at).and_then(|value| usize::try_from(value).ok()).ok_or(SEGMENTS);
        let (from, length) =
            (read(at.checked_add(8).ok_or(SEGMENTS)?)?, read(at.checked_add(32).ok_or(SEGMENTS)?)?);
        let end = from.checked_add(length.min(256)).ok_or(SEGMENTS)?;
        let loader = String::from_utf8_lossy(bytes.get(from..end).ok_or(SEGMENTS)?);
        let loader = loader.trim_end_matches('\0');
        return match loader.contains("/ld-linux") {
            true => Ok(Binary { platform, libc: Libc::Glibc { minor: glibc_minor(bytes) } }),
            false => Err(BinaryError::Loader(loader.chars().filter(|c| !c.is_control()).collect())),
        };
    }
    Ok(Binary { platform, libc: Libc::Static })
}

/// The newest glibc that the program asks for by name.
fn glibc_minor(bytes: &[u8]) -> u32 {
    const NAME: &[u8] = b"\0GLIBC_2.";
    let mut newest = 0;
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == b'G') {
        let before = at.saturating_sub(1);
        if rest[before..].starts_with(NAME) {
            let digits = rest[before + NAME.len()..].iter().take(4).take_while(|byte| byte.is_ascii_digit());
            let minor = digits.fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
            newest = newest.max(minor);
        }
        rest = &rest[at + 1..];
    }
    newest
}

fn mach_o(bytes: &[u8]) -> Result<Binary, BinaryError> {
    const COMMANDS: BinaryError = BinaryError::Damaged("its load commands lie outside of it");
    /// Load commands that are looked at.
    const COMMANDS_MAX: u32 = 4_096;
    const CODE_SIGNATURE: u32 = 0x1d;
    const HEADER_BYTES: usize = 32;
    let platform = match (u32_at(bytes, 4), u32_at(bytes, 12)) {
        (Some(0x0100_0007), Some(2)) => Platform::MacosX86,
        (Some(0x0100_000c), Some(2)) => Platform::MacosArm,
        _ => return Err(BinaryError::Unknown),
    };
    let mut at = HEADER_BYTES;
    let mut is_signed = false;
    for _ in 0..u32_at(bytes, 16).ok_or(COMMANDS)?.min(COMMANDS_MAX) {
        is_signed |= u32_at(bytes, at).ok_or(COMMANDS)? == CODE_SIGNATURE;
        let size = u32_at(bytes, at + 4).ok_or(COMMANDS)? as usize;
        if size < 8 {
            return Err(COMMANDS);
        }
        at = at.checked_add(size).ok_or(COMMANDS)?;
    }
    match is_signed || platform == Platform::MacosX86 {
        true => Ok(Binary { platform, libc: Libc::System }),
        false => Err(BinaryError::Unsigned),
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

/// A header and some bytes that pass for a program, for tests of what is made around it.
#[cfg(test)]
pub(crate) fn stand_in(platform: Platform) -> Vec<u8> {
    let mut bytes = vec![0; 4_096];
    if platform.is_macos() {
        bytes[..4].copy_from_slice(&[0xcf, 0xfa, 0xed, 0xfe]);
        bytes[4..8]
            .copy_from_slice(&if platform.is_arm() { 0x0100_000c_u32 } else { 0x0100_0007 }.to_le_bytes());
        bytes[12] = 2;
        bytes[16] = 1;
        bytes[32] = 0x1d;
        bytes[36] = 16;
    } else {
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16] = 3;
        bytes[18] = if platform.is_arm() { 0xb7 } else { 0x3e };
    }
    // Compresses as badly as a program does.
    let mut state = 1_u32;
    for byte in &mut bytes[128..] {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF program with one segment that names its loader.
    fn with_loader(loader: &[u8], names: &[u8]) -> Vec<u8> {
        let mut bytes = stand_in(Platform::LinuxX86);
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = 3;
        bytes[68..120].fill(0);
        bytes[73] = 2;
        bytes[96] = u8::try_from(loader.len()).unwrap();
        bytes[512..512 + loader.len()].copy_from_slice(loader);
        bytes[1_024..1_024 + names.len()].copy_from_slice(names);
        bytes
    }

    #[test]
    fn a_programs_header_says_what_it_runs_on() {
        for platform in Platform::ALL {
            let found = inspect(&stand_in(platform)).unwrap();
            assert_eq!(found.platform, platform);
            assert_eq!(found.expect(platform), Ok(()));
            let others = Platform::ALL.into_iter().filter(|other| *other != platform);
            others.for_each(|wanted| assert!(found.expect(wanted).is_err()));
        }
    }

    #[test]
    fn the_newest_glibc_that_is_named_is_the_one_that_is_needed() {
        let names = b"\0GLIBC_2.4\0GLIBC_2.34\0GLIBC_2.17\0 GLIBC_2.99\0";
        let found = inspect(&with_loader(b"/lib64/ld-linux-x86-64.so.2\0", names)).unwrap();
        assert_eq!(found.libc, Libc::Glibc { minor: 34 });
        let other = inspect(&with_loader(b"/lib/ld-musl-x86_64.so.1\0", b""));
        assert_eq!(other, Err(BinaryError::Loader("/lib/ld-musl-x86_64.so.1".into())));
    }

    #[test]
    fn the_program_that_runs_this_test_is_one() {
        let own = std::env::current_exe().and_then(std::fs::read).unwrap();
        let found = inspect(&own).unwrap();
        assert_eq!(Some(found.platform), Platform::own());
    }

    #[test]
    fn macos_on_arm_wants_a_signature() {
        let mut bytes = stand_in(Platform::MacosArm);
        bytes[32] = 0x1b;
        assert_eq!(inspect(&bytes), Err(BinaryError::Unsigned));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let whole = with_loader(b"/lib64/ld-linux-x86-64.so.2\0", b"\0GLIBC_2.");
        for program in [whole, stand_in(Platform::MacosArm)] {
            for length in 0..program.len() {
                let _ = inspect(&program[..length]);
            }
            for at in 0..160 {
                for value in [0, 1, 0x7f, 0xff] {
                    let mut bytes = program.clone();
                    bytes[at] = value;
                    let _ = inspect(&bytes);
                }
            }
        }
    }
}
