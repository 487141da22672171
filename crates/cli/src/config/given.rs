//! A value as it was written, and what a setting makes of it.
//!
//! In a file a value has a type, and a number in quotes is a mistake that is said. In the environment and
//! in flags everything is words, and each setting reads them in its own way; lists are separated by commas.

use std::net::SocketAddr;

use caelum_drivers::probe;
use caelum_model::config::Config;

use super::{Origin, keys::Field, target};

/// Longest secret: addresses are among them, which name several hosts and files of certificates.
const SECRET_BYTES_MAX: usize = 1_024;

/// One setting that was written somewhere.
#[derive(Debug)]
pub struct Item {
    /// Position in the table of keys.
    pub key: usize,
    /// Where it was written.
    pub origin: Origin,
    /// What was written.
    pub given: Given,
}

/// A value as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    /// Untyped, from the environment or a flag.
    Words(String),
    /// A string.
    Text(String),
    /// A number without a point.
    Whole(i64),
    /// A number with one.
    Decimal(f64),
    /// `true` or `false`.
    Switch(bool),
    /// A list, each value with its line.
    List(Vec<(usize, Given)>),
    /// A table: key, line, value.
    Table(Vec<(String, usize, Given)>),
    /// Something no setting takes, by its name.
    Other(&'static str),
}

impl Given {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Words(_) | Self::Text(_) => "text",
            Self::Whole(_) => "a whole number",
            Self::Decimal(_) => "a number",
            Self::Switch(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(name) => name,
        }
    }
}

/// Why a value cannot be taken.
#[derive(Debug, PartialEq)]
pub struct Problem {
    /// The line inside the value, where it has more than one.
    pub line: Option<usize>,
    /// The part of the value, such as `[0].url`.
    pub below: String,
    /// What is wrong and what is allowed.
    pub what: String,
}

impl Problem {
    /// One about the whole value.
    pub(super) fn whole(what: String) -> Vec<Self> {
        vec![Self { line: None, below: String::new(), what }]
    }
}

impl Field {
    /// What is allowed, as a phrase.
    pub fn allowed(&self) -> String {
        match self {
            Self::Text { .. } => "text of 1 to 128 bytes".to_owned(),
            Self::MaybeText { form, .. } => form.allowed().to_owned(),
            Self::Secret { .. } => "text of 8 to 1024 bytes".to_owned(),
            Self::Switch { .. } => "true or false".to_owned(),
            Self::Whole { range: (low, high), unit, .. } => {
                format!("a whole number from {low} to {high} {unit}").trim_end().to_owned()
            }
            Self::Decimal { range: (low, high), unit, .. } => {
                format!("a number from {low} to {high} {unit}").trim_end().to_owned()
            }
            Self::Choice { options, .. } => options.iter().map(|o| format!("{o:?}")).collect::<Vec<_>>().join(" or "),
            Self::Addresses { .. } => {
                "a list of 1 to 16 ADDRESS:PORT, such as 127.0.0.1:8080 or [::1]:8080; a PORT alone means every \
                 address"
                    .to_owned()
            }
            Self::Words { form, .. } => format!("a list of up to 64, each {}", form.allowed()),
            Self::Targets { .. } => {
                "a list of up to 500 tables with url and, if wanted, name, interval_s, throughput_url, families, \
                 template, timeout_ms, tags, group, probes, objective, packets, trace_every_s, load_every_s"
                    .to_owned()
            }
        }
    }

