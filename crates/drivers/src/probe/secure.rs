//! The TLS stage: handshake and certificate check.

use std::{io, sync::Arc, time::Instant};

use caelum_model::event::ErrorStage;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Failure, Host, Measurement, Task, ms, words};
use crate::fault;

/// The handshake with `host` on a connection: leaves the time in the measurement.
pub(super) async fn handshake(
    task: &Task<'_>,
    host: &Host,
    stream: TcpStream,
    measurement: &mut Measurement,
) -> Result<TlsStream<TcpStream>, Failure> {
    let failed = |detail: String| Failure::new(ErrorStage::Tls, detail);
    let name = match host {
        Host::Address(address) => ServerName::IpAddress((*address).into()),
        Host::Name(name) => ServerName::try_from(name.trim_end_matches('.').to_owned())
            .map_err(|_| failed(format!("{name} cannot be a certificate's name")))?,
    };
    let connector = TlsConnector::from(Arc::clone(task.tls));
    let started = Instant::now();
    let shaken = tokio::time::timeout(task.timeout, connector.connect(name, stream)).await;
    let took = started.elapsed();
    let stream = shaken
        .map_err(|_| failed(format!("handshake timed out after {}", words(task.timeout))))?
        .map_err(|error| failed(explain(&error)))?;
    measurement.timings.tls_ms = Some(ms(took));
    Ok(stream)
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "connection closed during the handshake".to_owned(),
        _ => fault::describe(error),
    }
}
