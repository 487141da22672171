//! Settings, node installer: a form for a package, what is in it and what is not, and what became of others.
//!
//! The form posts and the answer is the file, so that the page works without scripts; live updates show how far
//! building is, and the list.

use askama::Template;
use caelum_model::{
    cluster::{Ceiling, NodeRole},
    package::{PackageKind, Platform},
};
use caelum_roles::packages::{Availability, MailboxSight, Progress, Stage};
use serde::Deserialize;

use super::{
    block::Block,
    format,
    frame::{self, Frame, Moment, Place, Reader, Theme},
    gate,
    mark::Status,
    picture::Picture,
    pipeline,
    words::Verdict,
};
use crate::{
    api::packages::{NewPackageJson, PackageJson},
    error::ApiError,
    state::State,
};

/// Blocks of this page, by their names in live updates.
pub const TOPICS: &str = "building,packages";
/// Where it is.
pub const PATH: &str = "/settings/installer";

/// What was typed into the form.
#[derive(Clone, Deserialize)]
#[serde(default)]
pub struct Form {
    pub node_name: String,
    pub package_name: String,
    pub kind: String,
    pub processor: String,
    pub role: String,
    pub ceiling: String,
    pub expires: String,
    /// Empty where the invitation is not sealed.
    pub passphrase: String,
    /// Empty where the machine reaches a server.
    pub mailbox: String,
}

impl Default for Form {
    fn default() -> Self {
        let text = str::to_owned;
        Self {
            node_name: String::new(),
            package_name: text("caelum"),
            kind: text("deb"),
            processor: text(if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" }),
            role: text("agent"),
            ceiling: text("observe"),
            expires: text("24h"),
            passphrase: String::new(),
            mailbox: String::new(),
        }
    }
}

impl Form {
    /// What the form asks for, or what is wrong with it.
    pub fn wish(&self) -> Result<NewPackageJson, String> {
        let kind = PackageKind::parse(&self.kind).ok_or_else(|| format!("there is no kind {}", self.kind))?;
        let system = if kind == PackageKind::Pkg { "macos" } else { "linux" };
        let platform = Platform::parse(&format!("{system}-{}", self.processor))
            .ok_or_else(|| format!("there is no processor {}", self.processor))?;
        let role = NodeRole::parse(&self.role).ok_or_else(|| format!("there is no role {}", self.role))?;
        let ceiling = Ceiling::ALL
            .into_iter()
            .find(|ceiling| ceiling.as_str() == self.ceiling)
            .ok_or_else(|| format!("there is no ceiling {}", self.ceiling))?;
        Ok(NewPackageJson {
            package_name: self.package_name.trim().to_owned(),
            node_name: Some(self.node_name.clone()),
            kind: Some(kind),
            role: Some(role),
            platform: Some(platform),
            ceiling: Some(ceiling),
            expires: Some(self.expires.clone()),
            passphrase: Some(self.passphrase.clone()).filter(|passphrase| !passphrase.is_empty()),
            mailbox: Some(self.mailbox.trim().to_owned()).filter(|mailbox| !mailbox.is_empty()),
        })
    }
}

/// What the page shows beside the picture.
pub struct Sight {
    /// Packages; none for whoever may not see them.
    packages: Option<Vec<PackageJson>>,
    building: Option<Progress>,
    platforms: Vec<Availability>,
    servers: Vec<String>,
    mailboxes: Vec<MailboxSight>,
    shared_store: Option<String>,
    /// What a signature of a package for macOS means, or that there is none.
    macos: String,
    fingerprint: String,
    is_here: bool,
}

impl Sight {
    /// Reads it.
    pub async fn read(state: &State, may_operate: bool) -> Result<Self, ApiError> {
        let fingerprint = gate::short_fingerprint(&state.certificate_fingerprint);
        let Some(builder) = &state.packages else {
            return Ok(Self {
                packages: None,
                building: None,
                platforms: Vec::new(),
                servers: Vec::new(),
                mailboxes: Vec::new(),
                shared_store: None,
                macos: String::new(),
                fingerprint,
                is_here: false,
            });
        };
        let packages = match may_operate {
            true => Some(builder.list().await?.into_iter().map(PackageJson::from).collect()),
            false => None,
        };
        Ok(Self {
            packages,
            building: builder.progress(),
            platforms: builder.platforms().await,
            servers: builder.servers(),
            mailboxes: builder.mailboxes(),
            shared_store: builder.shared_store().map(str::to_owned),
            macos: {
                let signature = builder.signature();
                let by = signature.by.map_or_else(String::new, |by| format!(" By {by}."));
                format!("{}{by}", signature.meaning)
            },
            fingerprint,
            is_here: true,
        })
    }
}

/// Where a new machine looks for the cluster.
struct Reached {
    address: String,
    /// Whether nobody else gets there.
    is_own: bool,
}

impl Reached {
    fn new(address: &str) -> Self {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        Self {
            address: address.to_owned(),
            is_own: host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback()),
        }
    }
}

