//! What a command writes, within a bound: the beginning and the end are kept, and a line says what was left
//! out between them. The beginning says what went wrong first, the end how it ended.

use std::collections::VecDeque;

/// One stream of a command, gathered.
#[derive(Debug, Default)]
pub struct Gather {
    head_max: usize,
    tail_max: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    cut: u64,
}

impl Gather {
    /// At most so many bytes.
    pub fn new(max_bytes: usize) -> Self {
        let tail_max = max_bytes / 2;
        Self { head_max: max_bytes - tail_max, tail_max, ..Self::default() }
    }

    /// Takes what was written.
    pub fn push(&mut self, bytes: &[u8]) {
        let room = self.head_max - self.head.len();
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        if rest.is_empty() {
            return;
        }
        // Of more than the tail holds only the last bytes could stay.
        let kept = &rest[rest.len().saturating_sub(self.tail_max)..];
        let excess = (self.tail.len() + kept.len()).saturating_sub(self.tail_max);
        self.tail.drain(..excess);
        self.cut += (excess + rest.len() - kept.len()) as u64;
        self.tail.extend(kept);
    }

    /// Bytes that are left out.
    pub fn cut_bytes(&self) -> u64 {
        self.cut
    }

    /// The text, with a line where something is left out. Bytes that are no UTF-8 become U+FFFD.
    pub fn into_text(self) -> String {
        let Self { mut head, tail, cut, .. } = self;
        if cut == 0 {
            head.extend(tail);
            return match String::from_utf8(head) {
                Ok(text) => text,
                Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
            };
        }
        let tail: Vec<u8> = tail.into();
        let (head, tail) = (String::from_utf8_lossy(&head), String::from_utf8_lossy(&tail));
        let newline = if head.is_empty() || head.ends_with('\n') { "" } else { "\n" };
        format!("{head}{newline}[… {cut} bytes are left out here …]\n{tail}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_short_output_is_kept_as_it_is_and_a_long_one_says_where_it_was_cut() {
        let mut gather = Gather::new(10);
        gather.push(b"0123456789");
        assert_eq!((gather.cut_bytes(), gather.into_text().as_str()), (0, "0123456789"));
        let mut gather = Gather::new(10);
        for byte in b"0123456789abcdef" {
            gather.push(&[*byte]);
        }
        assert_eq!(gather.cut_bytes(), 6);
        assert_eq!(gather.into_text(), "01234\n[… 6 bytes are left out here …]\nbcdef");
    }

    proptest! {
        #[test]
        fn what_is_kept_and_what_is_cut_make_up_everything(
            pieces in proptest::collection::vec(proptest::collection::vec(b'a'..=b'z', 0..40), 0..20),
            max in 0usize..64,
        ) {
            let whole: Vec<u8> = pieces.concat();
            let mut gather = Gather::new(max);
            for piece in &pieces {
                gather.push(piece);
            }
            let cut = gather.cut_bytes();
            prop_assert_eq!(cut, whole.len().saturating_sub(max) as u64);
            let text = gather.into_text();
            let head = whole.len().min(max - max / 2);
            prop_assert!(text.as_bytes().starts_with(&whole[..head]));
            let tail = (whole.len() - head).min(max / 2);
            prop_assert!(text.as_bytes().ends_with(&whole[whole.len() - tail..]));
        }
    }
}
