//! Traces of this process, from the settings: what its parts hold, and what sends them.

use anyhow::Result;
use caelum_drivers::traces::Tracer;
use caelum_model::config;
use tokio::{sync::oneshot, task::JoinHandle};

/// A tracer for every part, off where no collector is set.
pub(super) struct Telemetry {
    pub(super) tracer: Tracer,
    sending: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Telemetry {
    /// Begins to send, if there is where to. `role` and `instance` say who this is.
    pub(super) fn start(config: &config::Telemetry, role: &str, instance: &str) -> Result<Self> {
        let Some(url) = &config.otlp_url else {
            return Ok(Self { tracer: Tracer::default(), sending: None });
        };
        let (tracer, exporter) = Tracer::open(url, config.trace_one_in, role, instance)?;
        let (stop, stopped) = oneshot::channel();
        // Being told and being forgotten both mean the end.
        let task = tokio::spawn(exporter.run(async { drop(stopped.await) }));
        tracing::info!(
            code = "traces.on",
            url,
            one_in = config.trace_one_in,
            "traces are sent to a collector"
        );
        Ok(Self { tracer, sending: Some((stop, task)) })
    }

    /// Sends what is left; to be called when all parts have ended.
    pub(super) async fn close(self) {
        let Some((stop, task)) = self.sending else { return };
        drop(stop);
        if let Err(error) = task.await {
            tracing::warn!(code = "traces.ended_badly", %error, "the last traces were not sent");
        }
        let dropped = self.tracer.dropped();
        if dropped > 0 {
            tracing::warn!(code = "traces.dropped", dropped, "spans were dropped because too many waited");
        }
    }
}
