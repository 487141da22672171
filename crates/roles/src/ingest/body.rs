//! From the bytes of a request to events, one by one: a bad member does not spoil its neighbours.
//!
//! Lines are only found here and parsed when it is their turn, so that no more than one event of a request is in
//! memory in that form. An event of the usual form is read by [`usual`], any other by `serde_json`.

mod usual;

use caelum_model::wire::EventJson;
use serde_json::value::RawValue;
use usual::Usual;

/// An event as parsed, or what the parser said about it.
pub type Parsed<'a> = Result<EventJson<'a>, String>;
/// The same, to be looked at.
pub type Seen<'e, 'a> = Result<&'e EventJson<'a>, &'e str>;

/// How a body holds its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One object.
    Single,
    /// A JSON array.
    Array,
    /// An object a line.
    Lines,
}

/// Why a body holds no events at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Nothing was sent.
    #[error("the body is empty; send an event, an array of events, or one event a line")]
    Empty,
    /// Not JSON.
    #[error("the body is not valid JSON: {0}")]
    Syntax(String),
}

/// The events of a body, in order.
#[derive(Debug)]
pub enum Events<'a> {
    /// Parsed already, since whether the body holds any at all depends on it.
    Parsed(Vec<Parsed<'a>>),
    /// Lines that hold something.
    Lines(Vec<&'a str>),
    /// Lines of a body that is not UTF-8 throughout: only the lines that are not are spoilt.
    OddLines(Vec<&'a [u8]>),
}

impl<'a> Events<'a> {
    /// How many there are, good and bad.
    pub fn len(&self) -> usize {
        match self {
            Self::Parsed(events) => events.len(),
            Self::Lines(lines) => lines.len(),
            Self::OddLines(lines) => lines.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shows each with its number.
    pub fn each(&self, mut see: impl FnMut(usize, Seen<'_, 'a>)) {
        match self {
            Self::Parsed(events) => {
                events.iter().enumerate().for_each(|(nth, event)| see(nth, seen(event)));
            }
            Self::Lines(lines) => {
                let mut usual = Usual::default();
                for (nth, line) in lines.iter().enumerate() {
                    let mut event = EventJson::default();
                    if usual.read(line, &mut event) {
                        see(nth, Ok(&event));
                    } else {
                        see(nth, seen(&serde_json::from_str(line).map_err(|error| error.to_string())));
                    }
                }
            }
            Self::OddLines(lines) => {
                for (nth, line) in lines.iter().enumerate() {
                    see(nth, seen(&serde_json::from_slice(line).map_err(|error| error.to_string())));
                }
            }
        }
    }
}

fn seen<'e, 'a>(parsed: &'e Parsed<'a>) -> Seen<'e, 'a> {
    parsed.as_ref().map_err(String::as_str)
}

/// Splits a body and parses what must be. `is_ndjson` is what the content type said; without it, the first byte
/// decides between object and array.
pub fn parse(body: &[u8], is_ndjson: bool) -> Result<(Shape, Events<'_>), BodyError> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace()).ok_or(BodyError::Empty)?;
    // Checked once for the whole body: the parser then need not check each string.
    let text = std::str::from_utf8(body);
    if is_ndjson {
        let events = match text {
            Ok(text) => {
                Events::Lines(text.split('\n').filter(|line| !line.trim_ascii().is_empty()).collect())
            }
            Err(_) => {
                let lines = body.split(|byte| *byte == b'\n');
                Events::OddLines(lines.filter(|line| !line.trim_ascii().is_empty()).collect())
            }
        };
        return Ok((Shape::Lines, events));
    }
    let text = text.map_err(|error| BodyError::Syntax(error.to_string()))?;
    if *first == b'[' {
        return parse_array(text).map(|events| (Shape::Array, Events::Parsed(events)));
    }
    match serde_json::from_str::<EventJson<'_>>(text) {
        Ok(event) => Ok((Shape::Single, Events::Parsed(vec![Ok(event)]))),
        Err(error) if error.is_data() => Ok((Shape::Single, Events::Parsed(vec![Err(error.to_string())]))),
        Err(error) => Err(BodyError::Syntax(error.to_string())),
    }
}

fn parse_array(text: &str) -> Result<Vec<Parsed<'_>>, BodyError> {
    if let Some(events) = Usual::default().array(text) {
        return Ok(events.into_iter().map(Ok).collect());
    }
    // Nearly always there is no bad member, and it is parsed in one go.
    if let Ok(events) = serde_json::from_str::<Vec<EventJson<'_>>>(text) {
        return if events.is_empty() {
            Err(BodyError::Empty)
        } else {
            Ok(events.into_iter().map(Ok).collect())
        };
    }
    let members: Vec<&RawValue> =
        serde_json::from_str(text).map_err(|error| BodyError::Syntax(error.to_string()))?;
    Ok(members
        .into_iter()
        .map(|member| serde_json::from_str(member.get()).map_err(|error| error.to_string()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(body: &str, is_ndjson: bool) -> (Shape, Vec<bool>) {
        let (shape, events) = parse(body.as_bytes(), is_ndjson).expect("holds events");
        (shape, good(&events))
    }

    fn good(events: &Events<'_>) -> Vec<bool> {
        let mut good = Vec::new();
        events.each(|nth, event| {
            assert_eq!(nth, good.len());
            good.push(event.is_ok());
        });
        assert_eq!(good.len(), events.len());
        good
    }

    #[test]
    fn each_shape_is_told_apart() {
        assert_eq!(shape(r#" {"client_id":"a"}"#, false), (Shape::Single, vec![true]));
        assert_eq!(shape(r#"[{"client_id":"a"},{}]"#, false), (Shape::Array, vec![true, true]));
        assert_eq!(shape("{}\n\n{}\r\n", true), (Shape::Lines, vec![true, true]));
    }

    #[test]
    fn a_bad_member_does_not_spoil_its_neighbours() {
        assert_eq!(
            shape(r#"[{"ts_ms":1},{"ts_ms":"x"},7,{}]"#, false),
            (Shape::Array, vec![true, false, false, true])
        );
        assert_eq!(shape("{}\n{oops\n{}", true), (Shape::Lines, vec![true, false, true]));
        assert_eq!(shape(r#"{"ts_ms":[]}"#, false), (Shape::Single, vec![false]));
    }

    #[test]
    fn a_line_that_is_no_text_does_not_spoil_its_neighbours() {
        let (_, events) = parse(b"{}\n{\"target\":\"\xff\"}\n{}", true).expect("holds events");
        assert_eq!(good(&events), [true, false, true]);
    }

    #[test]
    fn what_is_no_json_or_nothing_is_refused_whole() {
        assert!(matches!(parse(b"  \n", false), Err(BodyError::Empty)));
        assert!(matches!(parse(b"[]", false), Err(BodyError::Empty)));
        assert!(matches!(parse(b"{\"a\":", false), Err(BodyError::Syntax(_))));
        assert!(matches!(parse(b"[{}", false), Err(BodyError::Syntax(_))));
        assert!(matches!(parse(b"\xff\xfe", false), Err(BodyError::Syntax(_))));
    }
}
