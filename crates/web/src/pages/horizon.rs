//! The horizon: experience over the chosen range as a thin skyline, with marks where a verdict stood.

use askama::Template;

use super::{block::Block, format, mark::Status, picture::Picture, plot::Spark};

/// Marks shown at most; with more, the oldest resolved ones go first.
const MARKS_MAX: usize = 40;

#[derive(Template)]
#[template(path = "blocks/horizon.html")]
struct Horizon {
    says: String,
    line: String,
    area: String,
    marks: Vec<Mark>,
    ticks: Vec<Tick>,
    window: Option<(String, String)>,
    from_ms: i64,
    to_ms: i64,
}

struct Mark {
    at: String,
    width: String,
    level: &'static str,
    icon: &'static str,
    says: String,
}

struct Tick {
    at: String,
    text: String,
    edge: &'static str,
}

/// Draws the strip.
pub fn block(picture: &Picture) -> Block {
    let (scene, span) = (&picture.scene, &picture.scene.span);
    let zone = &scene.zone;
    let values: Vec<_> = picture.slots.iter().map(super::history::Slot::experience).collect();
    let skyline = Spark::draw(&values, 0.0, 100.0);
    let percent = |at| format!("{:.2}%", span.percent_at(at));
    let mut spells: Vec<_> = picture.spells.iter().collect();
    spells.sort_by_key(|spell| (spell.open, spell.from_ms));
    let hidden = spells.len().saturating_sub(MARKS_MAX);
    let marks = spells[hidden..]
        .iter()
        .map(|spell| {
            let status = picture
                .pairs
                .iter()
                .find(|pair| {
                    spell.open
                        && pair.pair.target == spell.newest.target
                        && pair.pair.client_id == spell.newest.client_id
                })
                .map(|pair| pair.status().0);
            let status = status.filter(|status| status.needs_attention());
            let name = picture.target_name(&spell.newest.target);
            let told = super::words::diagnosis(&spell.newest, name);
            let says = match status {
                Some(_) => format!("{told} Since {}.", zone.moment(spell.from_ms, scene.now_ms)),
                None => format!(
                    "Over: {told} {} to {}.",
                    zone.moment(spell.from_ms, scene.now_ms),
                    zone.moment(spell.to_ms, scene.now_ms)
                ),
            };
            let width = span.percent_at(spell.to_ms) - span.percent_at(spell.from_ms);
            Mark {
                at: percent(spell.from_ms),
                width: format!("{width:.2}%"),
                level: status.map_or("past", Status::level),
                icon: status.map_or("s-ok", Status::icon_name),
                says,
            }
        })
        .collect();
    let long = span.range.length_ms() > 2 * 86_400_000;
    let offset = zone.offset_ms(scene.now_ms);
    let mut ticks: Vec<Tick> = span
        .range
        .ticks(span.from_ms, span.to_ms, offset)
        .into_iter()
        .filter(|at| (2.0..94.0).contains(&span.percent_at(*at)))
        .map(|at| Tick { at: percent(at), text: if long { zone.day(at) } else { zone.minute(at) }, edge: "" })
        .collect();
    ticks.push(Tick { at: "100%".into(), text: zone.minute(scene.now_ms), edge: "end" });
    let experience = picture.experience();
    let says = match experience {
        None => format!("No experience score in {} yet", span.range.words()),
        Some(now) => format!(
            "Experience score over {}, now {}{}",
            span.range.words(),
            format::number(now.round()),
            picture
                .usual_experience()
                .map_or_else(String::new, |usual| format!(", usually {}", format::number(usual.round())))
        ),
    };
    let window = span
        .window
        .map(|(from, to)| (percent(from), format!("{:.2}%", span.percent_at(to) - span.percent_at(from))));
    let template = Horizon {
        says,
        line: skyline.line,
        area: skyline.area,
        marks,
        ticks,
        window,
        from_ms: span.from_ms,
        to_ms: span.to_ms,
    };
    Block::render("horizon", "The horizon", &template)
}
