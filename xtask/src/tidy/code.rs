//! Rust source as text with comments and literals blanked, so that a search finds code only.
//!
//! Lengths and line breaks stay as they are. This is a scanner for the few forms that matter (comments,
//! nested too; strings, raw ones too; character literals as against lifetimes), not a parser.

/// A source file in two views of the same length.
pub struct Code {
    /// Comments and literals replaced by spaces.
    pub bare: String,
    /// Only what stood inside string literals; the rest replaced by spaces.
    pub strings: String,
}

/// Splits a source into its code and its strings.
pub fn scan(source: &str) -> Code {
    let bytes = source.as_bytes();
    let mut bare = bytes.to_vec();
    let mut strings: Vec<u8> = bytes.iter().map(|&b| if b == b'\n' { b'\n' } else { b' ' }).collect();
    let mut at = 0;
    while at < bytes.len() {
        let (end, is_string) = match literal_or_comment(bytes, at) {
            Some(found) => found,
            None => {
                at += 1;
                continue;
            }
        };
        for i in at..end {
            if bytes[i] != b'\n' {
                bare[i] = b' ';
                if is_string {
                    strings[i] = bytes[i];
                }
            }
        }
        at = end;
    }
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Code { bare: text(&bare), strings: text(&strings) }
}

/// Where the comment or literal that starts here ends, and whether it is a string.
fn literal_or_comment(bytes: &[u8], at: usize) -> Option<(usize, bool)> {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return Some((at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()), false));
    }
    if rest.starts_with(b"/*") {
        return Some((at + block_comment(rest), false));
    }
    let starts_word = at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if starts_word && let Some(length) = raw_string(rest) {
        return Some((at + length, true));
    }
    match rest[0] {
        b'"' => Some((at + quoted(rest, b'"'), true)),
        b'\'' => character(rest).map(|length| (at + length, false)),
        _ => None,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut i) = (0usize, 0);
    while i < rest.len() {
        if rest[i..].starts_with(b"/*") {
            depth += 1;
            i += 2;
        } else if rest[i..].starts_with(b"*/") {
            depth -= 1;
            i += 2;
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    rest.len()
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut i = 1;
    while i < rest.len() {
        match rest[i] {
            b'\\' => i += 2,
            b if b == quote => return i + 1,
            _ => i += 1,
        }
    }
    rest.len()
}

fn raw_string(rest: &[u8]) -> Option<usize> {
    let prefix = [&b"br"[..], b"cr", b"r"].into_iter().find(|prefix| rest.starts_with(prefix))?.len();
    let hashes = rest[prefix..].iter().take_while(|&&b| b == b'#').count();
    if rest.get(prefix + hashes) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let body = prefix + hashes + 1;
    let end = rest[body..].windows(close.len()).position(|window| window == close);
    Some(end.map_or(rest.len(), |end| body + end + close.len()))
}

/// The length of a character literal, or none for a lifetime.
fn character(rest: &[u8]) -> Option<usize> {
    match rest.get(1)? {
        b'\\' => Some(quoted(rest, b'\'')),
        _ => {
            let width = std::str::from_utf8(&rest[1..rest.len().min(5)])
                .or_else(|error| std::str::from_utf8(&rest[1..1 + error.valid_up_to()]))
                .ok()?
                .chars()
                .next()?
                .len_utf8();
            (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_code_stays_in_place() {
        let source = "a /* b /* c */ d */ e // f\n\"g\\\"h\" r#\"i\"j\"# 'k' 'l: '\\'' 'ü' m";
        let code = scan(source);
        assert_eq!(code.bare.split_whitespace().collect::<Vec<_>>(), ["a", "e", "'l:", "m"]);
        assert_eq!(code.bare.lines().count(), 2);
        assert_eq!(code.strings.split_whitespace().collect::<Vec<_>>(), ["\"g\\\"h\"", "r#\"i\"j\"#"]);
        assert_eq!(code.bare.len(), source.len());
    }

    #[test]
    fn a_name_that_ends_in_r_starts_no_raw_string() {
        assert_eq!(scan("var\"x\" y").bare.split_whitespace().collect::<Vec<_>>(), ["var", "y"]);
    }
}
