//! Reading a stream of server-sent events, as far as Caelum's own servers write them. Bytes in, events out.

/// Longest event, bytes; a server that sends more is not ours.
const EVENT_MAX: usize = 8 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// What kind of event.
    pub name: String,
    /// What it says.
    pub data: String,
}

/// An event is longer than any of ours.
#[derive(Debug, thiserror::Error)]
#[error("an event is longer than {EVENT_MAX} bytes")]
pub struct TooLong;

/// Events out of bytes that arrive in any pieces.
#[derive(Debug, Default)]
pub struct Reader {
    rest: Vec<u8>,
    event: Event,
}

impl Reader {
    /// Takes bytes, and answers the events that they complete.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        self.rest.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut start = 0;
        while let Some(length) = self.rest[start..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.rest[start..start + length]);
            let line = line.trim_end_matches('\r');
            start += length + 1;
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                if !event.data.is_empty() {
                    events.push(event);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut self.event.name),
                "data" => {
                    if !self.event.data.is_empty() {
                        self.event.data.push('\n');
                    }
                    self.event.data.push_str(value);
                }
                // Comments keep the connection alive and say nothing.
                _ => {}
            }
        }
        self.rest.drain(..start);
        match self.rest.len() + self.event.data.len() > EVENT_MAX {
            true => Err(TooLong),
            false => Ok(events),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_in_whatever_pieces_they_arrive() {
        let stream = ": hello\n\nevent: line\ndata: {\"a\":1}\n\nevent: done\r\ndata: ü\r\ndata: b\r\n\r\n";
        for piece in 1..stream.len() {
            let mut reader = Reader::default();
            let events: Vec<Event> = stream
                .as_bytes()
                .chunks(piece)
                .flat_map(|bytes| reader.read(bytes).expect("is short"))
                .collect();
            let said: Vec<_> =
                events.iter().map(|event| (event.name.as_str(), event.data.as_str())).collect();
            assert_eq!(said, [("line", "{\"a\":1}"), ("done", "ü\nb")], "pieces of {piece}");
        }
    }

    #[test]
    fn a_stream_that_never_ends_an_event_is_given_up() {
        let mut reader = Reader::default();
        let piece = vec![b'x'; EVENT_MAX / 2];
        assert!(reader.read(&piece).is_ok());
        assert!(reader.read(&piece).is_ok());
        assert!(reader.read(b"x").is_err());
    }
}
