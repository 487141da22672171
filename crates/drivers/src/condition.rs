//! How this machine is while it measures: processors, the interface of the default route, the gateway.
//!
//! A [`Looker`] keeps what one look needs of the one before. A gateway counts as lost only if it answered
//! before: some never answer pings, and that is no news. Nothing is judged here.

use std::{
    fs,
    net::IpAddr,
    time::{Duration, Instant},
};

use caelum_model::details::Condition;

use crate::{netinfo, probe};

/// Time between two pings of the gateway, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// Busy and all time of the processors since the machine started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Work {
    busy: u64,
    all: u64,
}

/// The gateway as it was found last.
#[derive(Clone, Copy, Debug)]
struct Gateway {
    ip: IpAddr,
    asked: Instant,
    round_trip: Option<Duration>,
    has_answered: bool,
}

/// What the files say.
#[derive(Debug, Default)]
struct Read {
    work: Option<Work>,
    interface: Option<String>,
    gateway: Option<IpAddr>,
}

/// Looks again and again.
#[derive(Debug, Default)]
pub struct Looker {
    work: Option<Work>,
    /// The interface of the last default route: an interface that goes down takes its route along.
    interface: Option<String>,
    gateway: Option<Gateway>,
    may_not_ping: bool,
}

impl Looker {
    /// The condition now. Takes up to a second where the gateway keeps silent.
    pub async fn look(&mut self) -> Condition {
        let read = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        let cpu_percent = self.work.zip(read.work).and_then(|(before, now)| share(before, now));
        self.work = read.work;
        if read.interface.is_some() {
            self.interface = read.interface;
        }
        self.ask_gateway(read.gateway).await;
        let gateway = self.gateway.as_ref();
        Condition {
            cpu_percent,
            gateway_us: gateway
                .and_then(|gateway| gateway.round_trip)
                .map(|took| u32::try_from(took.as_micros()).unwrap_or(u32::MAX)),
            is_gateway_lost: gateway
                .is_some_and(|gateway| gateway.has_answered && gateway.round_trip.is_none()),
            is_interface_down: self.interface.as_deref().is_some_and(is_down),
            interface: self.interface.clone(),
        }
    }

    async fn ask_gateway(&mut self, now: Option<IpAddr>) {
        // Without a route, the one that was there is asked: it is lost.
        let Some(ip) = now.or(self.gateway.map(|gateway| gateway.ip)) else { return };
        let known = self.gateway.filter(|gateway| gateway.ip == ip);
        if self.may_not_ping || known.is_some_and(|gateway| gateway.asked.elapsed() < PING_EVERY) {
            return;
        }
        let asked = Instant::now();
        let Ok(round_trip) = probe::round_trip(ip, PING_TIMEOUT).await else {
            self.may_not_ping = true;
            return;
        };
        let has_answered = round_trip.is_some() || known.is_some_and(|gateway| gateway.has_answered);
        self.gateway = Some(Gateway { ip, asked, round_trip, has_answered });
    }
}

fn read() -> Read {
    Read {
        work: fs::read_to_string("/proc/stat").ok().and_then(|text| parse_work(&text)),
        interface: netinfo::default_routes().into_iter().next().map(|route| route.interface),
        gateway: netinfo::default_gateway(),
    }
}

/// The first line of `/proc/stat`: `cpu user nice system idle iowait irq softirq steal …`.
fn parse_work(text: &str) -> Option<Work> {
    const IDLE: [usize; 2] = [3, 4];
    const KINDS: usize = 8;
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let times: Vec<u64> = line.split_whitespace().take(KINDS).map(|word| word.parse().unwrap_or(0)).collect();
    let all = times.iter().fold(0_u64, |sum, time| sum.saturating_add(*time));
    let idle = IDLE.iter().filter_map(|at| times.get(*at)).fold(0_u64, |sum, time| sum.saturating_add(*time));
    (times.len() > IDLE[0]).then(|| Work { busy: all.saturating_sub(idle), all })
}

fn share(before: Work, now: Work) -> Option<u8> {
    let all = now.all.checked_sub(before.all).filter(|all| *all > 0)?;
    let busy = now.busy.saturating_sub(before.busy).min(all);
    u8::try_from(busy.saturating_mul(100) / all).ok()
}

/// Whether the kernel says that nothing can be sent by an interface, or knows it no longer.
fn is_down(interface: &str) -> bool {
    if !cfg!(target_os = "linux") {
        return false;
    }
    let state = fs::read_to_string(format!("/sys/class/net/{interface}/operstate"));
    state.map_or(true, |state| matches!(state.trim(), "down" | "lowerlayerdown" | "notpresent"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_work_is_what_was_busy_since_the_last_look() {
        let before = parse_work("cpu  100 0 100 700 100 0 0 0 9 9\ncpu0 1 2\n").expect("read");
        assert_eq!(before, Work { busy: 200, all: 1000 });
        let now = parse_work("cpu  130 0 110 720 140 0 0 0 9 9\n").expect("read");
        assert_eq!(share(before, now), Some(40));
        assert_eq!(share(now, now), None);
        assert_eq!(share(now, before), None, "counters that run backwards say nothing");
        for odd in ["", "cpu", "cpu  x\n", "intr 1 2 3 4 5"] {
            assert_eq!(parse_work(odd), None, "{odd:?}");
        }
    }

    #[tokio::test]
    async fn a_look_at_this_machine_is_plausible() {
        let mut looker = Looker::default();
        let first = looker.look().await;
        assert_eq!(first.cpu_percent, None, "nothing to compare with");
        let second = looker.look().await;
        assert!(second.cpu_percent.is_none_or(|percent| percent <= 100));
        assert_eq!(first.interface, second.interface);
        assert!(!second.is_gateway_lost || first.gateway_us.is_some());
    }

    #[test]
    fn an_interface_that_is_gone_is_down() {
        assert_eq!(is_down("no-such-interface"), cfg!(target_os = "linux"));
        assert!(!is_down("lo"));
    }
}
