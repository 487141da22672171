//! Spans in the form of OpenTelemetry, and the request that takes them to a collector.
//!
//! The library's own batching stands on a thread without a reactor, and its retries sleep on the thread that
//! they are on. Neither is used: [`super::Exporter`] batches, and what is not taken is dropped.

use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use caelum_model::trace::{Attribute, Span};
use opentelemetry::{
    InstrumentationScope, KeyValue, Value,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks},
};

use super::TracesError;
use crate::tls;

/// Where collectors take traces, below their address.
const PATH: &str = "/v1/traces";
/// Time for one request.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Where spans go.
#[derive(Debug)]
pub(super) struct Collector {
    exporter: SpanExporter,
    scope: InstrumentationScope,
    url: String,
}

impl Collector {
    /// The collector at an address, with or without [`PATH`] at its end.
    pub(super) fn new(url: &str, role: &str, instance: &str) -> Result<Self, TracesError> {
        let base = url.trim_end_matches('/');
        let url = if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") };
        let wrong = |detail: String| TracesError::Setting { url: url.clone(), detail };
        let mut tls = tls::client_config(tls::root_store("")?)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(REQUEST_MAX)
            .user_agent(concat!("caelum/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client(client))
            .with_endpoint(&url)
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(REQUEST_MAX)
            .with_retry_policy(RetryPolicy::disabled())
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        let resource = Resource::builder_empty().with_service_name("caelum").with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", instance.to_owned()),
            KeyValue::new("caelum.role", role.to_owned()),
        ]);
        exporter.set_resource(&resource.build());
        Ok(Self { exporter, scope: InstrumentationScope::builder("caelum").build(), url })
    }

    /// Its whole address.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Sends spans in one request, or says why they were not taken.
    pub(super) async fn send(&self, spans: Vec<Span>) -> Result<(), String> {
        let batch = spans.into_iter().map(|span| to_data(span, &self.scope)).collect();
        self.exporter.export(batch).await.map_err(|error| error.to_string())
    }
}

fn to_data(span: Span, scope: &InstrumentationScope) -> SpanData {
    let flags = if span.context.is_sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let start_time = UNIX_EPOCH + Duration::from_nanos(span.start_ns);
    // What comes from the outside of a part begins in the part before it; only the first step has none.
    let span_kind = match span.name {
        "ingest" => SpanKind::Server,
        "fold" => SpanKind::Consumer,
        _ => SpanKind::Internal,
    };
    SpanData {
        span_context: SpanContext::new(
            TraceId::from_bytes(span.context.trace_id),
            SpanId::from_bytes(span.context.span_id),
            flags,
            false,
            TraceState::default(),
        ),
        parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from_bytes),
        parent_span_is_remote: !matches!(span_kind, SpanKind::Internal),
        span_kind,
        name: span.name.into(),
        start_time,
        end_time: start_time + Duration::from_nanos(span.took_ns),
        attributes: span
            .attributes
            .into_iter()
            .map(|(key, value)| KeyValue::new(key, to_value(value)))
            .collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: span.error.map_or(Status::Unset, Status::error),
        instrumentation_scope: scope.clone(),
    }
}

fn to_value(value: Attribute) -> Value {
    match value {
        Attribute::Number(number) => Value::I64(i64::try_from(number).unwrap_or(i64::MAX)),
        Attribute::Text(text) => Value::String(text.into()),
    }
}

/// The requests of the exporter, on the runtime that it is polled on.
#[derive(Debug)]
struct Client(reqwest::Client);

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let mut answer = self.0.execute(request.try_into()?).await?;
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err("the answer is larger than a collector's".into());
            }
            body.extend_from_slice(&chunk);
        }
        let mut response = http::Response::builder().status(answer.status());
        if let Some(headers) = response.headers_mut() {
            *headers = std::mem::take(answer.headers_mut());
        }
        Ok(response.body(body.freeze())?)
    }
}
