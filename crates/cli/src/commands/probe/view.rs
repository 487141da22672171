//! Measurements for eyes: a waterfall of the stages, what was seen beside them, and their spread over several
//! measurements. Pure text; nothing is measured here.

use std::fmt::Write as _;

use caelum_drivers::probe::Measurement;
use caelum_engine::stamp::percentile;
use caelum_model::{
    details::{Details, Hop, WebFacts},
    event::{ErrorStage, Family},
};

use crate::output::plain;

/// Columns of the bars.
const BAR_COLUMNS: usize = 44;
const DAY_MS: i64 = 86_400_000;
/// Days from which on a certificate's end is no matter.
const SOON_DAYS: i64 = 14;

const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const DIM: &str = "2";
const BOLD: &str = "1";
/// A colour for each stage.
const STAGES: [(&str, &str); 4] = [("DNS", "36"), ("connect", "32"), ("TLS", "35"), ("first byte", "33")];

/// How it is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looks {
    pub(super) has_colours: bool,
    /// To say how long a certificate is still good.
    pub(super) now_ms: i64,
}

impl Looks {
    fn paint(&self, colour: &str, text: &str) -> String {
        if self.has_colours { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Measurements of one target, one list a family.
#[derive(Clone, Debug, Default)]
pub(super) struct Series(Vec<(Family, Vec<Measurement>)>);

impl Series {
    pub(super) fn add(&mut self, measured: Vec<Measurement>) {
        for one in measured {
            match self.0.iter_mut().find(|(family, _)| *family == one.family) {
                Some((_, list)) => list.push(one),
                None => self.0.push((one.family, vec![one])),
            }
        }
    }

    pub(super) fn measurements(&self) -> impl Iterator<Item = &Measurement> {
        self.0.iter().flat_map(|(_, list)| list)
    }

    /// Whether every measurement succeeded.
    pub(super) fn is_fine(&self) -> bool {
        self.measurements().all(|one| one.error_stage.is_none())
    }

    pub(super) fn show(&self, looks: &Looks) -> String {
        self.0.iter().map(|(_, list)| show_family(list, looks)).collect()
    }
}

fn show_family(list: &[Measurement], looks: &Looks) -> String {
    let Some(first) = list.first() else { return String::new() };
    // What is shown once is taken from the last that succeeded.
    let best = list.iter().rev().find(|one| one.error_stage.is_none()).unwrap_or(first);
    let mut out = format!("{}{}\n", looks.paint(BOLD, &plain(&first.target)), facts_line(best, looks));
    if list.len() == 1 {
        out.push_str(&waterfall(first, looks));
    } else {
        out.push_str(&spread(list, looks));
    }
    out.push_str(&beside(first, best, looks));
    for (one, number) in list.iter().zip(1..) {
        if let Some(stage) = one.error_stage {
            let which = if list.len() > 1 { format!("{number}: ") } else { String::new() };
            let what = plain(one.error_detail.as_deref().unwrap_or("failed"));
            let line = format!("{which}{} failed: {what}", stage_name(stage, one));
            writeln!(out, "  {}", looks.paint(RED, &line)).expect("a string takes everything");
        }
    }
    out.push_str(&hops(&first.details.path));
    out.push('\n');
    out
}

/// The stage that failed, as people say it: a packet train has no TCP.
fn stage_name(stage: ErrorStage, one: &Measurement) -> &'static str {
    match stage {
        ErrorStage::Tcp if !one.target.starts_with("http") && !one.target.starts_with("tcp") => "reaching it",
        stage => stage.as_str(),
    }
}

/// Address, status, TLS, certificate.
fn facts_line(one: &Measurement, looks: &Looks) -> String {
    let mut facts = Vec::new();
    match one.family {
        Family::Any => {}
        family => facts.push(family.as_str().to_owned()),
    }
    facts.extend(one.remote_ip.as_deref().map(plain));
    if let Some(web) = &one.details.web {
        facts.extend(web_facts(web, looks));
    }
    match one.details.dns_cached {
        Some(true) => facts.push("from the cache".to_owned()),
        Some(false) => facts.push("not from a cache".to_owned()),
        None => {}
    }
    facts.iter().map(|fact| format!("  {fact}")).collect()
}

fn web_facts(web: &WebFacts, looks: &Looks) -> Vec<String> {
    let mut facts = Vec::new();
    if let (Some(version), Some(status)) = (&web.http_version, web.status) {
        let colour = if status < 400 { GREEN } else { RED };
        let redirect = if web.redirects > 0 { ", a redirect" } else { "" };
        facts.push(looks.paint(colour, &format!("{} {status}{redirect}", plain(version))));
    }
    facts.extend(web.tls_version.as_deref().map(|version| format!("TLS {}", plain(version))));
    if let Some(certificate) = &web.certificate {
        let days = (certificate.expires_at_ms - looks.now_ms).div_euclid(DAY_MS);
        let left = looks.paint(if days < SOON_DAYS { YELLOW } else { GREEN }, &format!("{days} days"));
        let (subject, issuer) = (plain(&certificate.subject), plain(&certificate.issuer));
        facts.push(format!("certificate of {subject} by {issuer}, good for {left}"));
    }
    facts
}

fn stages(one: &Measurement) -> [Option<f64>; 4] {
    let timings = one.timings;
    [timings.dns_ms, timings.tcp_ms, timings.tls_ms, timings.http_ttfb_ms]
}

/// Bars to scale, each beginning where the one before ended.
fn waterfall(one: &Measurement, looks: &Looks) -> String {
    let Some(total_ms) = one.timings.total_ms() else { return String::new() };
    let column =
        |at_ms: f64| ((at_ms / total_ms.max(f64::MIN_POSITIVE)) * BAR_COLUMNS as f64).round() as usize;
    let (mut out, mut so_far_ms) = (String::new(), 0.0);
    for ((name, colour), took) in STAGES.iter().zip(stages(one)) {
        let Some(took_ms) = took else { continue };
        let begins = column(so_far_ms).min(BAR_COLUMNS - 1);
        so_far_ms += took_ms;
        let width = column(so_far_ms).saturating_sub(begins).max(1);
        let bar = looks.paint(colour, &"█".repeat(width));
        let behind = " ".repeat(BAR_COLUMNS.saturating_sub(begins + width));
        let before = " ".repeat(begins);
        writeln!(out, "  {name:<10}  {before}{bar}{behind}  {}", time(took_ms))
            .expect("a string takes everything");
    }
    let gap = " ".repeat(BAR_COLUMNS);
    writeln!(out, "  {:<10}  {gap}  {}", "total", looks.paint(BOLD, &time(total_ms)))
        .expect("a string takes everything");
    out
}

/// Least, median and most of each stage over several measurements.
fn spread(list: &[Measurement], looks: &Looks) -> String {
    let failed = list.iter().filter(|one| one.error_stage.is_some()).count();
    let mut out = format!("  {:<10}  {:>10}  {:>10}  {:>10}\n", "", "least", "median", "most");
    let mut row = |name: &str, times: &[f64]| {
        if !times.is_empty() {
            let cells = [0.0, 0.5, 1.0].map(|share| time(percentile(times, share)));
            writeln!(out, "  {name:<10}  {}  {}  {}", cells[0], cells[1], cells[2])
                .expect("a string takes everything");
        }
    };
    for (at, (name, _)) in STAGES.iter().enumerate() {
        let times: Vec<f64> = list.iter().filter_map(|one| stages(one)[at]).collect();
        row(name, &times);
    }
    let whole = list.iter().filter(|one| one.error_stage.is_none());
    let totals: Vec<f64> = whole.filter_map(|one| one.timings.total_ms()).collect();
    row("total", &totals);
    let trains: Vec<f64> =
        list.iter().filter_map(|one| one.rtt).filter(|rtt| rtt.received > 0).map(|rtt| rtt.avg_ms).collect();
    row("round trip", &trains);
    let colour = if failed > 0 { RED } else { GREEN };
    let count = looks.paint(colour, &format!("{failed} of {} failed", list.len()));
    let (sent, received) =
        list.iter().filter_map(|one| one.rtt).fold((0_u64, 0_u64), |(sent, received), rtt| {
            (sent + u64::from(rtt.sent), received + u64::from(rtt.received))
        });
    let loss = match sent {
        0 => String::new(),
        sent => format!(", {} of {sent} packets lost", sent - received),
    };
    writeln!(out, "  {count}{loss}").expect("a string takes everything");
    out
}

/// What was measured beside the stages.
fn beside(first: &Measurement, best: &Measurement, looks: &Looks) -> String {
    let mut lines = Vec::new();
    if let Some(rtt) = best.rtt.filter(|rtt| rtt.received > 0) {
        lines.push(format!(
            "{} of {} packets back, {:.2}/{:.2}/{:.2} ms least/mean/most, jitter {:.2} ms",
            rtt.received, rtt.sent, rtt.min_ms, rtt.avg_ms, rtt.max_ms, rtt.jitter_ms
        ));
    }
    lines.extend(one_way(&best.details));
    lines.extend(best.throughput_kbps.map(|kbps| format!("throughput {}", rate(kbps))));
    if let Some(race) = best.details.web.as_ref().and_then(|web| web.race.as_ref()) {
        let connect = |us: Option<u32>| {
            us.map_or("failed".to_owned(), |us| time(f64::from(us) / 1e3).trim().to_owned())
        };
        lines.push(format!(
            "race: IPv6 {}, IPv4 {}: a browser takes {}",
            connect(race.ipv6_us),
            connect(race.ipv4_us),
            race.winner.as_str()
        ));
    }
    if let Some(loaded) = &first.details.loaded {
        let ms =
            |us: Option<u32>| us.map_or("–".to_owned(), |us| time(f64::from(us) / 1e3).trim().to_owned());
        let upload = loaded.upload_kbps.map_or(String::new(), |kbps| format!(" at {}", rate(kbps as f64)));
        lines.push(format!(
            "round trip {} idle, {} while downloading, {} while uploading{upload}",
            ms(Some(loaded.idle_us)),
            ms(loaded.down_us),
            ms(loaded.up_us)
        ));
    }
    lines.extend(first.rpm.map(|rpm| format!("responsiveness under load {rpm:.0} round trips a minute")));
    lines.iter().map(|line| format!("  {}\n", looks.paint(DIM, line))).collect()
}

fn one_way(details: &Details) -> Option<String> {
    let one_way = details.one_way.as_ref()?;
    let ms = |us: i64| us as f64 / 1e3;
    let clocks = if one_way.is_synchronised { "" } else { " (delays by clocks that nobody keeps together)" };
    Some(format!(
        "out {:.2} ms ± {:.2}, {} lost; back {:.2} ms ± {:.2}, {} lost{clocks}",
        ms(one_way.out_us),
        ms(i64::from(one_way.out_variation_us)),
        one_way.sent.saturating_sub(one_way.reached),
        ms(one_way.back_us),
        ms(i64::from(one_way.back_variation_us)),
        one_way.reached.saturating_sub(one_way.returned),
    ))
}

fn hops(path: &[Hop]) -> String {
    path.iter()
        .map(|hop| {
            let address = hop.ip.as_deref().map_or("*".to_owned(), plain);
            let took = hop.rtt_us.map_or(String::new(), |us| time(f64::from(us) / 1_000.0));
            format!("  {:>3}  {address:<40}{took}\n", hop.ttl)
        })
        .collect()
}

fn time(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:>7.2} ms"),
        ms if ms < 10_000.0 => format!("{ms:>7.1} ms"),
        ms => format!("{:>7.1} s ", ms / 1_000.0),
    }
}