    /// Understands a value and stores it, or says everything that is wrong with it.
    pub fn assign(&self, config: &mut Config, given: Given) -> Result<(), Vec<Problem>> {
        let refuse = |found: String| Problem::whole(format!("{found}; allowed: {}", self.allowed()));
        match self {
            Self::Text { write, .. } => {
                let text = text_of(given).map_err(&refuse)?;
                check_text(&text, 1, 128).map_err(&refuse)?;
                write(config, text);
            }
            Self::MaybeText { write, form, .. } => {
                let text = text_of(given).map_err(&refuse)?;
                form.check(&text).map_err(&refuse)?;
                write(config, Some(text));
            }
            Self::Secret { write, .. } => {
                let text = text_of(given).map_err(&refuse)?;
                check_text(&text, 8, SECRET_BYTES_MAX).map_err(&refuse)?;
                write(config, Some(text));
            }
            Self::Switch { write, .. } => write(config, switch_of(given).map_err(&refuse)?),
            Self::Whole { write, range, .. } => {
                write(config, whole_of(given, *range).map_err(&refuse)?);
            }
            Self::Decimal { write, range, .. } => {
                write(config, decimal_of(given, *range).map_err(&refuse)?);
            }
            Self::Choice { write, options, .. } => {
                let text = text_of(given).map_err(&refuse)?;
                let chosen = options.iter().position(|option| *option == text);
                write(config, chosen.ok_or_else(|| refuse(format!("is {text:?}")))?);
            }
            Self::Addresses { write, .. } => write(config, addresses_of(given, self)?),
            Self::Words { write, form, .. } => write(config, words_of(given, *form, self)?),
            Self::Targets { write, .. } => write(config, target::targets_of(given, self)?),
        }
        Ok(())
    }
}

/// What a text that may be absent must look like.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// A name.
    Name,
    /// A path of a file.
    File,
    /// An `http://` or `https://` address.
    HttpUrl,
    /// Where a machine is reached.
    Place,
    /// A network in prefix notation.
    Network,
    /// Name, type and port of a service.
    Service,
}

impl Form {
    fn allowed(self) -> &'static str {
        match self {
            Self::Name => "text of 1 to 64 bytes",
            Self::File => "the absolute path of a file",
            Self::HttpUrl => "an address that begins with http:// or https://",
            Self::Place => "HOST, HOST:PORT or https://HOST:PORT",
            Self::Network => "a network such as 10.0.0.0/8 or fd00::/8",
            Self::Service => "NAME:TYPE:PORT, such as wiki:http:8000",
        }
    }

    fn check(self, text: &str) -> Result<(), String> {
        match self {
            Self::Name => check_text(text, 1, 64),
            Self::File if !text.starts_with('/') => Err(format!("is {text:?}")),
            Self::File => check_text(text, 2, 4096),
            Self::HttpUrl => {
                probe::parse_web_url(text).map(drop).map_err(|error| format!("is {text:?} ({error})"))
            }
            Self::Place if is_place(text) => Ok(()),
            Self::Network if is_network(text) => Ok(()),
            Self::Service if is_service(text) => Ok(()),
            Self::Place | Self::Network | Self::Service => Err(format!("is {text:?}")),
        }
    }
}

