//! The log: one line a happening, on standard error. Human on a terminal, JSON elsewhere.

use std::io::{self, IsTerminal as _};

use caelum_model::config::{LogFormat, LogLevel, Telemetry};
use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// Opens the log. Before this, nothing is logged; failures are reported by `exit` all the same.
pub fn open(telemetry: &Telemetry) {
    let is_terminal = io::stderr().is_terminal();
    let is_human = match telemetry.log_format {
        LogFormat::Auto => is_terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let layer = if is_human {
        fmt::layer().with_writer(io::stderr).with_ansi(is_terminal).with_target(false).boxed()
    } else {
        fmt::layer().json().flatten_event(true).with_current_span(false).with_writer(io::stderr).boxed()
    };
    tracing_subscriber::registry().with(layer.with_filter(filter(telemetry.log_level))).init();
}

/// Our own parts at the level asked for; what they are built on speaks up from warnings, or with
/// `trace` from everything it deems worth debugging.
fn filter(level: LogLevel) -> Targets {
    let (own, others) = match level {
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::WARN),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::WARN),
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::WARN),
        LogLevel::Trace => (LevelFilter::TRACE, LevelFilter::DEBUG),
    };
    Targets::new().with_default(others).with_target("caelum", own)
}
