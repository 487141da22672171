//! Waiting for something to become true, with a deadline. The only place that lets real time pass.
//!
//! A test states the condition and how long it may take at worst; it goes on as soon as the condition
//! holds, so a fast machine waits for nothing.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks until there is something to be seen, or panics with what was waited for.
#[track_caller]
pub fn until<T>(what: &str, at_most: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    match within(at_most, &mut look) {
        Some(seen) => seen,
        None => panic!("waited {at_most:?} in vain until {what}"),
    }
}

/// Looks until there is something to be seen, or answers none when the time is over.
pub fn within<T>(at_most: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + at_most;
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

/// Lets real time pass, for measurements that are about time. Tests have conditions instead.
pub fn pass(time: Duration) {
    thread::sleep(time);
}

/// [`until`] for looks that wait for an answer themselves.
pub async fn until_answered<T>(what: &str, at_most: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + at_most;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < end, "waited {at_most:?} in vain until {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_look_is_after_the_deadline() {
        let mut looks = 0;
        let seen = within(Duration::ZERO, || {
            looks += 1;
            None::<()>
        });
        assert_eq!((seen, looks), (None, 1));
    }

    #[test]
    fn waiting_ends_with_the_first_thing_seen() {
        let mut looks = 0;
        let seen = until("the third look", Duration::from_secs(60), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(seen, 3);
    }
}
