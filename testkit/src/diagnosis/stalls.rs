//! Seconds in which the machine did not keep up, so that what was measured in them says nothing of the network.
//!
//! The lab passes in real time. A virtual machine whose host gives the processor to others, or a process that is
//! not woken when it should be, makes real transfers really slow, and what is then said of them is right. Two
//! signs tell: what the kernel knows it was refused (`steal` of `/proc/stat`), and how late this process wakes.

use std::{
    fs,
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
/// A second is lost from so much on, of all processors together and of waking late.
const LOST: Duration = Duration::from_millis(250);
/// A jiffy of `/proc/stat`: `USER_HZ` is 100 on every Linux that matters here.
const JIFFY: Duration = Duration::from_millis(10);

/// Looks until it is dropped.
pub(super) struct Watch {
    lost_ms: Arc<Mutex<Vec<i64>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn start() -> Self {
        let (lost_ms, is_over) = (Arc::<Mutex<Vec<i64>>>::default(), Arc::<AtomicBool>::default());
        let (kept, ends) = (Arc::clone(&lost_ms), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let lost = look();
                if lost >= LOST {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(now_ms());
                }
            }
        });
        Self { lost_ms, is_over, thread: Some(thread) }
    }

    /// When they ended, ms since 1970.
    pub(super) fn lost_ms(&self) -> Vec<i64> {
        self.lost_ms.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // It looks once more at most, and has nothing to say.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// What a second loses.
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
