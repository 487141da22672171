//! A simulated world: probes that measure targets for days, with labelled faults, from a seed.
//!
//! Values are made per measurement (six a window) and go to the detector as the window's medians, without the
//! way over stored distributions: `diagnose`'s own tests take that way, and it costs most of the time here.
//! Noise is log-normal with heavy tails, swings over the day, comes in bursts that a group shares, and routes
//! flap; probes restart.

use caelum_engine::diagnose::Observation;
use caelum_model::{
    event::ErrorStage,
    incident::EntityKind,
    rollup::{MINUTE_MS, Measure},
};

/// 2026-01-05 00:00:00 UTC.
pub const START_MS: i64 = 1_767_571_200_000;
/// Windows of a day.
pub const DAY: usize = 1_440;
/// Windows before the first fault, to learn what is usual.
pub const BASELINE: usize = 90;
/// Measurements a window.
const SAMPLES: usize = 6;
/// Packets of a train.
const PACKETS: usize = 20;

/// A linear congruential generator (Knuth's MMIX constants).
pub struct Chance(u64);

impl Chance {
    pub fn of(seed: u64) -> Self {
        let mut chance = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d);
        for _ in 0..8 {
            chance.uniform();
        }
        chance
    }

    /// Evenly in (0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    pub fn between(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * self.uniform()
    }

    pub fn below(&mut self, count: usize) -> usize {
        ((self.uniform() * count as f64) as usize).min(count.saturating_sub(1))
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// A value that varies by factors, and now and then by large ones.
    fn around(&mut self, value: f64, spread: f64) -> f64 {
        let tail = if self.uniform() < 0.03 { 1.0 + 4.0 * self.uniform() } else { 1.0 };
        value * (self.normal() * spread).exp() * tail
    }
}

/// How a target is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Web,
    Connect,
    Train,
    Lookup,
}

/// What is wrong, with its size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    /// Look-ups take so much longer, ms.
    SlowLookups(f64),
    /// Share of look-ups that fail.
    FailedLookups(f64),
    /// Round trip on top, ms.
    Path(f64),
    /// Share of packets lost.
    Loss(f64),
    /// TLS handshakes take longer, ms.
    Tls(f64),
    /// The server takes longer, ms.
    Server(f64),
    /// Share of requests that fail.
    FailedRequests(f64),
    /// What is left of the transfer rate.
    Throughput(f64),
    /// Nothing answers.
    Outage,
}

impl What {
    pub fn label(self) -> &'static str {
        match self {
            Self::SlowLookups(_) | Self::FailedLookups(_) => "DNS-bound",
            Self::Path(_) => "Path-bound",
            Self::Loss(_) => "Loss-bound",
            Self::Tls(_) => "Handshake-bound",
            Self::Server(_) | Self::FailedRequests(_) => "Server-bound",
            Self::Throughput(_) => "Throughput-bound",
            Self::Outage => "Unreachable",
        }
    }
}

/// A fault: what, where, and when, in measurements since the start.
#[derive(Clone, Debug)]
pub struct Fault {
    pub what: What,
    pub kind: EntityKind,
    pub name: String,
    from: usize,
    to: usize,
}

impl Fault {
    /// First window that shows at least half of its measurements in the fault.
    pub fn first_window(&self) -> usize {
        (self.from + SAMPLES / 2) / SAMPLES
    }

    /// The window in which it ends.
    pub fn last_window(&self) -> usize {
        self.to / SAMPLES
    }

    fn is_at(&self, sample: usize) -> bool {
        (self.from..self.to).contains(&sample)
    }
}

pub struct Probe {
    pub name: String,
    pub group: String,
    pub resolver: String,
    /// Windows without measurements.
    away: Vec<(usize, usize)>,
    lookup_ms: f64,
}

pub struct Goal {
    pub url: String,
    pub way: Way,
    server_ms: f64,
    tls_round_trips: f64,
}

struct Line {
    round_trip_ms: f64,
    rate_kbps: f64,
    /// Windows with another route, and its factor.
    flaps: Vec<(usize, usize, f64)>,
}

