//! `/mcp`: the API as tools of the Model Context Protocol, for assistants.
//!
//! A tool is an operation of the API under a name that says what it is for: its description and its arguments
//! come from the same OpenAPI document, and calling it asks the same route with the caller's own token. So
//! roles, ceilings, bounds and the audit log are those of the API; there is nothing here to get round them by.
//! Requests are answered one by one without sessions, so that any server of a fleet answers any of them. How
//! the protocol speaks (MCP 2026-07-28 and older, streamable HTTP) is the library's.

mod tools;

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    body::Body,
    extract::{self, Request},
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
    routing::{MethodRouter, any},
};
use http_body_util::{BodyExt as _, Limited};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation,
        ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
    },
};
use serde_json::Value;
use tower::ServiceExt as _;

use self::tools::{Offer, offers};
use crate::{BODY_BYTES_MAX, api, auth::Person, state::State};

/// Largest answer of a route that becomes a tool's, bytes. More is no use to who reads it.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What every assistant is told first.
const INSTRUCTIONS: &str = "Caelum is a cluster of machines: their health, the work they do, the network between \
    them and beyond. Begin with `overview`; `incidents` says in a sentence each what is wrong and where. Times are \
    milliseconds since 1970 UTC. A value that is not known is null. What your token does not permit is refused.";

static OFFERS: LazyLock<Vec<Offer>> = LazyLock::new(|| offers(&api::router().1));

/// The route over the routes of the API, which are made once. Only who has signed in, or has a token, gets an
/// answer.
pub(crate) fn route(state: &Arc<State>, api: Router) -> MethodRouter<Arc<State>> {
    let tools = Tools { api, state: Arc::clone(state) };
    // Who asks was let in by a secret, which no other site's page can send: what protects servers without one,
    // an own list of names, would only be in the way here.
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_max_request_body_bytes(BODY_BYTES_MAX)
        .disable_allowed_hosts();
    let sessions = Arc::new(NeverSessionManager::default());
    let service = StreamableHttpService::new(move || Ok(tools.clone()), sessions, config);
    any(async move |_: Person, request: Request| service.handle(request).await.map(Body::new))
}

/// What is offered to one who asks.
#[derive(Clone)]
struct Tools {
    api: Router,
    state: Arc<State>,
}

impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("caelum", env!("CARGO_PKG_VERSION")))
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let mut parts = asked(&context)?.clone();
        let person =
            <Person as extract::FromRequestParts<_>>::from_request_parts(&mut parts, &self.state).await;
        let Ok(person) = person else {
            return Err(ErrorData::invalid_request("the token is no longer valid", None));
        };
        let tools: Vec<Tool> =
            OFFERS.iter().filter(|offer| offer.is_for(person.role)).map(Offer::tool).collect();
        Ok(ListToolsResult { tools, ..ListToolsResult::default() })
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(offer) = OFFERS.iter().find(|offer| offer.name == request.name) else {
            return Err(ErrorData::invalid_params(format!("there is no tool {:?}", request.name), None));
        };
        let arguments = request.arguments.unwrap_or_default();
        let result = match offer.request(arguments) {
            Err(why) => refused(why),
            Ok(asked_for) => self.ask(asked_for, asked(&context)?).await,
        };
        Ok(result.into())
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        OFFERS.iter().find(|offer| offer.name == name).map(Offer::tool)
    }
}

/// The HTTP request that a message came by.
fn asked(context: &RequestContext<RoleServer>) -> Result<&Parts, ErrorData> {
    let parts = context.extensions.get::<Parts>();
    parts.ok_or_else(|| ErrorData::internal_error("the message did not come by HTTP", None))
}

fn refused(why: String) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(why)])
}

impl Tools {
    /// Asks a route as who sent the message.
    async fn ask(&self, wish: tools::Wish, came_by: &Parts) -> CallToolResult {
        let body = wish.body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let mut request = Request::new(body);
        *request.method_mut() = wish.method.clone();
        *request.uri_mut() = match wish.path.parse() {
            Ok(uri) => uri,
            Err(error) => return refused(format!("the arguments make no address: {error}")),
        };
        // Where they came from counts for limits and the audit log.
        *request.extensions_mut() = came_by.extensions.clone();
        copy(&came_by.headers, request.headers_mut(), &wish.method);
        let answer = match self.api.clone().oneshot(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        };
        let status = answer.status();
        let bytes = match Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await {
            Ok(bytes) => bytes.to_bytes(),
            Err(_) => {
                return refused(
                    "the answer is longer than 1 MiB: ask for fewer, or for less time".to_owned(),
                );
            }
        };
        told(status, &bytes)
    }
}

/// What of the caller's headers goes on to the route.
fn copy(from: &HeaderMap, to: &mut HeaderMap, method: &Method) {
    for name in [header::AUTHORIZATION, header::COOKIE, header::HOST, header::USER_AGENT] {
        for value in from.get_all(&name) {
            to.append(name.clone(), value.clone());
        }
    }
    let json = header::HeaderValue::from_static("application/json");
    to.insert(header::ACCEPT, json.clone());
    if method != Method::GET {
        to.insert(header::CONTENT_TYPE, json);
    }
}

fn told(status: StatusCode, bytes: &[u8]) -> CallToolResult {
    let value: Option<Value> = serde_json::from_slice(bytes).ok();
    if !status.is_success() {
        let said = value.as_ref().and_then(|value| value["error"]["message"].as_str()).unwrap_or("no reason");
        return refused(format!("{status}: {said}"));
    }
    match value {
        Some(value) if value.is_object() => CallToolResult::structured(value),
        _ => CallToolResult::success(vec![ContentBlock::text(String::from_utf8_lossy(bytes))]),
    }
}