struct Kind {
    value: &'static str,
    ending: &'static str,
    what: &'static str,
    is_chosen: bool,
}

struct Row {
    id: String,
    name: String,
    status: Status,
    word: &'static str,
    /// Who joined by it, where somebody did.
    who: Option<String>,
    when: String,
    at: Moment,
    kind: &'static str,
    node: String,
    size: String,
    is_waiting: bool,
}

#[derive(Template)]
#[template(path = "blocks/packages.html")]
struct List {
    rows: Vec<Row>,
    may_operate: bool,
    may_admin: bool,
}

struct Step {
    name: &'static str,
    status: &'static str,
    icon: &'static str,
}

#[derive(Template)]
#[template(path = "blocks/building.html")]
struct Building {
    name: Option<String>,
    steps: Vec<Step>,
    percent: u8,
}

struct Missing {
    what: String,
    reason: String,
    remedy: String,
}

#[derive(Template)]
#[template(path = "pages/installer.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    tabs: Block,
    building: Block,
    packages: Block,
    form: Form,
    kinds: Vec<Kind>,
    servers: Vec<Reached>,
    mailboxes: Vec<MailboxSight>,
    missing: Vec<Missing>,
    macos: String,
    fault: Option<String>,
    may_admin: bool,
    is_here: bool,
    cluster: String,
    node: String,
    nodes: String,
    store: String,
    is_shared: bool,
    fingerprint: String,
    version: String,
}

/// The page.
pub fn page(
    picture: &Picture,
    sight: &Sight,
    reader: Reader,
    may_admin: bool,
    form: Form,
    fault: Option<String>,
) -> impl Template + use<> {
    let scene = &picture.scene;
    let (theme, may_operate) = (reader.theme, reader.may_operate);
    let verdict = frame::heading(&verdict(picture, sight));
    let of_kind = |kind: PackageKind, what: &'static str| Kind {
        value: kind.as_str(),
        ending: if kind == PackageKind::Oci { "OCI" } else { kind.ending() },
        what,
        is_chosen: form.kind == kind.as_str(),
    };
    let active = picture.machines.iter().filter(|machine| machine.status != Status::Off).count();
    let own = picture.machines.iter().find(|machine| machine.node.node_id.as_str() == scene.node_id);
    Page {
        frame: Frame::new(picture, reader, Place::Settings, "Node installer", verdict, PATH, TOPICS),
        theme,
        tabs: pipeline::settings_tabs(PATH),
        building: building(sight),
        packages: list(picture, sight, may_operate, may_admin),
        kinds: vec![
            of_kind(PackageKind::Deb, "Debian, Ubuntu"),
            of_kind(PackageKind::Rpm, "Fedora, RHEL"),
            of_kind(PackageKind::Pkg, "macOS 11 or later"),
            of_kind(PackageKind::TarGz, "any Linux"),
            of_kind(PackageKind::Oci, "container image"),
        ],
        form,
        servers: sight.servers.iter().map(|address| Reached::new(address)).collect(),
        mailboxes: sight.mailboxes.clone(),
        missing: missing(&sight.platforms),
        macos: sight.macos.clone(),
        fault,
        may_admin,
        is_here: sight.is_here,
        cluster: scene.cluster_name.clone(),
        node: own.map_or_else(|| scene.node_id.clone(), |machine| machine.node.name.clone()),
        nodes: format!("{active} of {} active", picture.machines.len()),
        store: sight.shared_store.clone().unwrap_or_else(|| "built in, on this machine".to_owned()),
        is_shared: sight.shared_store.is_some(),
        fingerprint: sight.fingerprint.clone(),
        version: scene.version.clone(),
    }
}

fn verdict(picture: &Picture, sight: &Sight) -> Verdict {
    let lede = match sight.is_here {
        true => format!(
            "Build a package here and install it there. The machine joins {} at its first start, from any network \
             that reaches one of the addresses below.",
            picture.scene.cluster_name
        ),
        false => "An installer needs a cluster to join, and this process admits no machines.".to_owned(),
    };
    Verdict { status: Status::Ok, sentence: "Add a machine with one file.".to_owned(), lede }
}

/// What cannot be built, each reason once.
fn missing(platforms: &[Availability]) -> Vec<Missing> {
    let mut missing: Vec<Missing> = Vec::new();
    for found in platforms.iter().filter(|found| !found.is_ready) {
        let (reason, remedy) =
            (found.reason.clone().unwrap_or_default(), found.remedy.clone().unwrap_or_default());
        match missing.iter_mut().find(|known| known.reason == reason) {
            Some(known) => {
                known.what.push_str(", ");
                known.what.push_str(found.kind.as_str());
            }
            None => missing.push(Missing {
                what: format!("{}: {}", found.platform.as_str(), found.kind.as_str()),
                reason,
                remedy,
            }),
        }
    }
    missing
}

