//! A train under way and what it says in the end. Also how any train of packets is summed up.

use caelum_model::{details::OneWay, event::Rtt};

use super::packet::{ErrorEstimate, NtpTime, ReflectedPacket, SenderPacket};

/// What an answer turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It was waited for.
    Counted,
    /// It had come before.
    Duplicate,
    /// It answers nothing of this train.
    Foreign,
}

/// One packet that came back.
#[derive(Clone, Copy, Debug)]
struct Return {
    reflector_seq: u32,
    out_ns: i64,
    back_ns: i64,
}

impl Return {
    /// The time on the wire alone: what the reflector took is in neither part.
    fn round_trip_ns(&self) -> i64 {
        self.out_ns.saturating_add(self.back_ns).max(0)
    }
}

/// A train in numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Round trips and losses.
    pub rtt: Rtt,
    /// Both directions apart; none where nothing came back.
    pub one_way: Option<OneWay>,
    /// Answers that came more than once.
    pub duplicates: u32,
    /// Answers that came behind one with a higher number.
    pub reordered: u32,
}

/// A train under way.
#[derive(Debug)]
pub struct Train {
    error: ErrorEstimate,
    sent: Vec<NtpTime>,
    returns: Vec<Option<Return>>,
    newest: Option<usize>,
    is_every_clock_synchronised: bool,
    duplicates: u32,
    reordered: u32,
}

impl Train {
    /// A train whose sender's clock is as good as `error`.
    pub fn new(error: ErrorEstimate) -> Self {
        Self {
            error,
            sent: Vec::new(),
            returns: Vec::new(),
            newest: None,
            is_every_clock_synchronised: error.is_synchronised,
            duplicates: 0,
            reordered: 0,
        }
    }

    /// The next packet, which leaves now.
    pub fn send(&mut self, now: NtpTime) -> SenderPacket {
        self.sent.push(now);
        self.returns.push(None);
        // The first has number 1: see the module's rules.
        let seq = u32::try_from(self.sent.len()).unwrap_or(u32::MAX);
        SenderPacket { seq, sent: now, error: self.error }
    }

    /// Takes an answer that came at `now`.
    pub fn receive(&mut self, answer: &ReflectedPacket, now: NtpTime) -> Reply {
        let place = usize::try_from(answer.sender.seq).ok().and_then(|seq| seq.checked_sub(1));
        let Some((place, sent)) = place.and_then(|place| Some((place, *self.sent.get(place)?))) else {
            return Reply::Foreign;
        };
        // The echoed time is a secret that only somebody who saw the packet knows.
        if answer.sender.sent != sent || answer.error.is_ptp {
            return Reply::Foreign;
        }
        if self.returns[place].is_some() {
            self.duplicates += 1;
            return Reply::Duplicate;
        }
        if self.newest.is_some_and(|newest| place < newest) {
            self.reordered += 1;
        }
        self.newest = self.newest.max(Some(place));
        self.is_every_clock_synchronised &= answer.error.is_synchronised;
        self.returns[place] = Some(Return {
            reflector_seq: answer.seq,
            out_ns: answer.received.since_ns(sent),
            back_ns: now.since_ns(answer.sent),
        });
        Reply::Counted
    }

    /// Whether every packet came back.
    pub fn is_whole(&self) -> bool {
        self.returns.iter().all(Option::is_some)
    }

    /// The slowest round trip so far, ns.
    pub fn slowest_ns(&self) -> Option<i64> {
        self.returns.iter().flatten().map(Return::round_trip_ns).max()
    }

    /// The train in numbers.
    pub fn outcome(&self) -> Outcome {
        let returned: Vec<Return> = self.returns.iter().flatten().copied().collect();
        let round_trips: Vec<f64> =
            returned.iter().map(|one| one.round_trip_ns() as f64 / 1_000_000.0).collect();
        let sent = u32::try_from(self.sent.len()).unwrap_or(u32::MAX);
        Outcome {
            rtt: summarize(sent, &round_trips),
            one_way: (!returned.is_empty()).then(|| self.one_way(sent, &returned)),
            duplicates: self.duplicates,
            reordered: self.reordered,
        }
    }

    fn one_way(&self, sent: u32, returned: &[Return]) -> OneWay {
        let count = u32::try_from(returned.len()).unwrap_or(u32::MAX);
        let out: Vec<i64> = returned.iter().map(|one| one.out_ns).collect();
        let back: Vec<i64> = returned.iter().map(|one| one.back_ns).collect();
        OneWay {
            sent,
            reached: self.counted_by_reflector().unwrap_or(count).clamp(count, sent),
            returned: count,
            out_us: median(&out) / 1_000,
            back_us: median(&back) / 1_000,
            out_variation_us: variation_us(&out),
            back_variation_us: variation_us(&back),
            is_synchronised: self.is_every_clock_synchronised,
        }
    }

