//! The two packets, byte by byte, and the times in them.

/// Size of both packets without extensions.
pub const PACKET_BYTES: usize = 44;
/// Least size of an answer that has everything a sender needs (RFC 5357's has no more).
pub const REFLECTED_BYTES_MIN: usize = 41;

/// Seconds between 1900, from which NTP counts, and 1970.
const UNIX_EPOCH_S: i64 = 2_208_988_800;
const NS_PER_S: i64 = 1_000_000_000;

/// A moment as NTP writes it: 32 bits of seconds since 1900, which wrap in 2036, and 32 of their fraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NtpTime(pub u64);

impl NtpTime {
    /// From nanoseconds since 1970.
    pub fn from_unix_ns(ns: i64) -> Self {
        let seconds = (ns.div_euclid(NS_PER_S) + UNIX_EPOCH_S).cast_unsigned() & 0xffff_ffff;
        let fraction = (ns.rem_euclid(NS_PER_S).cast_unsigned() << 32) / NS_PER_S.cast_unsigned();
        Self(seconds << 32 | fraction)
    }

    /// Nanoseconds from `earlier` to here; right over the wrap of 2036 as long as the two are less than 68
    /// years apart.
    pub fn since_ns(self, earlier: Self) -> i64 {
        let difference = self.0.wrapping_sub(earlier.0).cast_signed();
        let ns = (i128::from(difference) * i128::from(NS_PER_S)) >> 32;
        i64::try_from(ns).expect("2^31 seconds are fewer than 2^63 nanoseconds")
    }
}

/// How far a clock may be off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorEstimate {
    /// Whether something outside keeps the clock right.
    pub is_synchronised: bool,
    /// Whether times are PTP's instead of NTP's. We never send them, and take no part of such an answer.
    pub is_ptp: bool,
    scale: u8,
    multiplier: u8,
}

impl ErrorEstimate {
    /// The smallest that can be written and covers `error_ns`.
    pub fn new(is_synchronised: bool, error_ns: u64) -> Self {
        let units = (u128::from(error_ns.max(1)) << 32).div_ceil(u128::from(NS_PER_S.cast_unsigned()));
        let mut scale = 0;
        let mut multiplier = units;
        while multiplier > 255 && scale < 63 {
            multiplier = multiplier.div_ceil(2);
            scale += 1;
        }
        let multiplier = u8::try_from(multiplier.max(1)).unwrap_or(u8::MAX);
        Self { is_synchronised, is_ptp: false, scale, multiplier }
    }

    /// How far the clock may be off, ns.
    pub fn error_ns(self) -> u64 {
        let units = u128::from(self.multiplier) << self.scale;
        u64::try_from((units * u128::from(NS_PER_S.cast_unsigned())) >> 32).unwrap_or(u64::MAX)
    }

    fn encode(self) -> [u8; 2] {
        let first = u8::from(self.is_synchronised) << 7 | u8::from(self.is_ptp) << 6 | self.scale & 0x3f;
        [first, self.multiplier]
    }

    fn parse([first, multiplier]: [u8; 2]) -> Self {
        Self {
            is_synchronised: first & 0x80 != 0,
            is_ptp: first & 0x40 != 0,
            scale: first & 0x3f,
            multiplier,
        }
    }
}

/// What a sender sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderPacket {
    /// Number in the train.
    pub seq: u32,
    /// When it left.
    pub sent: NtpTime,
    /// How good the sender's clock is.
    pub error: ErrorEstimate,
}

impl SenderPacket {
    /// The bytes that travel.
    pub fn encode(&self) -> [u8; PACKET_BYTES] {
        let mut bytes = [0; PACKET_BYTES];
        bytes[0..4].copy_from_slice(&self.seq.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.sent.0.to_be_bytes());
        bytes[12..14].copy_from_slice(&self.error.encode());
        bytes
    }

    /// Reads the bytes; none where there are too few.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            seq: u32::from_be_bytes(part(bytes, 0)?),
            sent: NtpTime(u64::from_be_bytes(part(bytes, 4)?)),
            error: ErrorEstimate::parse(part(bytes, 12)?),
        })
    }
}

/// What a reflector sends back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReflectedPacket {
    /// The reflector's own number: how many it got before, or a copy of the sender's.
    pub seq: u32,
    /// When it left the reflector.
    pub sent: NtpTime,
    /// How good the reflector's clock is.
    pub error: ErrorEstimate,
    /// When the packet came to the reflector.
    pub received: NtpTime,
    /// The packet that is answered.
    pub sender: SenderPacket,
    /// Hops that the packet might still have gone when it came to the reflector.
    pub ttl: u8,
}

