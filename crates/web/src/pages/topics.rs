//! Which blocks may look different after which change: what a live page reads again, and what it leaves alone.

use caelum_roles::bus::Change;

/// Whether a block may look different after a change.
pub fn concerns(change: Change, topic: &str) -> bool {
    match change {
        Change::SettingsChanged => true,
        Change::RosterChanged => matches!(
            topic,
            "verdict"
                | "figures"
                | "tiles"
                | "alerts"
                | "machines"
                | "discovered"
                | "issues"
                | "identity"
                | "topology"
                | "links"
                | "link"
                | "join-tokens"
                | "servers"
                | "coordination"
                | "master-key"
                | "packages"
        ),
        Change::NodeSampled => matches!(
            topic,
            "verdict"
                | "figures"
                | "first"
                | "tiles"
                | "alerts"
                | "events"
                | "machines"
                | "topology"
                | "machine-charts"
                | "issues"
                | "cores"
                | "disks"
                | "interfaces"
                | "sensors"
                | "identity"
        ),
        Change::RollupsChanged => matches!(
            topic,
            "verdict"
                | "horizon"
                | "figures"
                | "first"
                | "verdicts"
                | "experience"
                | "matrix"
                | "waterfall"
                | "percentiles"
                | "voice"
                | "resolvers"
                | "targets"
                | "probes"
                | "stations"
                | "partitions"
                | "aggregators"
                | "letters"
                | "letter"
                | "complete"
                | "gaps"
                | "measured"
                | "course"
                | "scores"
                | "budget"
                | "seen"
                | "answers"
                | "oneway"
                | "hops"
                | "mesh"
        ),
        Change::DiagnosesChanged => matches!(
            topic,
            "verdict"
                | "horizon"
                | "first"
                | "verdicts"
                | "experience"
                | "events"
                | "matrix"
                | "waterfall"
                | "percentiles"
                | "resolvers"
                | "targets"
        ),
        Change::IncidentsChanged => matches!(
            topic,
            "verdict"
                | "horizon"
                | "incidents"
                | "past"
                | "places"
                | "course"
                | "numbers"
                | "touched"
                | "why"
                | "tries"
                | "steps"
                | "events"
                | "verdicts"
                | "percentiles"
        ),
        Change::TargetsChanged => {
            matches!(topic, "verdict" | "first" | "events" | "matrix" | "targets" | "probes" | "setting")
        }
        Change::TasksChanged => {
            matches!(topic, "verdict" | "tasks" | "task" | "attempts" | "schedules" | "workload")
        }
        Change::TaskOutput => topic == "output",
        Change::PackagesChanged => matches!(topic, "packages" | "building"),
        Change::AlertsChanged => matches!(topic, "verdict" | "alerts" | "alert-log" | "issues" | "notices"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::{
        alerting, incident, incidents, installer, machine, machines, mesh, network, overview, pipeline,
        probe, servers, settings, target, task, tasks, tokens, topology,
    };

    #[test]
    fn every_topic_of_every_page_is_renewed_by_some_change() {
        let pages = [
            overview::TOPICS,
            machines::TOPICS,
            machine::TOPICS,
            topology::TOPICS,
            network::TOPICS,
            incidents::TOPICS,
            incident::TOPICS,
            target::TOPICS,
            mesh::TOPICS,
            settings::TOPICS,
            alerting::TOPICS,
            pipeline::TOPICS,
            probe::TOPICS,
            tokens::TOPICS,
            servers::TOPICS,
            installer::TOPICS,
            tasks::TOPICS,
            task::TOPICS,
            "verdict,horizon",
        ];
        let news = Change::ALL.into_iter().filter(|change| *change != Change::SettingsChanged);
        for topic in pages.iter().flat_map(|topics| topics.split(',')) {
            assert!(news.clone().any(|change| concerns(change, topic)), "{topic} would never change");
        }
    }
}
