//! `dns://`, `dns+tcp://` and `dns+tls://` targets: one question to one resolver.
//!
//! Whether the answer came out of the resolver's cache is told where it shows (`engine::facts`): the longest
//! time to live of each question is remembered, and while that says nothing, the question is asked once more
//! over the same way. That second question is in no stage's time. A question with a fresh label was never
//! asked before, so it is never cached; and since no such name exists, saying so counts as an answer.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use caelum_engine::facts::{Answered, is_cached};
use caelum_model::event::ErrorStage;
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RecordType},
};
use rustls::ClientConfig;

use super::{DnsTransport, Failure, Host, Measurement, Task, ms, resolve, secure, web::Stream};
use crate::random;

/// Questions whose longest time to live is remembered.
const QUESTIONS_MAX: usize = 4_096;
/// Letters of a fresh label: 80 bits, so that nobody asked before.
const FRESH_LETTERS: usize = 16;

/// The longest time to live that was seen for a question, s.
#[derive(Debug, Default)]
pub(super) struct Longest(Mutex<HashMap<(SocketAddr, Name, RecordType), u32>>);

impl Longest {
    /// Notes a time to live and answers the longest that was noted before.
    fn note(&self, server: SocketAddr, name: &Name, record_type: RecordType, ttl_s: u32) -> Option<u32> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= QUESTIONS_MAX {
            known.clear();
        }
        let key = (server, name.clone(), record_type);
        let before = known.get(&key).copied();
        known.insert(key, ttl_s.max(before.unwrap_or(0)));
        before
    }
}

/// What is asked, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) resolver: (&'a Host, u16),
    pub(super) name: &'a str,
    pub(super) record_type: RecordType,
    pub(super) transport: DnsTransport,
    pub(super) is_fresh: bool,
}

/// Asks once and times the answer. A code that means "no" is an error with a time: the resolver was quick
/// or slow to say so.
pub(super) async fn ask(
    task: &Task<'_>,
    question: &Question<'_>,
    measurement: &mut Measurement,
) -> Result<(), Failure> {
    let failed = |detail: String| Failure::new(ErrorStage::Dns, detail);
    let Question { resolver: (resolver, port), name, record_type, .. } = *question;
    // The resolver's own name is not what is measured.
    let found = resolve::resolve(resolver, measurement.family, task.names, task.timeout).await;
    let address = found.address.map_err(|detail| failed(format!("the resolver's own name: {detail}")))?;
    let server = SocketAddr::new(address, port);
    measurement.resolver = Some(server.to_string());
    measurement.remote_ip = Some(address.to_string());
    let asked = match question.is_fresh {
        true => format!("{}.{name}.", fresh_label()),
        false => format!("{name}."),
    };
    let full = Name::from_ascii(asked).map_err(|error| failed(error.to_string()))?;

    let mut way = Way::open(task, question, server, measurement).await?;
    let started = Instant::now();
    let answer = way.exchange(&full, record_type, task.timeout).await.map_err(failed)?;
    let took = started.elapsed();
    measurement.timings.dns_ms = Some(ms(took));
    if question.is_fresh {
        measurement.details.dns_cached = Some(false);
    } else if answer.metadata.response_code == ResponseCode::NoError {
        let rest = task.timeout.saturating_sub(took);
        measurement.details.dns_cached =
            look_for_cache(task, &mut way, (&full, record_type), &answer, (took, rest)).await;
    }

    let is_root = name.is_empty();
    match answer.metadata.response_code {
        ResponseCode::NoError if is_root || !answer.answers.is_empty() => Ok(()),
        ResponseCode::NoError | ResponseCode::NXDomain if question.is_fresh => Ok(()),
        ResponseCode::NoError => Err(failed(format!("no {record_type} record"))),
        code if is_root && code != ResponseCode::ServFail => Ok(()),
        code => Err(failed(resolve::code_name(code))),
    }
}

async fn look_for_cache(
    task: &Task<'_>,
    way: &mut Way,
    (name, record_type): (&Name, RecordType),
    answer: &Message,
    (took, rest): (Duration, Duration),
) -> Option<bool> {
    let ttl_s = answer.answers.iter().map(|record| record.ttl).min();
    let mut answered = Answered {
        is_authoritative: answer.metadata.authoritative,
        ttl_s,
        longest_ttl_s: ttl_s.and_then(|ttl_s| task.longest.note(way.server(), name, record_type, ttl_s)),
        first_ms: ms(took),
        second_ms: None,
    };
    if let Some(known) = is_cached(&answered) {
        return Some(known);
    }
    let started = Instant::now();
    way.exchange(name, record_type, rest).await.ok()?;
    answered.second_ms = Some(ms(started.elapsed()));
    is_cached(&answered)
}

fn fresh_label() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bytes = [0; FRESH_LETTERS];
    random::fill(&mut bytes);
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte & 31)])).collect()
}

/// How questions get to the resolver.
enum Way {
    Udp(SocketAddr),
    /// A connection, over TLS or not.
    Connected(SocketAddr, Box<dyn Stream>),
}

impl Way {
    async fn open(
        task: &Task<'_>,
        question: &Question<'_>,
        server: SocketAddr,
        measurement: &mut Measurement,
    ) -> Result<Self, Failure> {
        if question.transport == DnsTransport::Udp {
            return Ok(Self::Udp(server));
        }
        let stream = task.connect(server, measurement).await?;
        if question.transport == DnsTransport::Tcp {
            return Ok(Self::Connected(server, Box::new(stream)));
        }
        let config: &Arc<ClientConfig> = task.dns_tls;
        let stream = secure::handshake(task, config, question.resolver.0, stream, measurement).await?;
        Ok(Self::Connected(server, Box::new(stream)))
    }

    fn server(&self) -> SocketAddr {
        match self {
            Self::Udp(server) | Self::Connected(server, _) => *server,
        }
    }

    async fn exchange(
        &mut self,
        name: &Name,
        record_type: RecordType,
        within: Duration,
    ) -> Result<Message, String> {
        match self {
            Self::Udp(server) => resolve::exchange(*server, name, record_type, within).await,
            Self::Connected(server, stream) => {
                resolve::exchange_on(*server, stream, name, record_type, within).await
            }
        }
    }
}
