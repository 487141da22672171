//! `caelum probe once`: measures now, several times if asked, and shows where the time goes.

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use caelum_drivers::{
    netinfo::{Hosts, ResolverConfig},
    probe::{Extras, Names, Prober, measure_with, parse, parse_web_url},
    tls,
};
use caelum_model::{
    id::TargetId,
    target::{Families, Target, TargetOrigin},
};
use serde_json::json;
use tokio::time::Instant;

use super::{
    authorities,
    view::{Looks, Series},
};
use crate::{arguments::ProbeOnce, environment, exit::Exit, output};

/// Measures each target as often as asked. Fails where any measurement did.
pub async fn run(asked: ProbeOnce) -> Result<Exit> {
    let prober = prober(&asked)?;
    let targets = asked.urls.iter().map(|url| target(url, &asked)).collect::<Result<Vec<Target>>>()?;
    let has_colours =
        io::stdout().is_terminal() && environment::text("NO_COLOR").is_none_or(|no| no.is_empty());
    let looks = Looks { has_colours, now_ms: now_ms() };
    let mut is_every_one_fine = true;
    let mut told = Vec::new();
    for target in &targets {
        let series = measure_series(target, &prober, &asked).await?;
        is_every_one_fine &= series.is_fine();
        if asked.json {
            told.extend(series.measurements().map(view_json));
        } else {
            output::print(&series.show(&looks))?;
        }
    }
    if asked.json {
        output::print(&format!("{:#}\n", json!(told)))?;
    }
    Ok(if is_every_one_fine { Exit::Fine } else { Exit::Failed })
}

fn prober(asked: &ProbeOnce) -> Result<Prober> {
    let roots = tls::root_store(&authorities(asked.ca.as_deref())?)?;
    Ok(match asked.resolver {
        Some(resolver) => {
            let resolver = ResolverConfig { servers: vec![resolver], ..ResolverConfig::system() };
            Prober::with_names(roots, Names { resolver, hosts: Hosts::system() })?
        }
        None => Prober::new(roots)?,
    })
}

fn target(url: &str, asked: &ProbeOnce) -> Result<Target> {
    // What people type at a browser is meant as they type it there.
    let url = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    parse(&url).with_context(|| format!("measure {}", output::plain(&url)))?;
    if let Some(object) = &asked.throughput {
        parse_web_url(object).with_context(|| format!("download {}", output::plain(object)))?;
    }
    let target_id = TargetId::parse("once").expect("a word");
    Ok(Target {
        timeout_ms: u32::try_from(asked.timeout).unwrap_or(u32::MAX),
        throughput_url: asked.throughput.clone(),
        families: match asked.families.as_deref() {
            Some("ipv4") => Families::Ipv4,
            Some("ipv6") => Families::Ipv6,
            Some("both") => Families::Both,
            _ => Families::Any,
        },
        origin: TargetOrigin::Config,
        packets: asked.packets,
        ..Target::usual(target_id, url, 0)
    })
}

async fn measure_series(target: &Target, prober: &Prober, asked: &ProbeOnce) -> Result<Series> {
    let mut series = Series::default();
    let interval = Duration::from_millis(asked.interval.unsigned_abs());
    let mut next = Instant::now();
    for number in 0..asked.count {
        tokio::time::sleep_until(next).await;
        next = Instant::now() + interval;
        // A path and a loaded line are looked at once.
        let is_first = number == 0;
        let extras = Extras { trace: asked.trace && is_first, load: asked.load && is_first };
        let measured = measure_with(target, prober, extras).await;
        series.add(measured.with_context(|| format!("measure {}", output::plain(&target.url)))?);
    }
    Ok(series)
}

/// One measurement for programs: the names are those of events.
fn view_json(one: &caelum_drivers::probe::Measurement) -> serde_json::Value {
    let timings = caelum_model::wire::TimingsJson::from(one.timings);
    json!({
        "target": one.target,
        "address_family": one.family.as_str(),
        "timings": timings,
        "total_ms": one.timings.total_ms(),
        "throughput_kbps": one.throughput_kbps,
        "error_stage": one.error_stage.map(caelum_model::event::ErrorStage::as_str),
        "error_detail": one.error_detail,
        "resolver": one.resolver,
        "remote_ip": one.remote_ip,
        "rtt": one.rtt,
        "rpm": one.rpm,
        "caelum": one.details,
    })
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