fn rate(kbps: f64) -> String {
    if kbps >= 1_000.0 { format!("{:.1} Mbit/s", kbps / 1_000.0) } else { format!("{kbps:.0} kbit/s") }
}

#[cfg(test)]
mod tests {
    use caelum_model::{
        details::{CertificateFacts, OneWay, Race},
        event::{Rtt, Timings},
    };

    use super::*;

    const LOOKS: Looks = Looks { has_colours: false, now_ms: 1_000 * DAY_MS };

    fn visit() -> Measurement {
        Measurement {
            target: "https://box.example/".to_owned(),
            timings: Timings {
                dns_ms: Some(10.0),
                tcp_ms: Some(10.0),
                tls_ms: Some(20.0),
                http_ttfb_ms: Some(4.0),
            },
            remote_ip: Some("192.0.2.1".to_owned()),
            details: Details {
                web: Some(WebFacts {
                    status: Some(200),
                    http_version: Some("HTTP/1.1".to_owned()),
                    tls_version: Some("1.3".to_owned()),
                    certificate: Some(CertificateFacts {
                        expires_at_ms: 1_063 * DAY_MS,
                        subject: "box.example".to_owned(),
                        issuer: "Us".to_owned(),
                        ..CertificateFacts::default()
                    }),
                    race: Some(Race { ipv4_us: Some(1_000), ipv6_us: None, winner: Family::V4 }),
                    ..WebFacts::default()
                }),
                ..Details::default()
            },
            ..Measurement::default()
        }
    }