pub struct World {
    pub probes: Vec<Probe>,
    pub goals: Vec<Goal>,
    pub faults: Vec<Fault>,
    lines: Vec<Line>,
    /// Windows in which a group's measurements are noisy, by group.
    bursts: Vec<(usize, String)>,
    pub windows: usize,
    chance: Chance,
}

impl World {
    /// A world of a size, for some days.
    pub fn new(seed: u64, probe_count: usize, goal_count: usize, windows: usize, fault_count: usize) -> Self {
        let mut chance = Chance::of(seed);
        let resolvers = (probe_count / 3).max(1);
        let probes: Vec<Probe> = (0..probe_count)
            .map(|number| Probe {
                name: format!("probe-{number}"),
                group: format!("site-{}", number % (probe_count / 5).max(1)),
                resolver: format!("192.0.2.{}", 1 + number / 3 % resolvers),
                away: (0..2)
                    .map(|_| {
                        let from = chance.below(windows);
                        (from, from + 1 + chance.below(6))
                    })
                    .collect(),
                lookup_ms: chance.between(4.0, 40.0),
            })
            .collect();
        let goals: Vec<Goal> = (0..goal_count)
            .map(|number| {
                let (way, url) = match number % 10 {
                    6 => (Way::Connect, format!("tcp://t{number}.example:443")),
                    7 => (Way::Lookup, format!("dns://198.51.100.{number}/example.net")),
                    8 | 9 => (Way::Train, format!("icmp://t{number}.example")),
                    _ => (Way::Web, format!("https://t{number}.example/")),
                };
                Goal {
                    url,
                    way,
                    server_ms: chance.between(3.0, 200.0),
                    tls_round_trips: if chance.uniform() < 0.3 { 2.0 } else { 1.0 },
                }
            })
            .collect();
        let lines = (0..probe_count * goal_count)
            .map(|_| Line {
                round_trip_ms: chance.between(0.0, 1.0).powi(2) * 140.0 + 2.0,
                rate_kbps: chance.between(8_000.0, 200_000.0),
                flaps: (0..2)
                    .map(|_| {
                        let from = chance.below(windows);
                        (from, from + 1, chance.between(0.9, 1.5))
                    })
                    .collect(),
            })
            .collect();
        let bursts = (0..windows / 30)
            .map(|_| (chance.below(windows), probes[chance.below(probe_count)].group.clone()))
            .collect();
        let mut world = Self { probes, goals, faults: Vec::new(), lines, bursts, windows, chance };
        world.plan(fault_count);
        world
    }

    /// Faults one after another, a third of them while another is under way elsewhere.
    fn plan(&mut self, count: usize) {
        let room = (self.windows - BASELINE) / count.max(1);
        for number in 0..count {
            let begin = (BASELINE + number * room) * SAMPLES + self.chance.below(SAMPLES);
            let length = 8 + self.chance.below((room.saturating_sub(22)).clamp(1, 32));
            let first = self.draw(begin, begin + length * SAMPLES);
            let overlaps = self.chance.uniform() < 0.33;
            self.faults.push(first);
            if overlaps {
                let shift = self.chance.below(length.saturating_sub(3).max(1)) * SAMPLES;
                let second = self.draw(begin + shift, begin + shift + length * SAMPLES);
                let last = &self.faults[self.faults.len() - 1];
                // Two faults of one thing at one place are one, and nothing is seen behind an outage.
                let is_same = second.kind == last.kind && second.what.label() == last.what.label();
                let is_hidden = last.what == What::Outage || second.what == What::Outage;
                if !is_same && !is_hidden {
                    self.faults.push(second);
                }
            }
        }
    }