    /// How many packets the reflector got up to the last that came back; none where it does not count.
    fn counted_by_reflector(&self) -> Option<u32> {
        let numbered = self.returns.iter().zip(1_u32..).filter_map(|(one, seq)| Some(((*one)?, seq)));
        let mut most = 0;
        for (one, seq) in numbered {
            // A count from 0 is always behind our number, which begins at 1; a copy never is.
            if one.reflector_seq >= seq {
                return None;
            }
            most = most.max(one.reflector_seq + 1);
        }
        Some(most)
    }
}

fn median(values: &[i64]) -> i64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

/// 95th percentile of delay over the least delay (PDV of RFC 5481), µs.
fn variation_us(delays_ns: &[i64]) -> u32 {
    let least = delays_ns.iter().min().copied().unwrap_or(0);
    let over: Vec<f64> = delays_ns.iter().map(|delay| delay.saturating_sub(least) as f64 / 1_000.0).collect();
    percentile(&over, 0.95) as u32
}

/// A percentile of values by nearest rank, 0 where there are none.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank.min(sorted.len()).saturating_sub(1)).copied().unwrap_or(0.0)
}

/// A train in numbers: packets sent and the round trips (ms) of those that came back, in the order of
/// sending. Jitter as in RFC 3550, section 6.4.1.
pub fn summarize(sent: u32, round_trips: &[f64]) -> Rtt {
    let received = u32::try_from(round_trips.len()).unwrap_or(u32::MAX).min(sent);
    let jitter_ms =
        round_trips.windows(2).fold(0.0, |jitter, pair| jitter + ((pair[1] - pair[0]).abs() - jitter) / 16.0);
    let mean = round_trips.iter().sum::<f64>() / round_trips.len().max(1) as f64;
    Rtt {
        sent,
        received,
        min_ms: round_trips.iter().copied().reduce(f64::min).unwrap_or(0.0),
        avg_ms: mean,
        max_ms: round_trips.iter().copied().reduce(f64::max).unwrap_or(0.0),
        jitter_ms,
        loss_pct: if sent == 0 { 0.0 } else { f64::from(sent - received) * 100.0 / f64::from(sent) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::{Limits, Reflector};

    const MS: i64 = 1_000_000;

    /// One packet's fate: lost on the way out, lost on the way back, or delays of both ways in ms.
    #[derive(Clone, Copy)]
    enum Fate {
        LostOut,
        LostBack,
        Comes(i64, i64),
    }
    use Fate::{Comes, LostBack, LostOut};

    /// Runs a train every 20 ms against the real reflector, whose clock is ahead by `ahead_ms`.
    fn run(fates: &[Fate], ahead_ms: i64, is_stateless: bool) -> Outcome {
        let synchronised = ErrorEstimate::new(true, 1_000);
        let mut train = Train::new(synchronised);
        let mut reflector = Reflector::new(Limits::default(), 0);
        let mut answers = Vec::new();
        let from = "192.0.2.1:5000".parse().expect("an address");
        let start_ns = 1_800_000_000_000 * MS;
        for (fate, number) in fates.iter().zip(0..) {
            let sent_ns = start_ns + number * 20 * MS;
            let packet = train.send(NtpTime::from_unix_ns(sent_ns));
            let (out_ms, back_ms) = match fate {
                LostOut => continue,
                LostBack => (1, i64::MAX),
                Comes(out_ms, back_ms) => (*out_ms, *back_ms),
            };
            let reached = NtpTime::from_unix_ns(sent_ns + (out_ms + ahead_ms) * MS);
            let times = (reached, 64, synchronised);
            let answer = reflector.answer(from, &packet.encode(), times, number * 20).expect("answered");
            // The reflector thinks for 5 ms, which is in no delay.
            let left = NtpTime::from_unix_ns(sent_ns + (out_ms + ahead_ms + 5) * MS);
            let mut answer = ReflectedPacket::parse(&answer.encode(left)).expect("whole");
            if is_stateless {
                answer.seq = packet.seq;
            }
            if back_ms < i64::MAX {
                answers.push((sent_ns + (out_ms + 5 + back_ms) * MS, answer));
            }
        }
        answers.sort_by_key(|(at_ns, _)| *at_ns);
        for (at_ns, answer) in &answers {
            assert_eq!(train.receive(answer, NtpTime::from_unix_ns(*at_ns)), Reply::Counted);
        }
        if let Some((at_ns, answer)) = answers.first() {
            assert_eq!(train.receive(answer, NtpTime::from_unix_ns(*at_ns)), Reply::Duplicate);
        }
        train.outcome()
    }

    #[test]
    fn both_directions_are_told_apart_whatever_the_clocks_say() {
        let fates: Vec<Fate> = (0..10).map(|number| Comes(10, if number == 9 { 34 } else { 4 })).collect();
        for ahead_ms in [0, 3_000, -3_000] {
            let outcome = run(&fates, ahead_ms, false);
            let one_way = outcome.one_way.expect("packets came back");
            assert_eq!((one_way.sent, one_way.reached, one_way.returned), (10, 10, 10));
            let off_by = [one_way.out_us - (10 + ahead_ms) * 1000, one_way.back_us - (4 - ahead_ms) * 1000];
            assert!(off_by.iter().all(|us| us.abs() <= 1), "{one_way:?}");
            assert!(one_way.out_variation_us <= 1 && one_way.back_variation_us.abs_diff(30_000) <= 1);
            assert!(one_way.is_synchronised);
            assert!((outcome.rtt.min_ms - 14.0).abs() < 0.001 && (outcome.rtt.max_ms - 44.0).abs() < 0.001);
            assert!((outcome.rtt.jitter_ms - 30.0 / 16.0).abs() < 0.001);
        }
    }

    #[test]
    fn a_counting_reflector_shows_on_which_way_packets_were_lost() {
        let fates = [Comes(1, 1), LostOut, LostBack, LostBack, Comes(1, 1), LostOut, Comes(1, 1)];
        let counted = run(&fates, 0, false).one_way.expect("packets came back");
        assert_eq!((counted.sent, counted.reached, counted.returned), (7, 5, 3));
        let copied = run(&fates, 0, true).one_way.expect("packets came back");
        assert_eq!((copied.reached, copied.returned), (3, 3), "nobody knows, so the way out is blamed");
        let none = run(&[LostOut, LostBack], 0, false);
        assert_eq!((none.one_way, none.rtt.loss_pct), (None, 100.0));
    }

    #[test]
    fn overtaking_and_repetition_are_counted_and_change_nothing_else() {
        let outcome = run(&[Comes(1, 50), Comes(1, 1), Comes(1, 1)], 0, false);
        assert_eq!((outcome.reordered, outcome.duplicates), (1, 1));
        assert_eq!(outcome.rtt.received, 3);
    }

    #[test]
    fn answers_to_others_and_forged_ones_do_not_count() {
        let mut train = Train::new(ErrorEstimate::default());
        let sender = train.send(NtpTime(77));
        let answer = |sender: SenderPacket| ReflectedPacket {
            seq: 0,
            sent: NtpTime(80),
            error: ErrorEstimate::default(),
            received: NtpTime(79),
            sender,
            ttl: 1,
        };
        for wrong in [
            SenderPacket { seq: 0, ..sender },
            SenderPacket { seq: 2, ..sender },
            SenderPacket { seq: u32::MAX, ..sender },
            SenderPacket { sent: NtpTime(78), ..sender },
        ] {
            assert_eq!(train.receive(&answer(wrong), NtpTime(81)), Reply::Foreign);
        }
        assert!(!train.is_whole());
        assert_eq!(train.receive(&answer(sender), NtpTime(81)), Reply::Counted);
        assert!(train.is_whole());
        assert!(!train.outcome().one_way.expect("came back").is_synchronised);
    }

    #[test]
    fn a_train_is_summed_up_with_its_losses_and_jitter() {
        let rtt = summarize(4, &[10.0, 26.0, 26.0]);
        assert_eq!((rtt.sent, rtt.received, rtt.loss_pct), (4, 3, 25.0));
        assert_eq!((rtt.min_ms, rtt.max_ms), (10.0, 26.0));
        assert!((rtt.avg_ms - 62.0 / 3.0).abs() < 1e-9);
        // J = 0 + (16 − 0)/16 = 1, then 1 + (0 − 1)/16.
        assert!((rtt.jitter_ms - 0.9375).abs() < 1e-9);
        let none = summarize(2, &[]);
        assert_eq!((none.received, none.loss_pct, none.jitter_ms, none.avg_ms), (0, 100.0, 0.0, 0.0));
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.95, 1.0].map(|share| percentile(&values, share)), [1.0, 10.0, 19.0, 20.0]);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
