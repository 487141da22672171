//! What a pair is part of.

use std::net::{IpAddr, SocketAddr};

use caelum_model::{
    details::Condition,
    event::Family,
    id::ClientId,
    incident::{Entity, EntityKind},
};

/// Busy share of all cores from which on a probe's machine is in its own way, percent.
const BUSY_PERCENT: u8 = 90;
/// How much busier than usual it must be for that, percent points: a machine that is always busy was so while
/// all was well.
const BUSIER_PERCENT: f32 = 20.0;
/// Share of a new window in what is usual.
const USUAL_SHARE: f32 = 0.1;
/// Round trip to a machine's own gateway from which on it is slow, µs.
const GATEWAY_SLOW_US: u32 = 30_000;

/// A pair, and the places that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The probe.
    pub client_id: ClientId,
    /// The target's URL.
    pub target: String,
    /// IP version.
    pub family: Family,
    /// Places that can be blamed, the pair itself not among them.
    pub(super) places: Vec<Entity>,
    pub(crate) pair: Entity,
}

impl Facts {
    /// A pair, with the resolver it was seen to ask, the groups of its probe and its target, and the probe
    /// that runs on the machine that it measures, where there is one.
    pub fn new(
        client_id: ClientId,
        target: String,
        family: Family,
        resolver: Option<&str>,
        groups: [Option<&str>; 2],
        machine: Option<&str>,
    ) -> Self {
        let mut places =
            vec![place(EntityKind::Probe, client_id.as_str()), place(EntityKind::Target, &target)];
        places.extend(
            machine.filter(|name| *name != client_id.as_str()).map(|name| place(EntityKind::Probe, name)),
        );
        match groups {
            // What stays within a site does not cross what its members share towards others.
            [Some(from), Some(to)] if from == to => {}
            groups => places.extend(groups.into_iter().flatten().map(|name| place(EntityKind::Group, name))),
        }
        if family != Family::Any {
            // One family of a place may fail while the other works.
            let narrow: Vec<Entity> = places
                .iter()
                .map(|place| Entity {
                    kind: place.kind,
                    ids: vec![place.ids[0].clone(), family.as_str().to_owned()],
                })
                .collect();
            places.extend(narrow);
        }
        let asked = target.strip_prefix("dns://").and_then(|rest| rest.split('/').next());
        places.extend(
            asked.or(resolver).and_then(shared_resolver).map(|name| place(EntityKind::Resolver, &name)),
        );
        let ids = vec![client_id.as_str().to_owned(), target.clone(), family.as_str().to_owned()];
        let pair = Entity { kind: EntityKind::Pair, ids };
        Self { client_id, target, family, places, pair }
    }

    /// Whether two are the same pair, whatever it is part of.
    pub fn is_same_pair(&self, other: &Self) -> bool {
        self.pair == other.pair
    }

    /// The order of pairs.
    pub fn cmp_pair(&self, other: &Self) -> std::cmp::Ordering {
        self.pair.cmp(&other.pair)
    }

    /// Whether the pair belongs to a place, or is it.
    pub fn is_of(&self, entity: &Entity) -> bool {
        if entity.kind == EntityKind::Pair {
            return *entity == self.pair;
        }
        self.places.contains(entity)
    }
}

fn place(kind: EntityKind, name: &str) -> Entity {
    Entity { kind, ids: vec![name.to_owned()] }
}

/// The name of a resolver that others may ask too: its address without the usual port. One on the loopback
/// is part of the probe's machine.
fn shared_resolver(text: &str) -> Option<String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<IpAddr>().ok().map(|ip| (ip, 53));
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|at| (at.ip(), at.port())));
    match address {
        Some((ip, _)) if ip.is_loopback() => None,
        Some((ip, 53)) => Some(ip.to_string()),
        Some((ip, port)) => Some(SocketAddr::new(ip, port).to_string()),
        None if text.is_empty() => None,
        None => Some(text.to_owned()),
    }
}

/// How busy a probe's machine usually is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct UsualLoad {
    cpu_percent: Option<f32>,
}

impl UsualLoad {
    /// Takes the condition of one more window.
    pub fn note(&mut self, condition: &Condition) {
        let Some(percent) = condition.cpu_percent.map(f32::from) else { return };
        let usual = self.cpu_percent.get_or_insert(percent);
        *usual += USUAL_SHARE * (percent - *usual);
    }

    fn is_exceeded_by(self, percent: u8) -> bool {
        self.cpu_percent.is_none_or(|usual| f32::from(percent) >= usual + BUSIER_PERCENT)
    }
}

/// What is wrong with a probe's own machine, in words.
pub fn own_trouble(condition: &Condition, usual: UsualLoad) -> Option<String> {
    if condition.is_interface_down {
        let interface = condition.interface.as_deref().unwrap_or("its interface");
        return Some(format!("{interface} is down"));
    }
    if condition.is_gateway_lost {
        return Some("its gateway does not answer".to_owned());
    }
    if let Some(us) = condition.gateway_us.filter(|us| *us >= GATEWAY_SLOW_US) {
        return Some(format!("its gateway takes {} ms", us / 1_000));
    }
    condition
        .cpu_percent
        .filter(|percent| *percent >= BUSY_PERCENT && usual.is_exceeded_by(*percent))
        .map(|percent| format!("CPU {percent} %"))
}
