//! Names to addresses, asked of the configured resolvers directly, so that the time is theirs alone and
//! the one that answered is known.
//!
//! The order of things is the C library's: hosts file, search list, servers one after the other, each asked
//! twice. Nothing is cached here.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use caelum_model::event::Family;
use hickory_proto::{
    op::{Edns, Message, MessageType, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

use super::{Host, Names, words};
use crate::{fault::describe, netinfo};

/// How often each server is asked.
const ROUNDS: usize = 2;
/// The longest wait for one server, if the time-out leaves room for another try.
const LONGEST_TRY: Duration = Duration::from_secs(2);
/// What we say that we take in one datagram: fits every path without fragments (DNS flag day 2020).
const UDP_PAYLOAD: u16 = 1_232;
const MAX_DATAGRAM: usize = 4_096;

/// How a name became an address, or why it did not.
#[derive(Debug)]
pub(super) struct Resolution {
    /// The address, or what went wrong.
    pub(super) address: Result<IpAddr, String>,
    /// Time of this stage; none where there was nothing to resolve.
    pub(super) took: Option<Duration>,
    /// The resolver that answered, or the last one asked.
    pub(super) resolver: Option<SocketAddr>,
}

impl Resolution {
    fn known(address: Result<IpAddr, String>) -> Self {
        Self { address, took: None, resolver: None }
    }
}

/// Resolves a host within the time-out.
pub(super) async fn resolve(host: &Host, family: Family, names: &Names, timeout: Duration) -> Resolution {
    let name = match host {
        Host::Address(address) if fits(family, *address) => return Resolution::known(Ok(*address)),
        Host::Address(address) => {
            return Resolution::known(Err(format!("{address} is no {} address", family.as_str())));
        }
        Host::Name(name) => name,
    };
    if let Some(address) = names.hosts.look_up(name).and_then(|known| choose(family, &known)) {
        return Resolution::known(Ok(address));
    }
    let mut search = Search { names, timeout, started: Instant::now(), resolver: None };
    let address = search.run(name, family).await;
    Resolution { address, took: Some(search.started.elapsed()), resolver: search.resolver }
}

fn fits(family: Family, address: IpAddr) -> bool {
    match family {
        Family::Any => true,
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
    }
}

/// The first address of the family; IPv4 first where either will do.
fn choose(family: Family, known: &[IpAddr]) -> Option<IpAddr> {
    let mut fitting = known.iter().copied().filter(|address| fits(family, *address));
    let first = fitting.clone().find(IpAddr::is_ipv4);
    first.or_else(|| fitting.next())
}

/// Why a name has no address so far.
#[derive(Debug)]
enum Miss {
    /// A resolver said so: the next name of the search list may do better.
    Absent(String),
    /// No resolver could say: another name will fare no better.
    Unanswered(String),
}

/// One resolution on its way.
struct Search<'a> {
    names: &'a Names,
    timeout: Duration,
    started: Instant,
    resolver: Option<SocketAddr>,
}

impl Search<'_> {
    async fn run(&mut self, name: &str, family: Family) -> Result<IpAddr, String> {
        let mut last = "the name is empty".to_owned();
        for candidate in self.names.resolver.candidates(name) {
            let Ok(full) = Name::from_ascii(format!("{candidate}.")) else {
                last = format!("{candidate} is no name");
                continue;
            };
            match self.addresses_of(&full, family).await {
                Ok(address) => return Ok(address),
                Err(Miss::Absent(detail)) => last = detail,
                Err(Miss::Unanswered(detail)) => return Err(detail),
            }
        }
        Err(last)
    }

    async fn addresses_of(&mut self, name: &Name, family: Family) -> Result<IpAddr, Miss> {
        match family {
            Family::V4 => self.first_record(name, RecordType::A).await,
            Family::V6 => self.first_record(name, RecordType::AAAA).await,
            Family::Any => match self.first_record(name, RecordType::A).await {
                Ok(v4) if netinfo::source_address(v4).is_some() => Ok(v4),
                // There is an IPv4 address and no way to it: IPv6 if there is one.
                Ok(v4) => Ok(self.first_record(name, RecordType::AAAA).await.unwrap_or(v4)),
                Err(Miss::Absent(detail)) if detail != "NXDOMAIN" => self
                    .first_record(name, RecordType::AAAA)
                    .await
                    .map_err(|_| Miss::Absent("no address".to_owned())),
                Err(miss) => Err(miss),
            },
        }
    }

    /// Asks the servers in turn until one answers for good.
    async fn first_record(&mut self, name: &Name, record_type: RecordType) -> Result<IpAddr, Miss> {
        let servers = &self.names.resolver.servers;
        let mut last = "no resolver is configured".to_owned();
        for server in std::iter::repeat_n(servers, ROUNDS).flatten() {
            let left = self.timeout.saturating_sub(self.started.elapsed());
            if left.is_zero() {
                break;
            }
            self.resolver = Some(*server);
            let within = left.min(LONGEST_TRY).min((self.timeout / 2).max(Duration::from_millis(1)));
            match exchange(*server, name, record_type, within).await {
                Ok(answer) => match answer.metadata.response_code {
                    ResponseCode::NoError => {
                        let address = answer.answers.iter().find_map(|record| address_in(&record.data));
                        return address.ok_or_else(|| Miss::Absent(format!("no {record_type} record")));
                    }
                    ResponseCode::NXDomain => return Err(Miss::Absent("NXDOMAIN".to_owned())),
                    code => last = code_name(code),
                },
                Err(detail) => last = detail,
            }
        }
        Err(Miss::Unanswered(last))
    }
}

