//! Names of keys where several clusters share a backend.

/// What stands before every key of a cluster. The braces keep all of them in one slot of a Redis cluster.
pub(crate) fn prefix(space: &str) -> String {
    format!("{{caelum:{space}}}:")
}

/// A text as a glob that matches itself: for `SCAN … MATCH`.
pub(super) fn glob(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

/// A text as the name of a file, and only of this text.
pub(crate) fn file_name(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => name.push(char::from(byte)),
            other => name.push_str(&format!("_{other:02x}")),
        }
    }
    name
}

/// Reads what [`file_name`] wrote; nothing for a name that it did not write.
pub(super) fn text_of(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'_' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let (hex, after) = after.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
        rest = after;
    }
    let text = String::from_utf8(bytes).ok()?;
    (file_name(&text) == name).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_is_that_of_one_key_and_reads_back() {
        for text in ["server/n-Ab_1", "a", "", "../../etc", "%2f", "ü"] {
            let name = file_name(text);
            assert!(!name.contains('/') && !name.contains('.'), "{name}");
            assert_eq!(text_of(&name).as_deref(), Some(text));
        }
        for foreign in ["_zz", "_4", "A", "x.tmp", "_61"] {
            assert_eq!(text_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_glob_of_a_text_matches_the_text_alone() {
        assert_eq!(glob("a*b[c]?\\"), "a\\*b\\[c\\]\\?\\\\");
    }
}
