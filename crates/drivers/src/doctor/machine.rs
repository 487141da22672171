//! This machine: its limits, its clock, its disk, its firewall programs.

use std::{ffi::CString, io, os::unix::ffi::OsStrExt as _, path::Path};

/// Programs that rule a firewall, the ones that people use themselves first.
const FIREWALLS: [&str; 4] = ["ufw", "firewall-cmd", "nft", "iptables"];
/// Where system programs are, also where PATH of an ordinary user does not lead.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/bin"];

/// Free space for this user in a folder's file system, bytes.
#[cfg_attr(
    target_os = "linux",
    expect(clippy::useless_conversion, reason = "the numbers are narrower on other systems")
)]
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let path = CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: statvfs is plain numbers, for which zero is a value.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero byte and the place for the answer outlives the call.
    match unsafe { libc::statvfs(path.as_ptr(), &raw mut found) } {
        0 => Ok(u64::from(found.f_bavail).saturating_mul(u64::from(found.f_frsize))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How many files this process may open.
pub fn open_files_max() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the place for the answer outlives the call.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } {
        0 => Ok(limit.rlim_cur),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the kernel says that something keeps its clock right; none where it does not say.
#[cfg(target_os = "linux")]
pub fn is_clock_synchronised() -> Option<bool> {
    // SAFETY: timex is plain numbers, for which zero is a value; its modes are then none, which only reads.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the place for the answer outlives the call.
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    (answer >= 0).then_some(state.status & libc::STA_UNSYNC == 0)
}

/// Whether the kernel says that something keeps its clock right; none where it does not say.
#[cfg(not(target_os = "linux"))]
pub fn is_clock_synchronised() -> Option<bool> {
    None
}

/// Which firewall programs are here.
pub fn firewalls() -> Vec<&'static str> {
    let is_here =
        |program: &&str| SYSTEM_FOLDERS.iter().any(|folder| Path::new(folder).join(program).exists());
    FIREWALLS.into_iter().filter(is_here).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_space_and_one_that_is_not_there_has_none() {
        assert!(free_bytes(Path::new("/")).is_ok());
        assert!(free_bytes(Path::new("/is/not/there")).is_err());
        assert!(open_files_max().unwrap() > 0);
    }
}
