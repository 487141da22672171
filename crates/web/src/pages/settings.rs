//! Settings, probes and targets: what is measured, and by whom.

use askama::Template;
use caelum_engine::target::TEMPLATES;
use caelum_model::target::{Target, TargetOrigin};

use super::{
    block::Block,
    format::{self, counted},
    frame::{self, Frame, Moment, Place, Reader, Theme},
    mark::Status,
    picture::Picture,
    pipeline,
    target_form::Form,
    words::Verdict,
};

/// Blocks of this page, by their names in live updates.
pub const TOPICS: &str = "targets,probes";

struct TargetRow {
    target_id: String,
    name: String,
    url: String,
    every: String,
    origin: &'static str,
    status: Status,
    word: &'static str,
    last: Option<Moment>,
    removable: bool,
    /// Its page.
    href: String,
    /// Tags and group, and who measures it where not everybody does.
    notes: Vec<String>,
}

#[derive(Template)]
#[template(path = "blocks/targets.html")]
struct Targets {
    rows: Vec<TargetRow>,
    may_operate: bool,
}

#[derive(Template)]
#[template(path = "blocks/probes.html")]
struct Probes {
    rows: Vec<ProbeRow>,
}

struct ProbeRow {
    href: String,
    name: String,
    said: String,
    status: Status,
    count: String,
    notes: Vec<String>,
}

#[derive(Template)]
#[template(path = "pages/settings.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    tabs: Block,
    targets: Block,
    probes: Block,
    form: Form,
    fault: Option<String>,
    may_operate: bool,
    is_new: bool,
    templates: Vec<(&'static str, &'static str)>,
}

#[derive(Template)]
#[template(path = "pages/target_settings.html")]
struct TargetPage {
    frame: Frame,
    theme: Theme,
    form: Form,
    fault: Option<String>,
    may_operate: bool,
    is_new: bool,
    is_fixed: bool,
    templates: Vec<(&'static str, &'static str)>,
    target_id: String,
}

/// The page of one target's settings.
pub fn target_page(
    picture: &Picture,
    target: &Target,
    reader: Reader,
    form: Form,
    fault: Option<String>,
) -> impl Template + use<> {
    let (theme, may_operate) = (reader.theme, reader.may_operate);
    let is_fixed = target.origin == TargetOrigin::Config;
    let verdict = Verdict {
        status: if target.enabled { Status::Ok } else { Status::Off },
        sentence: picture.target_name(&target.url).to_owned(),
        lede: String::new(),
    };
    let mut facts = vec![target.url.clone(), origin(target.origin).to_owned()];
    if is_fixed {
        facts.push("it is changed in the configuration".to_owned());
    }
    let word = if target.enabled { "Measured" } else { "Switched off" };
    let crumb = ("Probes and targets", "/settings/targets".to_owned());
    let heading = frame::detail_heading_as(&verdict, word, crumb, &facts);
    TargetPage {
        frame: Frame::new(
            picture,
            reader,
            Place::Settings,
            &verdict.sentence,
            heading,
            &format!("/settings/targets/{}", target.target_id),
            "",
        ),
        theme,
        form,
        fault,
        may_operate,
        is_new: false,
        is_fixed,
        templates: Vec::new(),
        target_id: target.target_id.to_string(),
    }
}

/// Who asked for a target, in words.
fn origin(origin: TargetOrigin) -> &'static str {
    match origin {
        TargetOrigin::Default => "found at start",
        TargetOrigin::Config => "configuration file",
        TargetOrigin::Api => "added by hand",
        TargetOrigin::Mesh => "another machine",
    }
}

/// The page, with what was typed and what is wrong with it after a refused addition.
pub fn page(picture: &Picture, reader: Reader, form: Form, fault: Option<String>) -> impl Template + use<> {
    let theme = reader.theme;
    let may_operate = reader.may_operate;
    let verdict = frame::heading(&verdict(picture));
    Page {
        frame: Frame::new(
            picture,
            reader,
            Place::Settings,
            "Probes and targets",
            verdict,
            "/settings/targets",
            TOPICS,
        ),
        theme,
        tabs: pipeline::settings_tabs("/settings/targets"),
        targets: targets(picture, may_operate),
        probes: probes(picture),
        form,
        fault,
        may_operate,
        is_new: true,
        templates: TEMPLATES.iter().map(|template| (template.name, template.what)).collect(),
    }
}

