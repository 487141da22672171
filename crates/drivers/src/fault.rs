//! What went wrong on a connection, in a few words for people: the same words wherever it happens.
//!
//! Nothing is decided by these texts; where a kind of fault matters, callers look at the error itself.

use std::io;

use rustls::{CertificateError, Error as TlsFault};

/// Names of a certificate that are listed when it is for none of ours.
const NAMES_SHOWN: usize = 3;

/// What an error of a connection means, the same on every system, without numbers.
pub(crate) fn describe(error: &io::Error) -> String {
    // Libraries wrap an error of this type in another of it.
    if let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<io::Error>()) {
        return describe(inner);
    }
    if let Some(fault) = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsFault>()) {
        return describe_tls(fault);
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset by the other side".to_owned(),
        io::ErrorKind::ConnectionAborted => "connection aborted".to_owned(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            "connection closed by the other side".to_owned()
        }
        io::ErrorKind::TimedOut => "timed out".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to the host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "no route to its network".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine has no address of that kind".to_owned(),
        io::ErrorKind::PermissionDenied => "not permitted on this machine".to_owned(),
        _ => {
            let text = error.to_string();
            text.split(" (os error").next().unwrap_or(&text).to_owned()
        }
    }
}

fn describe_tls(fault: &TlsFault) -> String {
    match fault {
        TlsFault::InvalidCertificate(fault) => describe_certificate(fault),
        TlsFault::AlertReceived(alert) => format!("refused by the other side: {alert:?}"),
        TlsFault::InvalidMessage(_) => "the other side does not speak TLS".to_owned(),
        fault => fault.to_string(),
    }
}

fn describe_certificate(fault: &CertificateError) -> String {
    match fault {
        CertificateError::Expired => "certificate expired".to_owned(),
        CertificateError::ExpiredContext { time, not_after } => {
            format!("certificate expired {} ago", span(time.as_secs().saturating_sub(not_after.as_secs())))
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "certificate not valid yet".to_owned()
        }
        CertificateError::UnknownIssuer => "certificate from an unknown authority".to_owned(),
        CertificateError::NotValidForName => "certificate for another name".to_owned(),
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "certificate without names".to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            let names: Vec<&str> = presented.iter().take(NAMES_SHOWN).map(|name| plain_name(name)).collect();
            let more = if presented.len() > NAMES_SHOWN { ", …" } else { "" };
            format!("certificate for another name: {}{more}", names.join(", "))
        }
        CertificateError::Revoked => "certificate revoked".to_owned(),
        // Also what an authority that was made anew under its old name looks like.
        CertificateError::BadSignature => "certificate not signed by the authority it names".to_owned(),
        other => format!("certificate refused: {other}"),
    }
}

/// rustls hands names over in the form of its debug output: `DnsName("a.example")`.
fn plain_name(name: &str) -> &str {
    name.split('"').nth(1).unwrap_or(name)
}

fn span(seconds: u64) -> String {
    match seconds {
        0..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
