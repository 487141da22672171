//! A token bucket: so many at once, so many a second after that.

/// How much may still pass.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    level: f64,
    burst: f64,
    per_ms: f64,
    at_ms: i64,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn new(per_s: f64, burst: f64, now_ms: i64) -> Self {
        Self { level: burst, burst, per_ms: per_s / 1_000.0, at_ms: now_ms }
    }

    /// Takes one; false where none is left.
    pub(super) fn take(&mut self, now_ms: i64) -> bool {
        let elapsed_ms = now_ms.saturating_sub(self.at_ms).max(0) as f64;
        self.at_ms = self.at_ms.max(now_ms);
        self.level = (self.level + elapsed_ms * self.per_ms).min(self.burst);
        let is_left = self.level >= 1.0;
        if is_left {
            self.level -= 1.0;
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let mut bucket = Bucket::new(20.0, 40.0, 0);
        assert_eq!((0..100).filter(|_| bucket.take(0)).count(), 40);
        assert_eq!((0..100).filter(|_| bucket.take(1_000)).count(), 20);
        assert_eq!(
            (0..100).filter(|_| bucket.take(500)).count(),
            0,
            "time that runs backwards gives nothing"
        );
    }
}
