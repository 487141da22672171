//! Small real servers with known faults and delays, for the probe's tests. They end with their runtime.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use caelum_drivers::tls::{self, Authority, Issued};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{RData, Record, RecordType, rdata},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

/// How a web server behaves.
#[derive(Clone)]
pub struct Web {
    pub ip: IpAddr,
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Waits before its part of the handshake.
    pub before_handshake: Duration,
    /// Waits between the request and the first byte.
    pub before_answer: Duration,
    /// What it sends: pieces, each after a wait.
    pub pieces: Vec<(Duration, Vec<u8>)>,
    /// Keeps the connection open behind the last piece.
    pub hangs: bool,
}

impl Web {
    pub fn new(answer: &str) -> Self {
        Self {
            ip: IpAddr::from([127, 0, 0, 1]),
            tls: None,
            before_handshake: Duration::ZERO,
            before_answer: Duration::ZERO,
            pieces: vec![(Duration::ZERO, answer.as_bytes().to_vec())],
            hangs: false,
        }
    }

    pub fn ok() -> Self {
        Self::new("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    }

    pub fn secured(mut self, issued: &Issued) -> Self {
        self.tls = Some(Arc::new(tls::server_config(&issued.chain_pem, &issued.key_pem).unwrap()));
        self
    }

    /// Listens and returns the address.
    pub async fn start(self) -> SocketAddr {
        let listener = TcpListener::bind((self.ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let web = self.clone();
                tokio::spawn(async move {
                    sleep(web.before_handshake).await;
                    match &web.tls {
                        Some(config) => {
                            // Clients of these tests break handshakes off on purpose.
                            if let Ok(stream) = TlsAcceptor::from(Arc::clone(config)).accept(stream).await {
                                web.answer(stream).await;
                            }
                        }
                        None => web.answer(stream).await,
                    }
                });
            }
        });
        address
    }

    async fn answer(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => request.push(byte),
                Err(_) => return,
            }
        }
        sleep(self.before_answer).await;
        for (wait, piece) in &self.pieces {
            sleep(*wait).await;
            if stream.write_all(piece).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
        if self.hangs {
            std::future::pending::<()>().await;
        }
        drop(stream.shutdown().await);
    }
}

/// How a DNS server behaves towards every question.
#[derive(Clone, Default)]
pub struct Dns {
    pub records: HashMap<String, Vec<IpAddr>>,
    /// Waits before each answer.
    pub delay: Duration,
    /// Answers everything with this code.
    pub code: Option<ResponseCode>,
    /// Sends UDP answers without records and with the truncation mark.
    pub truncates: bool,
    /// Precedes each answer with one that has the wrong identifier.
    pub forges: bool,
    /// Refuses questions with extensions, as very old servers do.
    pub without_edns: bool,
    /// Never answers.
    pub silent: bool,
    /// Time to live of its records, s; 60 without it.
    pub ttl: Option<Arc<AtomicUsize>>,
}

impl Dns {
    pub fn with(name: &str, addresses: &[&str]) -> Self {
        Self::default().and(name, addresses)
    }

    pub fn and(mut self, name: &str, addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.records.insert(name.to_owned(), addresses);
        self
    }

    /// Listens on UDP and TCP at the same port and returns the address.
    pub async fn start(self) -> SocketAddr {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        let dns = self.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, peer)) = udp.recv_from(&mut buffer).await {
                let question = Message::from_vec(&buffer[..length]).unwrap();
                sleep(dns.delay).await;
                let mut answer = dns.answer(&question);
                if dns.truncates {
                    answer.metadata.truncation = true;
                    answer.answers.clear();
                }
                if dns.forges {
                    let mut forged = answer.clone();
                    forged.metadata.id = forged.metadata.id.wrapping_add(1);
                    udp.send_to(&forged.to_vec().unwrap(), peer).await.unwrap();
                    udp.send_to(b"noise", peer).await.unwrap();
                }
                if !dns.silent {
                    udp.send_to(&answer.to_vec().unwrap(), peer).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut bytes).await.unwrap();
                let answer = self.answer(&Message::from_vec(&bytes).unwrap()).to_vec().unwrap();
                stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        });
        address
    }

    fn answer(&self, question: &Message) -> Message {
        let Query { name, query_type, .. } = question.queries[0].clone();
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.add_query(question.queries[0].clone());
        let known = self.records.get(name.to_ascii().trim_end_matches('.'));
        answer.metadata.response_code = match (self.code, known) {
            (Some(code), _) => code,
            _ if self.without_edns && question.edns.is_some() => ResponseCode::FormErr,
            (None, Some(_)) => ResponseCode::NoError,
            (None, None) => ResponseCode::NXDomain,
        };
        if answer.metadata.response_code == ResponseCode::NoError {
            let ttl = self.ttl.as_ref().map_or(60, |ttl| ttl.load(Ordering::SeqCst));
            let ttl = u32::try_from(ttl).unwrap();
            for address in known.into_iter().flatten() {
                let data = match (address, query_type) {
                    (IpAddr::V4(v4), RecordType::A) => RData::A(rdata::A(*v4)),
                    (IpAddr::V6(v6), RecordType::AAAA) => RData::AAAA(rdata::AAAA(*v6)),
                    _ => continue,
                };
                answer.add_answer(Record::from_rdata(name.clone(), ttl, data));
            }
        }
        answer
    }
}

/// A certificate for these names that ended three days ago.
pub fn expired(authority: &Authority, name: &str) -> Issued {
    let issuer_key = rcgen::KeyPair::from_pem(&authority.key_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(authority.certificate_pem(), issuer_key).unwrap();
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    let days = |days: u64| std::time::SystemTime::now() - Duration::from_secs(days * 86_400);
    params.not_before = days(30).into();
    params.not_after = days(3).into();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    Issued { chain_pem: certificate.pem(), key_pem: key.serialize_pem() }
}
