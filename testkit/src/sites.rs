//! Web sites with TLS and a name server, each as slow as a lab wants it at one stage.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, rustls};

use crate::lab::Host;

/// Size of what is downloaded to measure throughput.
pub const OBJECT_BYTES: usize = 128 << 10;
/// Where it is.
pub const OBJECT_PATH: &str = "/object";

/// Who vouches for the sites.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub pem: String,
}

impl Authority {
    /// A new one.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    fn acceptor(&self, name: &str) -> Result<TlsAcceptor> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &self.issuer)?;
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// How slow a site is now, ms.
#[derive(Debug, Default)]
pub struct Slowness {
    /// Before the handshake.
    pub tls_ms: AtomicU64,
    /// Before the first byte of an answer.
    pub first_byte_ms: AtomicU64,
    /// Before a name is answered.
    pub name_ms: AtomicU64,
}

/// A running site or name server; dropping it ends it.
pub struct Running {
    /// How slow it is.
    pub slowness: Arc<Slowness>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A web site with TLS on port 443 of a host.
pub fn site(host: &Host, address: Ipv4Addr, name: &str, authority: &Authority) -> Result<Running> {
    let listener = host.inside(|| {
        let listener = std::net::TcpListener::bind((address, 443)).context("listen as a site")?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    })?;
    let listener = TcpListener::from_std(listener)?;
    let acceptor = authority.acceptor(name)?;
    let slowness = Arc::new(Slowness::default());
    let shared = Arc::clone(&slowness);
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, slowness) = (acceptor.clone(), Arc::clone(&shared));
            // A visitor that goes away ends its own visit only.
            tokio::spawn(async move { visit(stream, &acceptor, &slowness).await.ok() });
        }
    });
    Ok(Running { slowness, task })
}

async fn visit(stream: TcpStream, acceptor: &TlsAcceptor, slowness: &Slowness) -> Result<()> {
    stream.set_nodelay(true)?;
    pause(&slowness.tls_ms).await;
    let mut stream = acceptor.accept(stream).await?;
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > 8_192 {
                return Ok(());
            }
            head.push(stream.read_u8().await?);
        }
        pause(&slowness.first_byte_ms).await;
        let wants_object = head.starts_with(format!("GET {OBJECT_PATH}").as_bytes());
        let body = vec![b'x'; if wants_object { OBJECT_BYTES } else { 512 }];
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(answer.as_bytes()).await?;
        stream.write_all(&body).await?;
        stream.flush().await?;
    }
}

async fn pause(ms: &AtomicU64) {
    let ms = ms.load(Ordering::Relaxed);
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// A name server on port 53 of a host: it knows these names, and that there is a root.
pub fn names(host: &Host, address: Ipv4Addr, names: BTreeMap<String, Ipv4Addr>) -> Result<Running> {
    let socket = host.inside(|| {
        let socket = std::net::UdpSocket::bind((address, 53)).context("listen as a name server")?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    })?;
    let socket = Arc::new(UdpSocket::from_std(socket)?);
    let slowness = Arc::new(Slowness::default());
    let shared = Arc::clone(&slowness);
    let task = tokio::spawn(async move {
        let names = Arc::new(names);
        let mut buffer = [0; 1_500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let Some(answer) = answer(&buffer[..length], &names) else { continue };
            let (socket, slowness) = (Arc::clone(&socket), Arc::clone(&shared));
            tokio::spawn(async move { reply(&socket, from, &answer, &slowness).await });
        }
    });
    Ok(Running { slowness, task })
}

async fn reply(socket: &UdpSocket, to: SocketAddr, answer: &[u8], slowness: &Slowness) {
    pause(&slowness.name_ms).await;
    // Who asked and is gone hears nothing.
    drop(socket.send_to(answer, to).await);
}

/// The answer to a question of one name (RFC 1035): an address, nothing, or that there is no such name.
fn answer(question: &[u8], names: &BTreeMap<String, Ipv4Addr>) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(question.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let kind = question.get(at..at + 2)?;
    let end = at + 4;
    let address = names.get(&labels.join("."));
    let is_known = labels.is_empty() || address.is_some();
    let records = address.filter(|_| kind == [0, 1]);
    let mut bytes = question.get(..end)?.to_vec();
    // An answer, recursion available, and how it went.
    bytes[2] = 0x81;
    bytes[3] = if is_known { 0x80 } else { 0x83 };
    bytes[6..12].copy_from_slice(&[0, u8::from(records.is_some()), 0, 0, 0, 0]);
    if let Some(address) = records {
        bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        bytes.extend_from_slice(&address.octets());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_name_has_its_address_and_an_unknown_one_none() {
        let names = BTreeMap::from([("web.lab".to_owned(), Ipv4Addr::new(10, 88, 0, 1))]);
        let ask = |name: &[u8]| [&[7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name, &[0, 1, 0, 1]].concat();
        let known = answer(&ask(b"\x03web\x03lab\x00"), &names).expect("answers");
        assert_eq!((&known[..2], known[7], &known[known.len() - 4..]), (&[7, 7][..], 1, &[10, 88, 0, 1][..]));
        let unknown = answer(&ask(b"\x03www\x03lab\x00"), &names).expect("answers");
        assert_eq!((unknown[3] & 15, unknown[7]), (3, 0));
        assert_eq!(answer(&ask(b"\x00"), &names).expect("answers")[3] & 15, 0, "there is a root");
        assert_eq!(answer(&[0; 9], &names), None);
    }
}
