//! Seconds in which the machine did not keep up, so that what was measured in them says nothing of the network.
//!
//! Labs pass in real time. A virtual machine whose host gives the processor to others, or a process that is
//! not woken when it should be, makes real transfers really slow, and what is then said of them is right. Two
//! signs tell: what the kernel knows it was refused (`steal` of `/proc/stat`), and how late this process wakes.
//!
//! What a test does not judge for that reason it says aloud ([`shout`]): a test that passes keeps to itself what
//! it prints otherwise.

use std::{
    fs,
    io::{self, Write as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::wait;

/// How often it is looked.
const EVERY: Duration = Duration::from_millis(50);
/// A second in which the machine did nothing else but what it was asked for loses less: on a quiet one of two
/// processors it is 2 to 6 ms, and `steal` counts in steps of 10.
const QUIET: Duration = Duration::from_millis(10);
/// A jiffy of `/proc/stat`: `USER_HZ` is 100 on every Linux that matters here.
const JIFFY: Duration = Duration::from_millis(10);

/// A second that was looked at.
#[derive(Clone, Copy, Debug)]
pub struct Second {
    /// When it ended, ms since 1970.
    pub ended_ms: i64,
    /// What was lost in it: of all processors together, and of waking late.
    pub lost: Duration,
}

impl Second {
    /// Whether times of a few milliseconds that were measured in it are the network's and the servers'.
    pub fn is_quiet(&self) -> bool {
        self.lost < QUIET
    }
}

/// Looks until it is dropped.
pub struct Watch {
    seconds: Arc<Mutex<Vec<Second>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to look, in a thread of its own.
    pub fn start() -> Self {
        let (seconds, is_over) = (Arc::<Mutex<Vec<Second>>>::default(), Arc::<AtomicBool>::default());
        let (kept, ends) = (Arc::clone(&seconds), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let lost = look();
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(Second { ended_ms: now_ms(), lost });
            }
        });
        Self { seconds, is_over, thread: Some(thread) }
    }

    /// The whole seconds since it began.
    pub fn seconds(&self) -> Vec<Second> {
        self.seconds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Panics where what was measured since it began, in times of a few milliseconds, is not as it should be, unless
    /// the machine was quiet for less than half of the seconds: then that is nobody's fault, and it is said aloud.
    #[track_caller]
    pub fn judge(&self, is_right: bool, said: &str) {
        if is_right {
            return;
        }
        let seconds = self.seconds();
        let quiet = seconds.iter().filter(|second| second.is_quiet()).count();
        let lost: Vec<_> = seconds.iter().map(|second| second.lost).collect();
        assert!(quiet * 2 < seconds.len(), "{said}; of each second the machine lost {lost:?}");
        shout(&format!(
            "NOT JUDGED: {said}; the machine did not keep up (its host took the processor, or it woke late), of \
             each second it lost {lost:?}"
        ));
    }
}

/// Says what is not judged, past what a test that passes keeps to itself.
pub fn shout(reservation: &str) {
    // Where standard error is gone there is nobody to tell.
    drop(writeln!(io::stderr(), "{reservation}"));
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // It looks once more at most, and has nothing to say.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// What the second that begins loses.
fn look() -> Duration {
    let (began, stolen) = (Instant::now(), stolen(&stat()));
    let mut late = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(1) {
        let slept = Instant::now();
        wait::pass(EVERY);
        late += slept.elapsed().saturating_sub(EVERY);
    }
    late + self::stolen(&stat()).saturating_sub(stolen)
}

fn stat() -> String {
    // Where there is none, waking late is the only sign.
    fs::read_to_string("/proc/stat").unwrap_or_default()
}

/// `cpu  user nice system idle iowait irq softirq steal …`, see proc(5).
fn stolen(stat: &str) -> Duration {
    let steal =
        stat.lines().next().and_then(|line| line.split_ascii_whitespace().nth(8)?.parse::<u32>().ok());
    JIFFY * steal.unwrap_or(0)
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_took_is_read_in_time() {
        let stat = "cpu  8843362 2581959 1046681 5272874 45745 0 37060 2365 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(stolen(stat), Duration::from_millis(23_650));
        assert_eq!(stolen(""), Duration::ZERO);
    }
}
