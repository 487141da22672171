//! What starts this process and watches it: systemd, where it asked to be told.
//!
//! Without one, everything here does nothing. A supervisor that cannot be told is no reason to stop.

use std::{
    ffi::CString,
    io,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use sd_notify::NotifyState;

/// Says that this process does what it is for.
pub fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("running")]);
}

/// Says that this process ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping: what is in hand is finished first")]);
}

/// Says in a sentence how it stands, for `systemctl status`.
pub fn status(text: &str) {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    tell(&[NotifyState::Status(&line)]);
}

/// Says that this process is alive.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] must be said: twice as often as the supervisor asks for. None where nobody watches.
pub fn alive_every() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| (limit / 2).max(Duration::from_millis(100)))
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(code = "supervisor.not_told", %error, "the supervisor could not be told");
    }
}

/// Runs a supervisor's own program on this terminal, and answers whether it went well.
pub fn run(program: &str, arguments: &[&str]) -> io::Result<bool> {
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).status()?;
    Ok(status.success())
}

/// Whether systemd runs this machine.
pub fn is_systemd() -> bool {
    sd_notify::booted().unwrap_or(false)
}

/// Gives a file or folder to a user and the group of the same name.
pub fn give(path: &Path, user: &str) -> io::Result<()> {
    let name = CString::new(user).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the name ends with a zero; what is answered is read before anybody else can ask, since this
    // runs in a command of one thread.
    let (uid, gid) = unsafe {
        let found = libc::getpwnam(name.as_ptr());
        if found.is_null() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no user {user}")));
        }
        ((*found).pw_uid, (*found).pw_gid)
    };
    std::os::unix::fs::chown(path, Some(uid), Some(gid))
}

/// Whether there is a user of this name.
pub fn is_user(user: &str) -> bool {
    let Ok(name) = CString::new(user) else { return false };
    // SAFETY: the name ends with a zero; what is answered is compared with nothing else than null.
    unsafe { !libc::getpwnam(name.as_ptr()).is_null() }
}