fn address_in(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}

/// The response code as people know it.
pub(super) fn code_name(code: ResponseCode) -> String {
    match code {
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        other => format!("DNS error {}", u16::from(other)),
    }
}

/// One question and its answer: over UDP, again over TCP if the answer did not fit, and again without
/// extensions if the server does not know them. All within `within`.
pub(super) async fn exchange(
    server: SocketAddr,
    name: &Name,
    record_type: RecordType,
    within: Duration,
) -> Result<Message, String> {
    let attempt = async {
        let mut question = question(name, record_type);
        let mut answer = over_udp(server, &question).await?;
        if answer.metadata.response_code == ResponseCode::FormErr {
            question.edns = None;
            answer = over_udp(server, &question).await?;
        }
        if answer.metadata.truncation {
            answer = over_tcp(server, &question).await?;
        }
        Ok(answer)
    };
    wait_for(server, attempt, within).await
}

/// One question and its answer on a connection.
pub(super) async fn exchange_on(
    server: SocketAddr,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    name: &Name,
    record_type: RecordType,
    within: Duration,
) -> Result<Message, String> {
    let question = question(name, record_type);
    wait_for(server, on_stream(stream, &question), within).await
}

async fn wait_for(
    server: SocketAddr,
    attempt: impl Future<Output = io::Result<Message>>,
    within: Duration,
) -> Result<Message, String> {
    match tokio::time::timeout(within, attempt).await {
        Ok(answer) => answer.map_err(|error| format!("{} by {server}", describe(&error))),
        Err(_) => Err(format!("no answer from {server} within {}", words(within))),
    }
}

fn question(name: &Name, record_type: RecordType) -> Message {
    // The identifier is random, and so is the port that the system picks: together they are what keeps
    // strangers from answering.
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), record_type));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD);
    edns.set_version(0);
    question.set_edns(edns);
    question
}

async fn over_udp(server: SocketAddr, question: &Message) -> io::Result<Message> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    // Connected, so that only this server's datagrams arrive, and its refusals as errors.
    socket.connect(server).await?;
    socket.send(&encode(question)?).await?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Anything else is noise or forgery; the right answer may still come.
        if let Some(answer) =
            Message::from_vec(&buffer[..length]).ok().filter(|answer| answers(question, answer))
        {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &Message) -> io::Result<Message> {
    on_stream(&mut TcpStream::connect(server).await?, question).await
}

async fn on_stream(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    question: &Message,
) -> io::Result<Message> {
    let bytes = encode(question)?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(&bytes);
    stream.write_all(&framed).await?;
    stream.flush().await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(io::Error::other)?;
    if answers(question, &answer) {
        Ok(answer)
    } else {
        Err(io::Error::other("another question was answered"))
    }
}

fn encode(question: &Message) -> io::Result<Vec<u8>> {
    question.to_vec().map_err(io::Error::other)
}

/// Whether this is the answer to the question. Servers may leave the question out of an error.
fn answers(question: &Message, answer: &Message) -> bool {
    let same_question = match (question.queries.first(), answer.queries.first()) {
        (Some(asked), Some(answered)) => {
            asked.query_type() == answered.query_type() && asked.name() == answered.name()
        }
        (_, None) => answer.metadata.response_code != ResponseCode::NoError,
        (None, Some(_)) => false,
    };
    answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == question.metadata.id
        && same_question
}
