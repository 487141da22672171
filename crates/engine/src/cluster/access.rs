//! From which networks this node is spoken to: what comes from others is dropped unread.
//!
//! Who knocks again and again is told of once in a while only, and only so many at once: nobody fills a log from
//! outside.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Event, Output, Way, node::Cluster};
use crate::Now;

/// An address that was told of is told of again after this long, ms.
const TELL_EVERY_MS: i64 = 60_000;
/// Most addresses that are told of within that time.
const TOLD_MAX: usize = 256;

/// Who was told of, and when.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeMap<(IpAddr, Way), i64>);

impl Told {
    fn is_due(&mut self, now_ms: i64, from: IpAddr, what: Way) -> bool {
        if self.0.len() >= TOLD_MAX {
            self.0.retain(|_, at_ms| now_ms - *at_ms < TELL_EVERY_MS);
        }
        if self.0.get(&(from, what)).is_some_and(|at_ms| now_ms - at_ms < TELL_EVERY_MS)
            || self.0.len() >= TOLD_MAX
        {
            return false;
        }
        self.0.insert((from, what), now_ms);
        true
    }
}

impl Cluster {
    /// Whether somebody at an address may speak to this node. This host itself always may: it hears its own
    /// beacons.
    pub(super) fn is_admitted(&mut self, now: Now, from: IpAddr, what: Way, out: &mut Vec<Output>) -> bool {
        let from = from.to_canonical();
        let is_own = from.is_loopback() || from == self.config.udp_addr.ip().to_canonical();
        if is_own || self.config.access.allows(from) {
            return true;
        }
        if self.shut_out.is_due(now.ms, from, what) {
            out.push(Output::Event(Event::ShutOut { from, what }));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_knocks_is_told_of_once_a_minute_and_a_crowd_is_bounded() {
        let mut told = Told::default();
        let from = |number: u32| IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + number));
        assert!(told.is_due(0, from(1), Way::Beacon));
        assert!(!told.is_due(59_999, from(1), Way::Beacon));
        assert!(told.is_due(59_999, from(1), Way::Link), "another way is news");
        assert!(told.is_due(60_000, from(1), Way::Beacon));
        let told_of = (0..10_000).filter(|number| told.is_due(60_001, from(*number), Way::Beacon)).count();
        assert!(told_of < TOLD_MAX && told.0.len() <= TOLD_MAX);
        assert!(told.is_due(200_000, from(77_777), Way::Beacon), "the quiet make room");
    }
}