fn is_place(text: &str) -> bool {
    let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    let is_host = |host: &str| {
        !host.is_empty()
            && host.len() <= 253
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    if bare.parse::<std::net::IpAddr>().is_ok() || bare.parse::<SocketAddr>().is_ok() {
        return true;
    }
    match bare.rsplit_once(':') {
        Some((host, port)) => is_host(host) && port.parse::<u16>().is_ok_and(|port| port != 0),
        None => is_host(bare),
    }
}

fn is_network(text: &str) -> bool {
    let (ip, bits) = text.split_once('/').unwrap_or((text, ""));
    let Ok(ip) = ip.parse::<std::net::IpAddr>() else { return false };
    let most = if ip.is_ipv4() { 32 } else { 128 };
    bits.is_empty() && !text.contains('/') || bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

fn is_service(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let [name, kind, port] = parts.as_slice() else { return false };
    check_text(name, 1, 64).is_ok()
        && check_text(kind, 1, 32).is_ok()
        && port.parse::<u16>().is_ok_and(|port| port != 0)
}

pub(super) fn text_of(given: Given) -> Result<String, String> {
    match given {
        Given::Words(text) | Given::Text(text) => Ok(text),
        other => Err(format!("is {}", other.kind())),
    }
}

pub(super) fn check_text(text: &str, least: usize, most: usize) -> Result<(), String> {
    if text.len() < least || text.len() > most {
        return Err(format!("has {} bytes", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("contains a control character".to_owned());
    }
    Ok(())
}

fn switch_of(given: Given) -> Result<bool, String> {
    match given {
        Given::Switch(on) => Ok(on),
        Given::Words(text) => match text.as_str() {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            other => Err(format!("is {other:?}")),
        },
        other => Err(format!("is {}", other.kind())),
    }
}

pub(super) fn whole_of(given: Given, (low, high): (u64, u64)) -> Result<u64, String> {
    let number = match given {
        Given::Whole(number) => u64::try_from(number).map_err(|_| format!("is {number}"))?,
        Given::Words(text) => text.trim().parse().map_err(|_| format!("is {text:?}"))?,
        other => return Err(format!("is {}", other.kind())),
    };
    if (low..=high).contains(&number) { Ok(number) } else { Err(format!("is {number}")) }
}

fn decimal_of(given: Given, (low, high): (f64, f64)) -> Result<f64, String> {
    let number = match given {
        Given::Decimal(number) => number,
        Given::Whole(number) => number as f64,
        Given::Words(text) => text.trim().parse().map_err(|_| format!("is {text:?}"))?,
        other => return Err(format!("is {}", other.kind())),
    };
    if (low..=high).contains(&number) { Ok(number) } else { Err(format!("is {number}")) }
}

/// The members of a list, each with its line; words are split at commas.
pub(super) fn list_of(given: Given) -> Result<Vec<(Option<usize>, Given)>, String> {
    match given {
        Given::List(list) => Ok(list.into_iter().map(|(line, given)| (Some(line), given)).collect()),
        Given::Words(text) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Ok(parts.map(|part| (None, Given::Words(part.to_owned()))).collect())
        }
        other => Err(format!("is {}", other.kind())),
    }
}

fn addresses_of(given: Given, field: &Field) -> Result<Vec<SocketAddr>, Vec<Problem>> {
    let refuse = |found: String| format!("{found}; allowed: {}", field.allowed());
    let list = list_of(given).map_err(|found| Problem::whole(refuse(found)))?;
    if list.is_empty() || list.len() > 16 {
        return Err(Problem::whole(refuse(format!("has {} members", list.len()))));
    }
    let (mut addresses, mut problems) = (Vec::<SocketAddr>::new(), Vec::new());
    for (index, (line, given)) in list.into_iter().enumerate() {
        if let Given::Words(text) | Given::Text(text) = &given
            && let Ok(port) = text.parse::<u16>()
        {
            addresses.extend([SocketAddr::from(([0; 4], port)), SocketAddr::from(([0u16; 8], port))]);
            continue;
        }
        let read = text_of(given).and_then(|text| text.parse().map_err(|_| format!("is {text:?}")));
        match read {
            Ok(address) if addresses.contains(&address) && address.port() != 0 => problems.push(Problem {
                line,
                below: format!("[{index}]"),
                what: format!("is {address} for the second time"),
            }),
            Ok(address) => addresses.push(address),
            Err(found) => problems.push(Problem { line, below: format!("[{index}]"), what: refuse(found) }),
        }
    }
    if problems.is_empty() { Ok(addresses) } else { Err(problems) }
}

fn words_of(given: Given, form: Form, field: &Field) -> Result<Vec<String>, Vec<Problem>> {
    let refuse = |found: String| format!("{found}; allowed: {}", field.allowed());
    let list = list_of(given).map_err(|found| Problem::whole(refuse(found)))?;
    if list.len() > 64 {
        return Err(Problem::whole(refuse(format!("has {} members", list.len()))));
    }
    let (mut words, mut problems) = (Vec::new(), Vec::new());
    for (index, (line, given)) in list.into_iter().enumerate() {
        match text_of(given).and_then(|text| form.check(&text).map(|()| text)) {
            Ok(word) => words.push(word),
            Err(found) => problems.push(Problem { line, below: format!("[{index}]"), what: refuse(found) }),
        }
    }
    if problems.is_empty() { Ok(words) } else { Err(problems) }
}
