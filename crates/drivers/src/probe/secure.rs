//! The TLS stage: handshake, certificate check, and what the certificate says.

use std::{io, net::IpAddr, sync::Arc, time::Instant};

use caelum_model::{details::CertificateFacts, event::ErrorStage};
use rustls::{ClientConfig, ProtocolVersion, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, time::ASN1Time, x509::X509Name};

use super::{Failure, Host, Measurement, Task, ms, words};
use crate::fault;

/// Characters of a name that are kept.
const TEXT_CHARACTERS_MAX: usize = 120;

/// The handshake with `host` on a connection: leaves the time in the measurement.
pub(super) async fn handshake(
    task: &Task<'_>,
    config: &Arc<ClientConfig>,
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
    let connector = TlsConnector::from(Arc::clone(config));
    let started = Instant::now();
    let shaken = tokio::time::timeout(task.timeout, connector.connect(name, stream)).await;
    let took = started.elapsed();
    let stream = shaken
        .map_err(|_| failed(format!("handshake timed out after {}", words(task.timeout))))?
        .map_err(|error| failed(explain(&error)))?;
    measurement.timings.tls_ms = Some(ms(took));
    let connection = stream.get_ref().1;
    let web = measurement.details.web.get_or_insert_default();
    web.tls_version = connection.protocol_version().and_then(version).map(str::to_owned);
    let shown = connection.peer_certificates().and_then(<[_]>::first);
    web.certificate = shown.and_then(|certificate| facts(certificate));
    Ok(stream)
}

fn version(version: ProtocolVersion) -> Option<&'static str> {
    match version {
        ProtocolVersion::TLSv1_2 => Some("1.2"),
        ProtocolVersion::TLSv1_3 => Some("1.3"),
        _ => None,
    }
}

/// What a certificate says; none where it cannot be read. Its subject is the common name or, as is usual
/// today, the first name that it is for.
fn facts(der: &[u8]) -> Option<CertificateFacts> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let ms = |time: ASN1Time| time.timestamp().saturating_mul(1_000);
    let common = common_name(certificate.subject()).or_else(|| first_name(&certificate));
    let issuer = certificate.issuer();
    Some(CertificateFacts {
        starts_at_ms: ms(certificate.validity().not_before),
        expires_at_ms: ms(certificate.validity().not_after),
        subject: clean(&common.unwrap_or_else(|| certificate.subject().to_string())),
        issuer: clean(&common_name(issuer).unwrap_or_else(|| issuer.to_string())),
    })
}

fn common_name(name: &X509Name<'_>) -> Option<String> {
    let text = name.iter_common_name().find_map(|part| part.as_str().ok())?;
    (!text.is_empty()).then(|| text.to_owned())
}

fn first_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|ip| IpAddr::from(ip).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|ip| IpAddr::from(ip).to_string()),
            _ => None,
        },
        _ => None,
    })
}

/// What strangers wrote, for terminals and pages.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_CHARACTERS_MAX).collect()
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "connection closed during the handshake".to_owned(),
        _ => fault::describe(error),
    }
}