fn building(sight: &Sight) -> Block {
    let now = sight.building.as_ref();
    let stages = [(Stage::Collecting, "Collected"), (Stage::Packing, "Packing"), (Stage::Checking, "Check")];
    let at = now.and_then(|now| stages.iter().position(|(stage, _)| *stage == now.stage)).unwrap_or(0);
    let steps = stages.iter().enumerate().map(|(index, (_, name))| {
        let (status, icon) = match index.cmp(&at) {
            std::cmp::Ordering::Less => ("ok", "s-ok"),
            std::cmp::Ordering::Equal => ("run", "s-run"),
            std::cmp::Ordering::Greater => ("queue", "s-queue"),
        };
        Step { name, status, icon }
    });
    let percent = [10, 40, 95][at];
    let block = Building { name: now.map(|now| now.name.clone()), steps: steps.collect(), percent };
    Block::render("building", "Building", &block)
}

fn list(picture: &Picture, sight: &Sight, may_operate: bool, may_admin: bool) -> Block {
    let scene = &picture.scene;
    let rows = sight.packages.iter().flatten().map(|package| {
        let (status, word, who, when, at_ms) = match package.state {
            "waiting" => (
                Status::Queue,
                "Waiting to be used",
                None,
                format!("expires in {}", format::duration(package.expires_at_ms - scene.now_ms)),
                package.expires_at_ms,
            ),
            "used" => {
                let host = package.used_by_hostname.clone().or_else(|| package.used_by.clone());
                let at_ms = package.used_at_ms.unwrap_or(package.built_at_ms);
                (
                    Status::Ok,
                    "Used",
                    host,
                    format!("joined {}", scene.zone.moment(at_ms, scene.now_ms)),
                    at_ms,
                )
            }
            "revoked" => {
                let at_ms = package.revoked_at_ms.unwrap_or(package.expires_at_ms);
                (Status::Off, "Revoked", None, scene.zone.moment(at_ms, scene.now_ms), at_ms)
            }
            _ => {
                let when = format!("{}, unused", scene.zone.moment(package.expires_at_ms, scene.now_ms));
                (Status::Off, "Expired", None, when, package.expires_at_ms)
            }
        };
        Row {
            id: package.package_id.clone(),
            name: package.name.clone(),
            status,
            word,
            who,
            when,
            at: Moment::new(&scene.zone, at_ms, scene.now_ms),
            kind: package.kind.as_str(),
            node: package.node_name.clone().unwrap_or_else(|| "any host name".to_owned()),
            size: format::bytes(package.size_bytes as f64).to_string(),
            is_waiting: package.state == "waiting",
        }
    });
    Block::render("packages", "Built packages", &List { rows: rows.collect(), may_operate, may_admin })
}

/// Renders one block of this page by its live name.
pub fn block(
    name: &str,
    picture: &Picture,
    sight: &Sight,
    may_operate: bool,
    may_admin: bool,
) -> Option<Block> {
    Some(match name {
        "building" => building(sight),
        "packages" => list(picture, sight, may_operate, may_admin),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_asks_for_a_platform_that_fits_its_kind() {
        let form = Form { processor: "arm64".into(), ..Form::default() };
        assert_eq!(form.wish().expect("is fine").platform, Some(Platform::LinuxArm));
        let mac = Form { kind: "pkg".into(), ..form.clone() };
        assert_eq!(mac.wish().expect("is fine").platform, Some(Platform::MacosArm));
        assert!(Form { kind: "exe".into(), ..form.clone() }.wish().is_err());
        assert!(Form { role: "king".into(), ..form.clone() }.wish().is_err());
        assert!(Form { ceiling: "sky".into(), ..form }.wish().is_err());
    }

    #[test]
    fn what_is_missing_is_said_once() {
        let absent = |kind, platform, reason: &str| Availability {
            platform,
            kind,
            is_ready: false,
            reason: Some(reason.to_owned()),
            remedy: Some("add it".to_owned()),
        };
        let found = missing(&[
            absent(PackageKind::Deb, Platform::LinuxArm, "none"),
            absent(PackageKind::Rpm, Platform::LinuxArm, "none"),
            absent(PackageKind::Pkg, Platform::MacosArm, "other"),
        ]);
        let what: Vec<&str> = found.iter().map(|one| one.what.as_str()).collect();
        assert_eq!(what, ["linux-arm64: deb, rpm", "macos-arm64: pkg"]);
    }

    #[test]
    fn an_address_that_only_this_machine_reaches_is_marked() {
        let own = |address| Reached::new(address).is_own;
        assert!(own("127.0.0.1:8080") && own("[::1]:8080") && own("localhost:8080"));
        assert!(!own("10.0.0.5:8080") && !own("[2001:db8::1]:8080") && !own("hq.example.net"));
    }
}
