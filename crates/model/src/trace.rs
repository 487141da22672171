//! Words of a trace: where a measurement is on its way from a probe to a row, and what was done with it there.
//!
//! A [`TraceContext`] travels, in the member `traceparent` of an event and in records of the queue; a [`Span`]
//! is what one part did, on its way to a collector. Whether something is traced at all is decided in
//! `engine::trace`, and where spans go is the matter of `drivers`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The only version of `traceparent` there is.
const VERSION: &str = "00";
/// Bytes of a `traceparent` of that version.
const TEXT_BYTES: usize = 55;

/// Why a text is no trace context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read a traceparent: it is not VERSION-TRACE-PARENT-FLAGS in lower-case hexadecimal digits")]
pub struct NoTraceContext;

/// A place in a trace: W3C Trace Context, level 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TraceContext {
    /// The whole journey; never all zeros.
    pub trace_id: [u8; 16],
    /// The step that was taken last; never all zeros.
    pub span_id: [u8; 8],
    /// Whether somebody keeps the trace.
    pub is_sampled: bool,
}

impl TraceContext {
    /// The next step of the same journey.
    pub fn child(&self, span_id: [u8; 8]) -> Self {
        Self { span_id, ..*self }
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{VERSION}-")?;
        write_hex(out, &self.trace_id)?;
        out.write_str("-")?;
        write_hex(out, &self.span_id)?;
        write!(out, "-{:02x}", u8::from(self.is_sampled))
    }
}

impl FromStr for TraceContext {
    type Err = NoTraceContext;

    /// Reads `traceparent` as W3C asks: a version newer than ours is read as ours where it begins alike, and
    /// only version `ff` is forbidden.
    fn from_str(text: &str) -> Result<Self, NoTraceContext> {
        let bytes = text.as_bytes();
        let (ours, rest) = bytes.split_at_checked(TEXT_BYTES).ok_or(NoTraceContext)?;
        let [version] = hex(&ours[..2]).ok_or(NoTraceContext)?;
        let may_go_on = version != 0 && version != 0xff && rest.first().is_none_or(|byte| *byte == b'-');
        let is_whole = version == 0 && rest.is_empty();
        let has_dashes = [2, 35, 52].into_iter().all(|at| ours[at] == b'-');
        if !(has_dashes && (may_go_on || is_whole)) {
            return Err(NoTraceContext);
        }
        let trace_id = hex(&ours[3..35]).ok_or(NoTraceContext)?;
        let span_id = hex(&ours[36..52]).ok_or(NoTraceContext)?;
        let [flags] = hex(&ours[53..55]).ok_or(NoTraceContext)?;
        if trace_id == [0; 16] || span_id == [0; 8] {
            return Err(NoTraceContext);
        }
        Ok(Self { trace_id, span_id, is_sampled: flags & 1 == 1 })
    }
}

fn write_hex(out: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

/// Exactly `N` bytes in lower-case digits.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (at, pair) in text.chunks_exact(2).enumerate() {
        bytes[at] = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// What one part did for one trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// What was done: `measure`, `ingest`, `fold`, `commit`.
    pub name: &'static str,
    /// The trace and this step of it.
    pub context: TraceContext,
    /// The step before; none where the trace begins.
    pub parent: Option<[u8; 8]>,
    /// When it began, ns since 1970 UTC.
    pub start_ns: u64,
    /// How long it took, ns.
    pub took_ns: u64,
    /// What is worth knowing about it.
    pub attributes: Vec<(&'static str, Attribute)>,
    /// What went wrong, if anything did.
    pub error: Option<String>,
}

/// The value of one attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

impl From<u64> for Attribute {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<String> for Attribute {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parse(text: &str) -> Result<TraceContext, NoTraceContext> {
        text.parse()
    }

    #[test]
    fn the_example_of_the_standard_reads_and_is_written_back() {
        let context = parse(TEXT).expect("is one");
        assert!(context.is_sampled);
        assert_eq!(context.trace_id[..2], [0x4b, 0xf9]);
        assert_eq!(context.span_id[7], 0xb7);
        assert_eq!(context.to_string(), TEXT);
        assert!(!parse(&TEXT.replace("-01", "-00")).expect("is one").is_sampled);
        let flags_of_tomorrow = parse(&TEXT.replace("-01", "-ff")).expect("is one");
        assert!(flags_of_tomorrow.is_sampled, "flags that are not known are ignored");
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "00",
            &TEXT[..54],
            &format!("{TEXT}-more"),
            &TEXT.to_uppercase(),
            &TEXT.replace('-', "_"),
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
        ] {
            assert_eq!(parse(text), Err(NoTraceContext), "{text}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = TEXT.replacen("00", "01", 1);
        assert_eq!(parse(&later), parse(TEXT));
        assert_eq!(parse(&format!("{later}-what-comes")), parse(TEXT));
        assert_eq!(parse(&format!("{later}x")), Err(NoTraceContext));
    }
}
