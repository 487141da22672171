//! What a target answers and on which way: status, certificate, both directions of a train, hops.

use askama::Template;
use caelum_model::{event::Family, rollup::Measure};

use super::{
    block::Block,
    format::{self, counted},
    frame::Moment,
    mark::Status,
    picture::Picture,
    target::{Sight, View},
};

/// A certificate that ends sooner than this wants to be looked at.
const SOON_MS: i64 = 14 * 86_400_000;
/// Probes whose paths are shown.
const PATHS_MAX: usize = 20;

fn probe_name(picture: &Picture, view: &View) -> String {
    let version = match view.family {
        Family::Any => "",
        Family::V4 => " IPv4",
        Family::V6 => " IPv6",
    };
    format!("{}{version}", picture.probe_name(&view.client_id))
}

struct Answer {
    probe: String,
    status: String,
    version: String,
    tls: String,
    remote: String,
    race: String,
}

struct Certificate {
    status: Status,
    ends: String,
    at: Moment,
    subject: String,
    issuer: String,
}

#[derive(Template)]
#[template(path = "blocks/answers.html")]
struct Answers {
    rows: Vec<Answer>,
    certificate: Option<Certificate>,
}

/// What the server answered to each probe, and its certificate.
pub fn answers(picture: &Picture, sight: &Sight) -> Block {
    let scene = &picture.scene;
    let absent = || format::ABSENT.to_owned();
    let mut certificate = None;
    let mut rows = Vec::new();
    for view in &sight.views {
        let Some(last) = &view.last else { continue };
        let web = last.details.as_ref().and_then(|details| details.web.as_ref());
        if let Some(known) = web.and_then(|web| web.certificate.as_ref()) {
            // Where probes see several, the one that ends first matters.
            let left = known.expires_at_ms - scene.now_ms;
            let is_first = certificate.as_ref().is_none_or(|(first, _)| known.expires_at_ms < *first);
            if is_first {
                let (status, ends) = match left {
                    ..=0 => (Status::Crit, format!("ended {} ago", format::duration(-left))),
                    1..SOON_MS => (Status::Warn, format!("ends in {}", format::duration(left))),
                    _ => (Status::Ok, format!("ends in {}", format::duration(left))),
                };
                let shown = Certificate {
                    status,
                    ends,
                    at: Moment::new(&scene.zone, known.expires_at_ms, scene.now_ms),
                    subject: known.subject.clone(),
                    issuer: known.issuer.clone(),
                };
                certificate = Some((known.expires_at_ms, shown));
            }
        }
        let race = web.and_then(|web| web.race.as_ref()).map_or_else(String::new, |race| {
            let time = |us: Option<u32>| {
                us.map_or_else(
                    || "failed".to_owned(),
                    |us| format::milliseconds(f64::from(us) / 1000.0).to_string(),
                )
            };
            format!("IPv4 {}, IPv6 {}", time(race.ipv4_us), time(race.ipv6_us))
        });
        rows.push(Answer {
            probe: probe_name(picture, view),
            status: web.and_then(|web| web.status).map_or_else(absent, |status| status.to_string()),
            version: web.and_then(|web| web.http_version.clone()).unwrap_or_else(absent),
            tls: web.and_then(|web| web.tls_version.clone()).unwrap_or_else(absent),
            remote: last.remote_ip.clone().unwrap_or_else(absent),
            race,
        });
    }
    // Only web servers answer with a status; for others the address reached is all there is.
    let template = Answers { rows, certificate: certificate.map(|(_, shown)| shown) };
    Block::render("answers", "What it answers", &template)
}

struct Direction {
    probe: String,
    rtt: String,
    out: String,
    back: String,
    loss_out: String,
    loss_back: String,
    clocks: &'static str,
}

#[derive(Template)]
#[template(path = "blocks/oneway.html")]
struct OneWay {
    rows: Vec<Direction>,
    is_stamp: bool,
}

/// Both directions of packet trains apart.
pub fn one_way(picture: &Picture, sight: &Sight) -> Block {
    let is_stamp = sight.target.url.starts_with("stamp://");
    let rows = sight
        .views
        .iter()
        .filter(|view| view.losses.contains_key(&Measure::LossOut))
        .map(|view| {
            let time = |measure| {
                view.medians
                    .get(&measure)
                    .map_or_else(|| format::ABSENT.to_owned(), |ms| format::milliseconds(*ms).to_string())
            };
            let loss = |measure| {
                view.losses
                    .get(&measure)
                    .map_or_else(|| format::ABSENT.to_owned(), |share| format::percent(*share).to_string())
            };
            let details = view.last.as_ref().and_then(|last| last.details.as_ref());
            let one_way = details.and_then(|details| details.one_way.as_ref());
            Direction {
                probe: probe_name(picture, view),
                rtt: time(Measure::Rtt),
                out: time(Measure::DelayOut),
                back: time(Measure::DelayBack),
                loss_out: loss(Measure::LossOut),
                loss_back: loss(Measure::LossBack),
                clocks: match one_way {
                    Some(known) if known.is_synchronised => "synchronised",
                    Some(_) => "not known to agree",
                    None => "",
                },
            }
        })
        .collect();
    Block::render("oneway", "Both ways", &OneWay { rows, is_stamp })
}

struct HopRow {
    ttl: u8,
    ip: Option<String>,
    rtt: String,
}

struct Way {
    probe: String,
    at: Moment,
    hops: Vec<HopRow>,
    count: String,
}

#[derive(Template)]
#[template(path = "blocks/hops.html")]
struct Hops {
    ways: Vec<Way>,
    is_traced: bool,
}

/// The newest path of each probe.
pub fn hops(picture: &Picture, sight: &Sight) -> Block {
    let scene = &picture.scene;
    let ways = sight
        .views
        .iter()
        .filter_map(|view| {
            let path = view.path.as_ref()?;
            let hops: Vec<HopRow> = path
                .hops
                .iter()
                .map(|hop| HopRow {
                    ttl: hop.ttl,
                    ip: hop.ip.clone(),
                    rtt: hop.rtt_us.map_or_else(
                        || format::ABSENT.to_owned(),
                        |us| format::milliseconds(f64::from(us) / 1000.0).to_string(),
                    ),
                })
                .collect();
            Some(Way {
                probe: probe_name(picture, view),
                at: Moment::new(&scene.zone, path.ts_ms, scene.now_ms),
                count: counted(hops.len(), "hop", "hops"),
                hops,
            })
        })
        .take(PATHS_MAX)
        .collect();
    let is_traced = sight.target.trace_every_s.is_some();
    Block::render("hops", "The way there", &Hops { ways, is_traced })
}