    fn draw(&mut self, from: usize, to: usize) -> Fault {
        let chance = &mut self.chance;
        let probe = chance.below(self.probes.len());
        let of_way = |way: Way| -> Vec<usize> {
            (0..self.goals.len()).filter(|number| self.goals[*number].way == way).collect()
        };
        let (webs, trains) = (of_way(Way::Web), of_way(Way::Train));
        let web = webs[chance.below(webs.len())];
        let (probe_at, web_at) = (&self.probes[probe], &self.goals[web]);
        let probe_name = || (EntityKind::Probe, probe_at.name.clone());
        let target = || (EntityKind::Target, web_at.url.clone());
        let group = || (EntityKind::Group, probe_at.group.clone());
        let resolver = || (EntityKind::Resolver, probe_at.resolver.clone());
        let (what, (kind, name)) = match chance.below(16) {
            0 => (What::SlowLookups(chance.between(60.0, 600.0)), probe_name()),
            1 => (What::SlowLookups(chance.between(60.0, 600.0)), resolver()),
            2 => (What::FailedLookups(chance.between(0.3, 1.0)), resolver()),
            3 | 4 => (What::Path(chance.between(25.0, 150.0)), probe_name()),
            5 => (What::Path(chance.between(25.0, 150.0)), group()),
            6 => (What::Path(chance.between(25.0, 150.0)), target()),
            7 => {
                let name = format!("{} {}", probe_at.name, web_at.url);
                (What::Path(chance.between(40.0, 200.0)), (EntityKind::Pair, name))
            }
            8 => (What::Loss(chance.between(0.04, 0.2)), probe_name()),
            9 => (What::Loss(chance.between(0.04, 0.2)), group()),
            10 if !trains.is_empty() => {
                let train = trains[chance.below(trains.len())];
                let name = self.goals[train].url.clone();
                (What::Loss(chance.between(0.04, 0.2)), (EntityKind::Target, name))
            }
            11 => (What::Tls(chance.between(40.0, 400.0)), target()),
            12 => (What::Server(chance.between(60.0, 800.0)), target()),
            13 => (What::FailedRequests(chance.between(0.3, 1.0)), target()),
            14 => {
                let place = if chance.uniform() < 0.5 { probe_name() } else { target() };
                (What::Throughput(chance.between(0.1, 0.6)), place)
            }
            _ => (What::Outage, target()),
        };
        Fault { what, kind, name, from, to }
    }

    /// Whether a pair is in the way of a fault.
    pub fn is_touched(&self, fault: &Fault, probe: usize, goal: usize) -> bool {
        let (probe, goal) = (&self.probes[probe], &self.goals[goal]);
        match fault.kind {
            EntityKind::Probe => fault.name == probe.name,
            EntityKind::Target => fault.name == goal.url,
            EntityKind::Group => fault.name == probe.group,
            EntityKind::Resolver => goal.way != Way::Lookup && fault.name == probe.resolver,
            EntityKind::Pair => fault.name == format!("{} {}", probe.name, goal.url),
        }
    }

