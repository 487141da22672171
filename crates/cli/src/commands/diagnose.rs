//! `caelum diagnose`: stored windows judged anew. The same windows and times give the same bytes.

use anyhow::{Result, bail};
use caelum_drivers::clock::{Clock as _, SystemClock};
use caelum_roles::diagnoser::replay::{self, Replay, STRETCH_MAX_MS};

use super::{backends, settle};
use crate::{arguments::Diagnose, exit::Exit, output};

/// Judges, and prints what that says.
pub async fn run(arguments: Diagnose) -> Result<Exit> {
    let now_ms = SystemClock.now_ms();
    let from_ms = moment(&arguments.from, now_ms)?;
    let to_ms = arguments.to.as_deref().map_or(Ok(now_ms), |to| moment(to, now_ms))?;
    if from_ms >= to_ms || to_ms - from_ms > STRETCH_MAX_MS {
        bail!("judge from {from_ms} to {to_ms}: the end must be after the begin, by 31 days at most");
    }
    let (settings, data) = settle(arguments.resolved.place, arguments.resolved.overrides)?;
    let store = backends::open_store(&backends::store_address(&settings, &data)?).await?;
    let replay = replay::replay(&store, from_ms, to_ms).await?;
    store.close();
    let text = if arguments.json { format!("{:#}\n", serde_json::to_value(&replay)?) } else { told(&replay) };
    output::print(&text)?;
    Ok(Exit::Fine)
}

fn told(replay: &Replay) -> String {
    let mut text = format!(
        "{} windows read: {} verdicts on pairs, {} incidents\n",
        replay.rows,
        replay.diagnoses.len(),
        replay.incidents.len()
    );
    for incident in &replay.incidents {
        text.push_str(&format!("{} {}: {}\n", incident.id, incident.severity.as_str(), incident.sentence));
        for step in &incident.steps {
            text.push_str(&format!("    {} {}\n", step.window_start_ms, step.text));
        }
    }
    for diagnosis in &replay.diagnoses {
        text.push_str(&format!("{} {}\n", diagnosis.window_start_ms, diagnosis.sentence));
    }
    text
}

/// Milliseconds since 1970, or so long before now.
fn moment(text: &str, now_ms: i64) -> Result<i64> {
    if let Ok(ms) = text.parse::<i64>() {
        return Ok(ms);
    }
    let ago = [("m", 60_000i64), ("h", 3_600_000), ("d", 86_400_000)].into_iter().find_map(|(unit, ms)| {
        text.strip_suffix(unit)?.parse::<u32>().ok().map(|count| i64::from(count) * ms)
    });
    match ago {
        Some(ago_ms) => Ok(now_ms.saturating_sub(ago_ms)),
        None => bail!("{text:?} is no time: give milliseconds since 1970, or how long ago, such as 2h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_moment_or_so_long_ago() {
        assert_eq!(moment("1767571200000", 0).expect("a moment"), 1_767_571_200_000);
        assert_eq!(moment("2h", 10_000_000).expect("ago"), 2_800_000);
        for wrong in ["", "h", "2x", "yesterday", "-3h", "99999999999d"] {
            assert!(moment(wrong, 0).is_err(), "{wrong}");
        }
    }
}