    fn shown(list: Vec<Measurement>) -> String {
        let mut series = Series::default();
        series.add(list);
        series.show(&LOOKS)
    }

    #[test]
    fn bars_are_to_scale_and_begin_where_the_one_before_ended() {
        let text = shown(vec![visit()]);
        let bars: Vec<(usize, usize)> = text
            .lines()
            .filter(|line| line.contains('█'))
            .map(|line| {
                let bar: Vec<char> = line.chars().skip(14).collect();
                let begins = bar.iter().position(|c| *c == '█').expect("a bar");
                (begins, bar.iter().filter(|c| **c == '█').count())
            })
            .collect();
        assert_eq!(bars, [(0, 10), (10, 10), (20, 20), (40, 4)]);
        let expected = "https://box.example/  192.0.2.1  HTTP/1.1 200  TLS 1.3  certificate of box.example by Us, \
                        good for 63 days";
        assert_eq!(text.lines().next(), Some(expected));
        assert!(text.contains("total") && text.contains("44.0 ms"), "{text}");
        assert!(text.contains("race: IPv6 failed, IPv4 1.00 ms: a browser takes ipv4"), "{text}");
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn several_measurements_are_shown_by_their_spread_and_failures_by_number() {
        let slow = Measurement {
            timings: Timings { dns_ms: Some(90.0), ..Timings::default() },
            error_stage: Some(ErrorStage::Tcp),
            error_detail: Some("refused \u{1b}[2J".to_owned()),
            ..visit()
        };
        let text = shown(vec![visit(), slow, visit()]);
        let dns = text.lines().find(|line| line.contains("DNS")).expect("a row");
        assert!(dns.contains("10.0 ms     10.0 ms     90.0 ms"), "{dns}");
        assert!(
            text.contains("1 of 3 failed") && text.contains("2: TCP failed: refused \u{fffd}[2J"),
            "{text}"
        );
    }

    #[test]
    fn a_train_shows_both_ways_and_a_path_its_hops() {
        let train = Measurement {
            target: "stamp://box.example".to_owned(),
            rtt: Some(Rtt { sent: 10, received: 8, avg_ms: 2.0, ..Rtt::default() }),
            details: Details {
                one_way: Some(OneWay {
                    sent: 10,
                    reached: 9,
                    returned: 8,
                    out_us: 1_500,
                    ..OneWay::default()
                }),
                path: vec![
                    Hop { ttl: 1, ip: Some("192.0.2.1".to_owned()), rtt_us: Some(1_500) },
                    Hop { ttl: 2, ..Hop::default() },
                ],
                ..Details::default()
            },
            ..Measurement::default()
        };
        let text = shown(vec![train]);
        assert!(text.contains("8 of 10 packets back"), "{text}");
        assert!(text.contains("out 1.50 ms ± 0.00, 1 lost; back 0.00 ms ± 0.00, 1 lost (delays"), "{text}");
        assert!(text.contains("    1  192.0.2.1") && text.contains("    2  *"), "{text}");
    }

    #[test]
    fn colours_are_only_for_those_who_want_them() {
        let mut series = Series::default();
        series.add(vec![visit()]);
        assert!(series.show(&Looks { has_colours: true, ..LOOKS }).contains("\u{1b}[36m█"));
    }
}