    /// What a probe measures of a target in a window; none while it is away.
    pub fn observe(&mut self, window: usize, probe: usize, goal: usize) -> Option<Observation> {
        let is_away = self.probes[probe].away.iter().any(|(from, to)| (*from..*to).contains(&window));
        if is_away {
            return None;
        }
        let near: Vec<Fault> = self
            .faults
            .iter()
            .filter(|fault| fault.from / SAMPLES <= window && window <= fault.last_window())
            .filter(|fault| self.is_touched(fault, probe, goal))
            .cloned()
            .collect();
        let (person, aim) = (&self.probes[probe], &self.goals[goal]);
        let line = &self.lines[probe * self.goals.len() + goal];
        let chance = &mut self.chance;
        let swing = 1.0 - 0.25 * (std::f64::consts::TAU * window as f64 / DAY as f64).cos();
        let flap = line.flaps.iter().find(|(from, to, _)| (*from..*to).contains(&window));
        let is_noisy = self.bursts.iter().any(|(at, group)| *at == window && *group == person.group)
            && chance.uniform() < 0.5;
        let spread = if is_noisy { 0.25 } else { 0.06 };
        let usual_ms = line.round_trip_ms * (0.8 + 0.2 * swing) * flap.map_or(1.0, |(_, _, factor)| *factor);
        let mut values: Vec<(Measure, Vec<f64>)> = Vec::new();
        let mut errors = [0u64; 5];
        for sample in window * SAMPLES..(window + 1) * SAMPLES {
            let mut made = Made { lookup_ms: 0.0, extra_ms: 0.0, loss: 0.0005, ..Made::default() };
            for fault in near.iter().filter(|fault| fault.is_at(sample)) {
                made.suffer(fault.what);
                if let (What::Path(ms), EntityKind::Probe | EntityKind::Group) = (fault.what, fault.kind) {
                    // What is slow near the probe is in the way to its resolver, too.
                    made.lookup_ms += ms;
                }
            }
            let mut note =
                |measure: Measure, value: f64| match values.iter_mut().find(|(known, _)| *known == measure) {
                    Some((_, all)) => all.push(value),
                    None => values.push((measure, vec![value])),
                };
            let round_trip = usual_ms + made.extra_ms;
            if aim.way == Way::Train {
                note(Measure::Rtt, chance.around(round_trip, spread));
                let lost = (0..PACKETS).filter(|_| chance.uniform() < made.loss).count();
                note(Measure::Loss, lost as f64 * 100.0 / PACKETS as f64);
                continue;
            }
            if chance.uniform() < made.failed_lookups {
                errors[ErrorStage::Dns as usize] += 1;
                continue;
            }
            note(Measure::Dns, chance.around(person.lookup_ms, 0.35) + made.lookup_ms);
            if aim.way == Way::Lookup {
                continue;
            }
            if made.is_out || chance.uniform() < 0.001 {
                errors[ErrorStage::Tcp as usize] += 1;
                continue;
            }
            // A lost packet costs the time to send it again.
            let mut again = |ms: f64| if chance.uniform() < made.loss { ms } else { 0.0 };
            let (again_tcp, again_tls, again_server) = (again(1_000.0), again(250.0), again(250.0));
            note(Measure::Tcp, chance.around(round_trip, spread) + again_tcp);
            if aim.way == Way::Connect {
                continue;
            }
            let tls = round_trip * aim.tls_round_trips + 4.0;
            note(Measure::Tls, chance.around(tls, 0.07) + made.tls_ms + again_tls);
            if chance.uniform() < made.failed_requests {
                errors[ErrorStage::Http as usize] += 1;
                continue;
            }
            let work = chance.around(aim.server_ms * (0.8 + 0.2 * swing), 0.2);
            note(Measure::Ttfb, chance.around(round_trip, spread) + work + made.server_ms + again_server);
            let by_delay = (usual_ms / round_trip).sqrt();
            let by_loss = (0.002 / made.loss.max(0.002)).sqrt();
            let rate = line.rate_kbps / (0.9 + 0.1 * swing) * made.rate_share() * by_delay * by_loss;
            note(Measure::Throughput, chance.around(rate, 0.1));
        }
        let mut observation = Observation::empty(START_MS + window as i64 * MINUTE_MS);
        observation.count = SAMPLES as u64;
        for (measure, mut all) in values {
            all.sort_by(f64::total_cmp);
            let middle = all.len() / 2;
            let value = match measure {
                Measure::Loss => all.iter().sum::<f64>() / all.len() as f64,
                _ if all.len() % 2 == 1 => all[middle],
                _ => (all[middle - 1] + all[middle]) / 2.0,
            };
            observation.note(measure, value, all.len() as u32);
        }
        for stage in ErrorStage::ALL {
            observation.note_failures(stage, errors[stage as usize]);
        }
        Some(observation)
    }
}

/// What faults make of one measurement.
#[derive(Default)]
struct Made {
    lookup_ms: f64,
    failed_lookups: f64,
    extra_ms: f64,
    loss: f64,
    tls_ms: f64,
    server_ms: f64,
    failed_requests: f64,
    rate_lost: f64,
    is_out: bool,
}

impl Made {
    fn suffer(&mut self, what: What) {
        match what {
            What::SlowLookups(ms) => self.lookup_ms += ms,
            What::FailedLookups(share) => self.failed_lookups = share,
            What::Path(ms) => self.extra_ms += ms,
            What::Loss(share) => self.loss += share,
            What::Tls(ms) => self.tls_ms += ms,
            What::Server(ms) => self.server_ms += ms,
            What::FailedRequests(share) => self.failed_requests = share,
            What::Throughput(left) => self.rate_lost = 1.0 - left,
            What::Outage => self.is_out = true,
        }
    }

    fn rate_share(&self) -> f64 {
        1.0 - self.rate_lost
    }
}