impl ReflectedPacket {
    /// The bytes that travel.
    pub fn encode(&self) -> [u8; PACKET_BYTES] {
        let mut bytes = [0; PACKET_BYTES];
        bytes[0..4].copy_from_slice(&self.seq.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.sent.0.to_be_bytes());
        bytes[12..14].copy_from_slice(&self.error.encode());
        bytes[16..24].copy_from_slice(&self.received.0.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.sender.seq.to_be_bytes());
        bytes[28..36].copy_from_slice(&self.sender.sent.0.to_be_bytes());
        bytes[36..38].copy_from_slice(&self.sender.error.encode());
        bytes[40] = self.ttl;
        bytes
    }

    /// Reads the bytes; none where there are too few.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            seq: u32::from_be_bytes(part(bytes, 0)?),
            sent: NtpTime(u64::from_be_bytes(part(bytes, 4)?)),
            error: ErrorEstimate::parse(part(bytes, 12)?),
            received: NtpTime(u64::from_be_bytes(part(bytes, 16)?)),
            sender: SenderPacket {
                seq: u32::from_be_bytes(part(bytes, 24)?),
                sent: NtpTime(u64::from_be_bytes(part(bytes, 28)?)),
                error: ErrorEstimate::parse(part(bytes, 36)?),
            },
            ttl: *bytes.get(40)?,
        })
    }
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_those_of_ntp() {
        // 1970 and half a second; the values are those of RFC 868 and of the format's definition.
        assert_eq!(NtpTime::from_unix_ns(500_000_000), NtpTime(2_208_988_800 << 32 | 1 << 31));
        let before = NtpTime::from_unix_ns(2_085_978_495_999_000_000);
        let behind = NtpTime::from_unix_ns(2_085_978_496_001_000_000);
        assert!(behind.0 < before.0, "the era ends in 2036");
        assert!((behind.since_ns(before) - 2_000_000).abs() <= 1);
        assert!((before.since_ns(behind) + 2_000_000).abs() <= 1);
    }

    #[test]
    fn an_error_estimate_is_never_smaller_than_the_error() {
        for error_ns in [0, 1, 59, 60, 1_000, 123_456_789, 16_000_000_000, u64::MAX] {
            let estimate = ErrorEstimate::new(true, error_ns);
            let written = estimate.error_ns();
            assert!(written.saturating_add(1) >= error_ns, "{written} for {error_ns}");
            assert!(written as f64 <= error_ns as f64 * 1.01 + 60.0, "{written} for {error_ns}");
            assert_ne!(estimate.multiplier, 0, "zero would mean that it is not known");
        }
    }

    #[test]
    fn fields_stand_where_the_standard_puts_them() {
        let sender = SenderPacket {
            seq: 0x0102_0304,
            sent: NtpTime(0x1112_1314_1516_1718),
            error: ErrorEstimate::parse([0x8a, 0x0b]),
        };
        let bytes = sender.encode();
        assert_eq!(bytes[..14], [1, 2, 3, 4, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x8a, 0x0b]);
        assert_eq!(bytes[14..], [0; 30]);
        let reflected = ReflectedPacket {
            seq: 7,
            sent: NtpTime(2),
            error: ErrorEstimate::parse([0x40, 1]),
            received: NtpTime(3),
            sender,
            ttl: 61,
        };
        let answer = reflected.encode();
        assert_eq!((answer[3], answer[11], answer[12], answer[23], answer[40]), (7, 2, 0x40, 3, 61));
        assert_eq!(answer[24..38], bytes[..14]);
        assert_eq!([&answer[14..16], &answer[38..40], &answer[41..]].concat(), [0; 7]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic_and_what_is_written_is_read_back(
            bytes in prop::collection::vec(any::<u8>(), 0..100)
        ) {
            let packet = ReflectedPacket::parse(&bytes);
            prop_assert_eq!(packet.is_some(), bytes.len() >= REFLECTED_BYTES_MIN);
            if let Some(packet) = packet {
                prop_assert_eq!(ReflectedPacket::parse(&packet.encode()), Some(packet));
            }
            if let Some(packet) = SenderPacket::parse(&bytes) {
                prop_assert_eq!(SenderPacket::parse(&packet.encode()), Some(packet));
            }
        }

        #[test]
        fn a_difference_of_times_is_that_of_the_clocks(at_ns in 0_i64..4_000_000_000_000_000_000, by_ns in -1_000_000_000_000_i64..1_000_000_000_000) {
            let difference = NtpTime::from_unix_ns(at_ns + by_ns).since_ns(NtpTime::from_unix_ns(at_ns));
            prop_assert!((difference - by_ns).abs() <= 2, "{difference} for {by_ns}");
        }
    }
}
