//! Distributions as exponential histograms that merge exactly.
//!
//! # Purpose
//! A distribution that can be stored in about a hundred bytes, merged in any order and over any number of
//! steps, and asked for any quantile with a known error.
//!
//! # Rules
//! - Base 2^(1/64) (*scale 6* of OpenTelemetry's exponential histogram): bucket `i` holds values in
//!   `(2^(i/64), 2^((i+1)/64)]`, upper bound inclusive, as OpenTelemetry and Prometheus do. A quantile is
//!   answered with the bucket's logarithmic middle clamped to [min, max]; its relative error is at most
//!   `2^(1/128) − 1`, which is 0.543 %.
//! - Zero, and what is smaller than [`SMALLEST`], has a counter of its own. Negative and non-finite values
//!   are refused.
//! - Merging adds counters: commutative, associative, and the encoded bytes depend only on the values, never
//!   on the order. The sum is kept in whole nano-units for that reason; floating point addition is not
//!   associative.
//! - Memory is bounded: indices lie in [`index_of`]`(SMALLEST)..=index_of(LARGEST)`, larger values are
//!   counted as [`LARGEST`].
//!
//! # States
//! Empty, then non-empty; a histogram never forgets.
//!
//! # What it does not do
//! It keeps no samples and knows no units.

#[cfg(test)]
mod adversaries;
mod codec;
#[cfg(test)]
mod tests;

pub use codec::DecodeError;

/// Buckets for each power of two.
const PER_OCTAVE: f64 = 64.0;
/// What is smaller counts as zero: a picosecond, in milliseconds.
pub const SMALLEST: f64 = 1e-9;
/// What is larger counts as this much.
pub const LARGEST: f64 = 1e15;
/// Units of the sum in one unit of the values.
const SUM_UNITS: f64 = 1e9;

/// A value that no histogram takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a finite number of zero or more")]
pub struct Unmeasurable;

/// A distribution of values of zero or more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    zero_count: u64,
    /// Index and count of each bucket that is not empty, in order.
    buckets: Vec<(i32, u64)>,
    count: u64,
    sum_units: u128,
    min: f64,
    max: f64,
}

/// The bucket a positive value falls into.
pub fn index_of(value: f64) -> i32 {
    // Exact powers of two belong to the bucket below their bound; log2 is exact for them, so the ceiling
    // lands there. Elsewhere log2 may be off by one bucket in the last bit, far inside the stated error.
    let position = value.log2() * PER_OCTAVE;
    position.ceil() as i32 - 1
}

/// A value in units of the sum, rounded half up.
fn to_units(value: f64) -> u128 {
    let units = value * SUM_UNITS + 0.5;
    // Nearly every value fits 64 bits, and that conversion is one instruction.
    if units < 9e18 { u128::from(units as u64) } else { units as u128 }
}

/// Upper bound of a bucket, inclusive.
pub fn upper_bound(index: i32) -> f64 {
    (f64::from(index + 1) / PER_OCTAVE).exp2()
}

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, value: f64) -> Result<(), Unmeasurable> {
        if !value.is_finite() || value < 0.0 {
            return Err(Unmeasurable);
        }
        let value = value.min(LARGEST);
        if self.count == 0 {
            (self.min, self.max) = (value, value);
        } else {
            self.min = self.min.min(value);
            self.max = self.max.max(value);
        }
        self.count += 1;
        self.sum_units += to_units(value);
        if value < SMALLEST {
            self.zero_count += 1;
        } else {
            self.add(index_of(value), 1);
        }
        Ok(())
    }

    fn add(&mut self, index: i32, count: u64) {
        match self.place_of(index) {
            Ok(place) => self.buckets[place].1 += count,
            Err(place) => self.buckets.insert(place, (index, count)),
        }
    }

    /// Where a bucket is, or would be.
    fn place_of(&self, index: i32) -> Result<usize, usize> {
        let Some((first, _)) = self.buckets.first() else { return Err(0) };
        // Where no bucket in between is empty it is as far from the first place as its index is from the first
        // index, and nowhere further.
        let furthest = usize::try_from(index - first).map_err(|_| 0_usize)?;
        if self.buckets.get(furthest).is_some_and(|(found, _)| *found == index) {
            return Ok(furthest);
        }
        let reach = furthest.min(self.buckets.len());
        self.buckets[..reach].binary_search_by_key(&index, |(index, _)| *index)
    }

    /// Adds everything that another histogram holds.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            (self.min, self.max) = (other.min, other.max);
        } else {
            self.min = self.min.min(other.min);
            self.max = self.max.max(other.max);
        }
        self.zero_count += other.zero_count;
        self.count += other.count;
        self.sum_units += other.sum_units;
        for (index, count) in &other.buckets {
            self.add(*index, *count);
        }
    }

    /// The value below which a share `q` (0 to 1) of the values lies: the nearest-rank quantile, within
    /// 0.543 % of the exact one. None while empty.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let rank = ((q.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).clamp(1, self.count);
        // The ends are known exactly.
        if rank == 1 {
            return Some(self.min);
        }
        if rank == self.count {
            return Some(self.max);
        }
        let mut before = self.zero_count;
        if rank <= before {
            return Some(0.0f64.max(self.min));
        }
        for (index, count) in &self.buckets {
            before += count;
            if rank <= before {
                let middle = ((f64::from(*index) + 0.5) / PER_OCTAVE).exp2();
                return Some(middle.clamp(self.min, self.max));
            }
        }
        Some(self.max)
    }

    /// How many values are at most `limit`, within the width of one bucket.
    pub fn count_at_most(&self, limit: f64) -> u64 {
        if self.count == 0 || limit < self.min {
            return 0;
        }
        if limit >= self.max {
            return self.count;
        }
        let within: u64 = if limit < SMALLEST {
            0
        } else {
            let limit = index_of(limit);
            self.buckets.iter().take_while(|(index, _)| *index <= limit).map(|(_, count)| count).sum()
        };
        self.zero_count + within
    }

    /// Values counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Sum of the values, exact to half a nano-unit a value.
    pub fn sum(&self) -> f64 {
        self.sum_units as f64 / SUM_UNITS
    }

    /// Mean of the values. None while empty.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum() / self.count as f64)
    }

    /// Smallest value. None while empty.
    pub fn min(&self) -> Option<f64> {
        (self.count > 0).then_some(self.min)
    }

    /// Largest value. None while empty.
    pub fn max(&self) -> Option<f64> {
        (self.count > 0).then_some(self.max)
    }

    /// Values that count as zero.
    pub fn zero_count(&self) -> u64 {
        self.zero_count
    }

    /// Non-empty buckets, by index: the number of values in `(2^(i/64), 2^((i+1)/64)]`.
    pub fn buckets(&self) -> impl Iterator<Item = (i32, u64)> + '_ {
        self.buckets.iter().copied()
    }

    /// The stored form; equal histograms have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes)
    }
}
