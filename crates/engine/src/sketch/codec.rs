//! The stored form of a histogram.
//!
//! | part | form |
//! |---|---|
//! | version | one byte, 1 |
//! | zero count, sum in nano-units | varints |
//! | min, max | 8 bytes each, IEEE 754, little endian |
//! | number of buckets | varint |
//! | each bucket | varint zigzag of the index less the index before, varint of the count |
//!
//! The count of all values is the sum of the counters and is not stored. Varints are LEB128.

use super::{Histogram, LARGEST, SMALLEST, index_of};

const VERSION: u8 = 1;

/// Why bytes are no histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Nothing, or less than was announced.
    #[error("histogram ends too early")]
    Short,
    /// Written by a version that is not known here.
    #[error("histogram has the unknown version {0}")]
    Version(u8),
    /// A number that no histogram contains.
    #[error("histogram contains an impossible number")]
    Impossible,
    /// More bytes than a histogram has.
    #[error("histogram is followed by other bytes")]
    Trailing,
}

pub(super) fn encode(histogram: &Histogram) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + histogram.buckets.len() * 3);
    out.push(VERSION);
    put_varint(&mut out, u128::from(histogram.zero_count));
    put_varint(&mut out, histogram.sum_units);
    out.extend_from_slice(&histogram.min.to_le_bytes());
    out.extend_from_slice(&histogram.max.to_le_bytes());
    put_varint(&mut out, histogram.buckets.len() as u128);
    let mut before = 0i32;
    for (index, count) in &histogram.buckets {
        let step = index - before;
        put_varint(&mut out, u128::from(((step << 1) ^ (step >> 31)).cast_unsigned()));
        put_varint(&mut out, u128::from(*count));
        before = *index;
    }
    out
}

pub(super) fn decode(bytes: &[u8]) -> Result<Histogram, DecodeError> {
    let mut rest = bytes;
    let version = take(&mut rest, 1)?[0];
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let zero_count = counter(&mut rest)?;
    let sum_units = varint(&mut rest)?;
    let min = float(&mut rest)?;
    let max = float(&mut rest)?;
    let lowest = index_of(SMALLEST) - 1;
    let highest = index_of(LARGEST) + 1;
    let length = varint(&mut rest)?;
    if length > (highest - lowest) as u128 {
        return Err(DecodeError::Impossible);
    }
    let mut buckets = Vec::new();
    let mut count = zero_count;
    let mut index = 0i32;
    for position in 0..length {
        let step = u32::try_from(varint(&mut rest)?).map_err(|_| DecodeError::Impossible)?;
        let step = (step >> 1).cast_signed() ^ -(step & 1).cast_signed();
        index = index.checked_add(step).ok_or(DecodeError::Impossible)?;
        let ascending = position == 0 || step > 0;
        if !ascending || index < lowest || index > highest {
            return Err(DecodeError::Impossible);
        }
        let values = counter(&mut rest)?;
        if values == 0 {
            return Err(DecodeError::Impossible);
        }
        count = count.checked_add(values).ok_or(DecodeError::Impossible)?;
        buckets.push((index, values));
    }
    if !rest.is_empty() {
        return Err(DecodeError::Trailing);
    }
    let sane = |value: f64| value.is_finite() && value >= 0.0;
    if !sane(min) || !sane(max) || min > max {
        return Err(DecodeError::Impossible);
    }
    Ok(Histogram { zero_count, buckets, count, sum_units, min, max })
}

fn put_varint(out: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], DecodeError> {
    let (head, tail) = rest.split_at_checked(length).ok_or(DecodeError::Short)?;
    *rest = tail;
    Ok(head)
}

fn varint(rest: &mut &[u8]) -> Result<u128, DecodeError> {
    let mut value = 0u128;
    for shift in (0..126).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u128::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(DecodeError::Impossible)
}

fn counter(rest: &mut &[u8]) -> Result<u64, DecodeError> {
    u64::try_from(varint(rest)?).map_err(|_| DecodeError::Impossible)
}

fn float(rest: &mut &[u8]) -> Result<f64, DecodeError> {
    let bytes = take(rest, 8)?;
    Ok(f64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
}
