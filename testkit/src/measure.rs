//! What a process costs, as the kernel counts it (Linux).

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};

/// A number that somebody may set in the environment, for a longer proof.
pub fn variable(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Processor time that a process has used since its start, all threads together.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("read the process's state")?;
    let ticks = cpu_ticks(&text).context("read the process's state: it has not the form we know")?;
    // SAFETY: sysconf only answers a number.
    let ticks_per_s = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let ticks_per_s = u32::try_from(ticks_per_s).ok().filter(|ticks| *ticks > 0).unwrap_or(100);
    Ok(Duration::from_secs_f64(ticks as f64 / f64::from(ticks_per_s)))
}

/// Time in user and kernel mode, in ticks. The name before them is in brackets and may contain anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// Memory of a process that is in RAM, bytes: now, and at its highest.
pub fn resident_bytes(pid: u32) -> Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("read the process's memory")?;
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let read = kib("VmRSS").zip(kib("VmHWM"));
    let (now, highest) = read.context("read the process's memory: it has not the form we know")?;
    Ok((now * 1024, highest * 1024))
}

/// How often a process has gone to sleep since its start, all threads that it has now together: each time it
/// was woken before.
pub fn sleeps(pid: u32) -> Result<u64> {
    let mut sleeps = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("list the process's threads")? {
        // A thread that ended meanwhile takes its count with it.
        let text = fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sleeps += line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sleeps)
}

/// What a process has cost since its start, and holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Memory in RAM, bytes: now, …
    pub resident: u64,
    /// … and at its highest.
    pub highest: u64,
    /// Processor time.
    pub cpu: Duration,
    /// How often it went to sleep.
    pub sleeps: u64,
}

impl Cost {
    /// Of this process, now.
    pub fn of(pid: u32) -> Result<Self> {
        let (resident, highest) = resident_bytes(pid)?;
        Ok(Self { resident, highest, cpu: cpu_time(pid)?, sleeps: sleeps(pid)? })
    }
}

/// Bytes as mebibytes, for people.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The release binary, built beside the program that asks.
pub fn sibling_binary() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let folder = own.parent().context("find this program's folder")?;
    let binary = folder.join("caelum");
    anyhow::ensure!(
        binary.is_file(),
        "there is no {}: run `cargo xtask bench`, which builds it",
        binary.display()
    );
    Ok(binary)
}

/// The value of an option `--name N` on this program's command line, or its default.
pub fn option(name: &str, default: u64) -> Result<u64> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == name) {
        Some(at) => {
            let value = arguments.get(at + 1).with_context(|| format!("{name} needs a number"))?;
            value.parse().with_context(|| format!("{name} needs a number, not {value}"))
        }
        None => Ok(default),
    }
}

/// The word after `--name` on this program's command line, if it is there.
pub fn word(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.next().and_then(|_| arguments.next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read_past_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 12345 1 2";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("nothing"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let (now, highest) = resident_bytes(std::process::id()).expect("is running");
        assert!(now > 0 && highest >= now);
    }
}