fn verdict(picture: &Picture) -> Verdict {
    let enabled = picture.targets.iter().filter(|target| target.enabled).count();
    let probes = picture.probes().len();
    let sentence = match (enabled, probes) {
        (0, _) => "Nothing is measured.".to_owned(),
        (_, 0) => format!("{} wait for a probe.", counted(enabled, "target", "targets")),
        _ => format!(
            "{} measured by {}.",
            counted(enabled, "target is", "targets are"),
            counted(probes, "probe", "probes")
        ),
    };
    let lede =
        "A target is what your people use: a page, a service, a resolver. The first measurement comes \
                within seconds, what is usual is learned from the first minutes."
            .to_owned();
    Verdict { status: Status::Ok, sentence, lede }
}

fn targets(picture: &Picture, may_operate: bool) -> Block {
    let scene = &picture.scene;
    let rows = picture
        .targets
        .iter()
        .map(|target| {
            let mut pairs: Vec<_> =
                picture.pairs.iter().filter(|pair| pair.pair.target == target.url).collect();
            pairs.sort_by_key(|pair| pair.status().0);
            let newest = pairs.iter().map(|pair| pair.recent.last.ts_ms).max().filter(|ts| *ts > 0);
            let (status, word) = if !target.enabled {
                (Status::Off, "Switched off")
            } else {
                pairs.first().map_or((Status::Queue, "Waiting"), |pair| pair.status())
            };
            TargetRow {
                target_id: target.target_id.to_string(),
                name: if target.name.is_empty() {
                    format::short_target(&target.url).to_owned()
                } else {
                    target.name.clone()
                },
                url: target.url.clone(),
                every: format!("every {}", format::duration(i64::from(target.interval_s) * 1000)),
                origin: origin(target.origin),
                status,
                word,
                last: newest.map(|at| Moment {
                    text: format!("{} ago", format::duration(scene.now_ms - at)),
                    ..Moment::new(&scene.zone, at, scene.now_ms)
                }),
                removable: target.origin != TargetOrigin::Config,
                href: format!("/settings/targets/{}", frame::encode(target.target_id.as_str())),
                notes: notes(target),
            }
        })
        .collect();
    Block::render("targets", "Targets", &Targets { rows, may_operate })
}

/// Tags and group of a target, and who measures it where not everybody does.
fn notes(target: &Target) -> Vec<String> {
    let mut notes: Vec<String> = target.group.iter().map(|group| format!("group {group}")).collect();
    notes.extend(target.tags.iter().cloned());
    if !target.probes.0.is_empty() {
        notes.push(format!("by {}", target.probes.0.join(" ")));
    }
    if let Some(objective) = &target.objective {
        notes.push(format!(
            "{} % within {}",
            caelum_engine::target::percent_text(objective.promised_bp),
            format::milliseconds(objective.within_ms.into())
        ));
    }
    notes
}

fn probes(picture: &Picture) -> Block {
    let scene = &picture.scene;
    let rows = picture
        .probes()
        .into_iter()
        .map(|probe| {
            let of_probe = || picture.pairs.iter().filter(|pair| pair.pair.client_id.as_str() == probe);
            let newest = of_probe().map(|pair| pair.recent.last.ts_ms).max().filter(|ts| *ts > 0);
            let count: u64 = of_probe().map(|pair| pair.recent.count).sum();
            let said = newest.map_or_else(
                || "silent for 5\u{a0}min".to_owned(),
                |at| format!("heard {} ago", format::duration(scene.now_ms - at)),
            );
            let status = if newest.is_some() { Status::Ok } else { Status::Off };
            ProbeRow {
                href: scene.span.link(&frame::probe_link(probe)),
                name: picture.probe_name(probe).to_owned(),
                said,
                status,
                count: format!("{}\u{a0}in 5\u{a0}min", format::count(count)),
                notes: picture.probe_setting(probe).map_or_else(Vec::new, |setting| {
                    let mut notes: Vec<String> =
                        setting.group.iter().map(|group| format!("group {group}")).collect();
                    notes.extend(setting.tags.iter().cloned());
                    if !setting.mesh {
                        notes.push("not in the mesh".to_owned());
                    }
                    if !setting.enabled {
                        notes.push("switched off".to_owned());
                    }
                    notes
                }),
            }
        })
        .collect();
    Block::render("probes", "Probes", &Probes { rows })
}

/// Renders one block of this page by its live name.
pub fn block(name: &str, picture: &Picture, may_operate: bool) -> Option<Block> {
    Some(match name {
        "verdict" => frame::heading(&verdict(picture)),
        "targets" => targets(picture, may_operate),
        "probes" => probes(picture),
        _ => return None,
    })
}
