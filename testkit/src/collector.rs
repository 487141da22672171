//! A collector of traces for tests: takes requests of OTLP over HTTP and reads the spans in them.
//!
//! It reads protobuf by the published field numbers of `opentelemetry/proto/trace/v1/trace.proto`, with no
//! library of the exporter's, so that both being wrong in the same way shows nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// The largest request that is read.
const REQUEST_BYTES_MAX: usize = 4 << 20;

/// A span as it arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Its name.
    pub name: String,
    /// The trace, 16 bytes.
    pub trace_id: Vec<u8>,
    /// The span, 8 bytes.
    pub span_id: Vec<u8>,
    /// The span before; empty for the first.
    pub parent_id: Vec<u8>,
    /// When it began and ended, ns since 1970 UTC.
    pub times_ns: (u64, u64),
    /// Its numbers.
    pub numbers: BTreeMap<String, u64>,
    /// The texts of its resource.
    pub resource: BTreeMap<String, String>,
}

/// A running collector; dropping it ends it.
#[derive(Debug)]
pub struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Received>>>,
    accepting: JoinHandle<()>,
}

impl Collector {
    /// Starts one on a free port of 127.0.0.1.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("listen as a collector")?;
        let url = format!("http://{}", listener.local_addr().context("find the collector's port")?);
        let spans: Arc<Mutex<Vec<Received>>> = Arc::default();
        let shared = Arc::clone(&spans);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let spans = Arc::clone(&shared);
                tokio::spawn(async move { drop(converse(stream, &spans).await) });
            }
        });
        Ok(Self { url, spans, accepting })
    }

    /// Its address, without a path.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Everything that has arrived.
    pub fn spans(&self) -> Vec<Received> {
        self.spans.lock().expect("no code panics while it holds this lock").clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn converse(mut stream: TcpStream, spans: &Mutex<Vec<Received>>) -> Result<()> {
    while let Some((head, body)) = read_request(&mut stream).await? {
        let is_ours =
            head.starts_with("post /v1/traces ") && head.contains("content-type: application/x-protobuf");
        let status = match read_export(&body) {
            Ok(read) if is_ours => {
                spans.lock().expect("no code panics while it holds this lock").extend(read);
                "200 OK"
            }
            _ => "400 Bad Request",
        };
        let answer =
            format!("HTTP/1.1 {status}\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

/// The head in lower case and the body; none when the client has gone.
pub(crate) async fn read_request(stream: &mut TcpStream) -> Result<Option<(String, Vec<u8>)>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if head.len() > 16 << 10 || stream.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).context("find the length")?;
    let length: usize = length.trim().parse().context("read the length")?;
    if length > REQUEST_BYTES_MAX {
        bail!("a request of {length} bytes");
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some((head, body)))
}

/// One field of a message.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    fn bytes(&self) -> Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number(_) => bail!("a number where a message belongs"),
        }
    }

    fn text(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    fn number(&self) -> Result<u64> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Bytes(_) => bail!("bytes where a number belongs"),
        }
    }
}

/// `ExportTraceServiceRequest.resource_spans` is 1; `ResourceSpans` has `resource` 1 and `scope_spans` 2;
/// `ScopeSpans.spans` is 2.
fn read_export(body: &[u8]) -> Result<Vec<Received>> {
    let mut spans = Vec::new();
    for (_, of_resource) in fields(body)?.iter().filter(|(number, _)| *number == 1) {
        let parts = fields(of_resource.bytes()?)?;
        let mut resource = BTreeMap::new();
        for (_, part) in parts.iter().filter(|(number, _)| *number == 1) {
            for (_, attribute) in fields(part.bytes()?)?.iter().filter(|(number, _)| *number == 1) {
                let (key, text, _) = key_value(attribute.bytes()?)?;
                resource.insert(key, text);
            }
        }
        for (_, of_scope) in parts.iter().filter(|(number, _)| *number == 2) {
            for (_, span) in fields(of_scope.bytes()?)?.iter().filter(|(number, _)| *number == 2) {
                let resource = resource.clone();
                spans.push(Received { resource, ..read_span(span.bytes()?)? });
            }
        }
    }
    Ok(spans)
}

/// `Span`: 1 trace, 2 span, 4 parent, 5 name, 7 start, 8 end, 9 attributes.
fn read_span(bytes: &[u8]) -> Result<Received> {
    let mut span = Received::default();
    for (number, field) in fields(bytes)? {
        match number {
            1 => span.trace_id = field.bytes()?.to_vec(),
            2 => span.span_id = field.bytes()?.to_vec(),
            4 => span.parent_id = field.bytes()?.to_vec(),
            5 => span.name = field.text()?,
            7 => span.times_ns.0 = field.number()?,
            8 => span.times_ns.1 = field.number()?,
            9 => {
                let (key, _, number) = key_value(field.bytes()?)?;
                span.numbers.insert(key, number);
            }
            _ => {}
        }
    }
    Ok(span)
}

/// `KeyValue` is 1 key, 2 value; `AnyValue` is 1 text, 3 whole number.
fn key_value(bytes: &[u8]) -> Result<(String, String, u64)> {
    let mut read = (String::new(), String::new(), 0);
    for (number, field) in fields(bytes)? {
        match number {
            1 => read.0 = field.text()?,
            2 => {
                for (number, value) in fields(field.bytes()?)? {
                    match number {
                        1 => read.1 = value.text()?,
                        3 => read.2 = value.number()?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(read)
}

fn fields(mut rest: &[u8]) -> Result<Vec<(u64, Field<'_>)>> {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut rest)?),
            1 => Field::Number(u64::from_le_bytes(take(&mut rest, 8)?.try_into().context("eight bytes")?)),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).context("a length")?;
                Field::Bytes(take(&mut rest, length)?)
            }
            5 => Field::Number(
                u32::from_le_bytes(take(&mut rest, 4)?.try_into().context("four bytes")?).into(),
            ),
            other => bail!("a field of the unknown kind {other}"),
        };
        fields.push((tag >> 3, field));
    }
    Ok(fields)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length).context("the message ends too early")?;
    *rest = tail;
    Ok(head)
}

fn varint(rest: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("a number without an end")
}
