//! The API for programs, described by OpenAPI from the same code.
//!
//! Lists answer `{"<plural>": […], "next_cursor": …}`; times are milliseconds since 1970 UTC; a value that is
//! not known is null, never zero.

pub mod access;
pub(crate) mod alerts;
pub(crate) mod backups;
pub(crate) mod cluster;
pub(crate) mod enrol;
pub(crate) mod fleet;
pub(crate) mod flow;
pub(crate) mod incidents;
pub(crate) mod master_key;
pub(crate) mod measures;
pub(crate) mod network;
pub(crate) mod node_writes;
pub(crate) mod nodes;
pub(crate) mod notice_settings;
mod orders;
pub(crate) mod packages;
pub mod pipeline;
mod placing;
pub(crate) mod probes;
pub(crate) mod schedules;
pub(crate) mod scores;
mod session;
pub(crate) mod ssh;
mod system;
pub(crate) mod target_writes;
pub(crate) mod targets;
pub(crate) mod task_output;
pub(crate) mod tasks;
mod work;

use std::sync::Arc;

use axum::{Json, Router, routing::get};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{error::ApiError, events, state::State};

pub use measures::MeasureJson;
pub use nodes::NodeJson;

/// Most rows a list answers at once.
pub(crate) const LIMIT_MAX: usize = 500;
/// Rows a list answers unless asked for another number.
pub(crate) const LIMIT_DEFAULT: usize = 100;

#[derive(OpenApi)]
#[openapi(
    info(title = "Caelum", description = "One cluster you can see, trust and use."),
    tags(
        (name = "system", description = "The server itself"),
        (name = "session", description = "Signing in"),
        (name = "cluster", description = "Machines among themselves: discovery, links, topology, and how they become nodes"),
        (name = "fleet", description = "Several servers: which of them live, and what stands before them"),
        (name = "nodes", description = "Machines and their health"),
        (name = "tasks", description = "Work: tasks, what they write, their schedules, and the workers that do them"),
        (name = "ssh", description = "Commands on other machines, their host keys, and hosts without an agent"),
        (name = "network", description = "Targets, measurements and verdicts"),
        (name = "packages", description = "Files that make other machines nodes"),
        (name = "access", description = "Users, tokens and the audit log")),
    modifiers(&Security))]
struct Document;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_with(Default::default);
        components.add_security_scheme(
            "token",
            SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()),
        );
        components.add_security_scheme(
            "session",
            SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new("caelum_session"))),
        );
    }
}

/// All routes of the API, and the document that describes them and `/events`.
pub fn router() -> (Router<Arc<State>>, utoipa::openapi::OpenApi) {
    let (router, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(system::health))
        .routes(routes!(system::stats))
        .routes(routes!(system::metrics))
        .routes(routes!(cluster::discovered_machines))
        .routes(routes!(cluster::topology))
        .routes(routes!(cluster::info))
        .routes(routes!(cluster::stats))
        .routes(routes!(cluster::discover))
        .routes(routes!(cluster::connect))
        .routes(routes!(session::login))
        .routes(routes!(session::logout))
        .routes(routes!(session::me))
        .routes(routes!(nodes::list, node_writes::add_node))
        .routes(routes!(nodes::health))
        .routes(routes!(nodes::thresholds, nodes::put_thresholds))
        .routes(routes!(nodes::one, node_writes::change_node, enrol::revoke_node))
        .routes(routes!(nodes::one_health))
        .routes(routes!(alerts::list))
        .routes(routes!(alerts::acknowledge))
        .routes(routes!(alerts::resolve))
        .routes(routes!(alerts::notices))
        .routes(routes!(placing::recommend))
        .routes(routes!(placing::distribution))
        .routes(routes!(placing::rebalance))
        .routes(routes!(notice_settings::notice_settings, notice_settings::put_notice_settings))
        .routes(routes!(notice_settings::test))
        .routes(routes!(nodes::history))
        .routes(routes!(targets::list_targets, target_writes::add_target))
        .routes(routes!(target_writes::templates))
        .routes(routes!(targets::one_target, target_writes::change_target, target_writes::remove_target))
        .routes(routes!(orders::orders))
        .routes(routes!(tasks::list, tasks::add))
        .routes(routes!(tasks::assign_optimal))
        .routes(routes!(tasks::one))
        .routes(routes!(task_output::output))
        .routes(routes!(tasks::cancel))
        .routes(routes!(tasks::retry))
        .routes(routes!(schedules::list, schedules::add))
        .routes(routes!(schedules::change, schedules::remove))
        .routes(routes!(work::poll))
        .routes(routes!(work::report))
        .routes(routes!(flow::flow))
        .routes(routes!(network::probes))
        .routes(routes!(network::rollups))
        .routes(routes!(network::diagnoses))
        .routes(routes!(incidents::incidents))
        .routes(routes!(incidents::incident))
        .routes(routes!(network::probe, probes::change_probe))
        .routes(routes!(pipeline::pipeline))
        .routes(routes!(pipeline::dead_letters))
        .routes(routes!(pipeline::replay))
        .routes(routes!(enrol::join))
        .routes(routes!(enrol::join_tokens, enrol::add_join_token))
        .routes(routes!(enrol::revoke_join_token))
        .routes(routes!(enrol::adopt))
        .routes(routes!(ssh::execute))
        .routes(routes!(ssh::broadcast))
        .routes(routes!(ssh::targets))
        .routes(routes!(ssh::stats))
        .routes(routes!(ssh::cleanup))
        .routes(routes!(ssh::key))
        .routes(routes!(ssh::hosts::known_hosts, ssh::hosts::accept, ssh::hosts::forget))
        .routes(routes!(ssh::hosts::host_key))
        .routes(routes!(ssh::hosts::hosts, ssh::hosts::add_host, ssh::hosts::remove_host))
        .routes(routes!(fleet::status))
        .routes(routes!(fleet::nodes))
        .routes(routes!(fleet::health))
        .routes(routes!(fleet::health_check))
        .routes(routes!(fleet::load_balancer))
        .routes(routes!(master_key::master_key))
        .routes(routes!(master_key::rotate))
        .routes(routes!(master_key::finish))
        .routes(routes!(packages::build))
        .routes(routes!(packages::list))
        .routes(routes!(packages::platforms))
        .routes(routes!(packages::mailboxes))
        .routes(routes!(packages::revoke))
        .routes(routes!(access::users))
        .routes(routes!(access::tokens, access::add_token))
        .routes(routes!(access::revoke_token))
        .routes(routes!(access::audit))
        .routes(routes!(backups::backups, backups::back_up))
        .split_for_parts();
    let events =
        OpenApiRouter::<Arc<events::Gate>>::default().routes(routes!(events::accept)).split_for_parts().1;
    document.merge(events);
    let served = document.clone();
    let router = router
        .route("/api/openapi.json", get(async move || Json(served.clone())))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed);
    (router, document)
}

/// How many rows to answer.
pub(crate) fn limit(asked: Option<usize>) -> usize {
    asked.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX)
}
