//! What somebody who looks into an incident would try next: a question each, and the command that answers it.
//!
//! Names come from the network, so a command is offered only where they hold nothing that a shell would read
//! as more than a name.

use askama::Template;
use caelum_model::{
    diagnosis::Label,
    incident::{Entity, EntityKind, Incident},
};

use super::block::Block;

struct Try {
    says: String,
    command: Option<String>,
}

#[derive(Template)]
#[template(path = "blocks/tries.html")]
struct Tries {
    tries: Vec<Try>,
}

/// The block.
pub(super) fn block(incident: &Incident) -> Block {
    Block::render("tries", "What to try", &Tries { tries: tries(incident) })
}

fn tries(incident: &Incident) -> Vec<Try> {
    let named = |kind: EntityKind| named(incident, kind);
    let target = named(EntityKind::Target).filter(|url| is_plain(url));
    let probe = named(EntityKind::Probe);
    let on = probe.map_or_else(|| "a probe that it touches".to_owned(), |name| name.to_owned());
    let host = target.and_then(host_of);
    let mut tries = Vec::new();
    let mut push = |says: String, command: Option<String>| tries.push(Try { says, command });
    match incident.label {
        Label::Dns => {
            let name = host.as_deref().unwrap_or("example.com");
            match named(EntityKind::Resolver).filter(|resolver| is_plain(resolver)) {
                Some(resolver) => push(
                    format!("Ask the resolver directly, from {on}."),
                    Some(format!("dig @{resolver} {name}")),
                ),
                None => push(format!("Ask for the name, from {on}."), Some(format!("dig {name}"))),
            }
            push(
                "See which resolver that machine asks.".into(),
                Some("grep nameserver /etc/resolv.conf".into()),
            );
            push("Until it recovers, let the machines it touches ask another resolver.".into(), None);
        }
        Label::Path | Label::Loss => {
            push(format!("See where the time or the packets go, from {on}."), trace(host.as_deref()));
            if probe.is_some() {
                push("See how its way out is.".into(), Some("ip -s link; ip route show default".into()));
            }
            push("Look whether somebody fills the line: machines sort by traffic in Machines.".into(), None);
        }
        Label::Handshake => {
            if let Some(url) = target {
                push(format!("Measure it once, stage by stage, from {on}."), once(url));
            }
            if let Some(host) = &host {
                let command = format!("openssl s_client -brief -connect {host}:443 </dev/null");
                push("See what the other end of the handshake says.".into(), Some(command));
            }
            push("A handshake that is slow for all is often a server short of processor time.".into(), None);
        }
        Label::Server => {
            if let Some(url) = target {
                push("Measure it once, stage by stage, from the machine itself.".into(), once(url));
            }
            push(
                "See what the server is busy with.".into(),
                Some("uptime; ps -eo pcpu,pmem,args --sort=-pcpu | head".into()),
            );
        }
        Label::Throughput => {
            if let Some(url) = target {
                push(format!("Measure it once, stage by stage, from {on}."), once(url));
            }
            push("Look whether a link is full or a shaper is on.".into(), Some("tc -s qdisc show".into()));
        }
        Label::Unreachable => {
            if let Some(url) = target {
                push(format!("Measure it once, from {on}."), once(url));
            }
            push("See how far packets get.".into(), trace(host.as_deref()));
            push("Look whether it listens, on the machine itself.".into(), Some("ss -ltn".into()));
        }
    }
    tries
}

/// The first thing of a kind that the incident is about, or that its first pair names.
fn named(incident: &Incident, kind: EntityKind) -> Option<&str> {
    let Entity { kind: own, ids } = &incident.entity;
    match (own, kind) {
        (EntityKind::Pair, EntityKind::Probe) => ids.first().map(String::as_str),
        (EntityKind::Pair, EntityKind::Target) => ids.get(1).map(String::as_str),
        (own, kind) if *own == kind => ids.first().map(String::as_str),
        (_, EntityKind::Probe) => incident.pairs.first().map(|pair| pair.client_id.as_str()),
        (_, EntityKind::Target) => incident.pairs.first().map(|pair| pair.target.as_str()),
        _ => None,
    }
}

fn once(url: &str) -> Option<String> {
    Some(format!("caelum probe once {url}"))
}

fn trace(host: Option<&str>) -> Option<String> {
    host.map(|host| format!("caelum probe once {host} --trace"))
}

/// Whether a shell reads it as one word that means itself.
fn is_plain(text: &str) -> bool {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || ".:/_-[]%+=,@".contains(c);
    !text.is_empty() && text.len() <= 256 && !text.starts_with('-') && text.chars().all(is_fine)
}

fn host_of(url: &str) -> Option<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next()?.rsplit('@').next()?;
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next()?,
        None => authority.split(':').next()?,
    };
    (!host.is_empty() && !host.starts_with('-')).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::tests::target::open_incident;

    #[test]
    fn a_slow_resolver_is_asked_directly() {
        let tries = tries(&open_incident());
        assert!(tries[0].command.as_deref().is_some_and(|command| command.starts_with("dig @192.0.2.53 ")));
    }

    #[test]
    fn a_name_that_a_shell_would_read_is_in_no_command() {
        let mut incident = open_incident();
        incident.label = Label::Server;
        let evil = "https://a.example/$(reboot)";
        incident.entity = Entity { kind: EntityKind::Target, ids: vec![evil.into()] };
        let commands: Vec<String> = tries(&incident).into_iter().filter_map(|step| step.command).collect();
        assert!(commands.iter().all(|command| !command.contains("reboot")), "{commands:?}");
        incident.entity.ids = vec!["https://a.example:8443/x".into()];
        assert_eq!(
            tries(&incident)[0].command.as_deref(),
            Some("caelum probe once https://a.example:8443/x")
        );
    }

    #[test]
    fn every_label_has_something_to_try() {
        for label in Label::ALL {
            let incident = Incident { label, ..open_incident() };
            assert!(!tries(&incident).is_empty(), "{label:?}");
        }
    }
}
