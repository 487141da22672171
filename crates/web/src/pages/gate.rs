//! Pages outside the frame: signing in, and notices such as *there is no such page*.

use askama::Template;

use super::frame::Theme;

/// What the sign-in page shows.
#[derive(Clone, Debug, Default, Template)]
#[template(path = "pages/login.html")]
pub struct Login {
    /// The theme of the reader.
    pub theme: Theme,
    /// The cluster's name.
    pub cluster_name: String,
    /// This node's name.
    pub node_name: String,
    /// The version that serves.
    pub version: String,
    /// The start of the certificate's fingerprint, for people to compare.
    pub fingerprint: String,
    /// The name typed before.
    pub name: String,
    /// Where to go afterwards.
    pub next: String,
    /// Why signing in failed.
    pub fault: Option<String>,
    /// How long to wait after too many failures, s.
    pub wait_s: i64,
}

/// A page that says one thing and offers the way on.
#[derive(Clone, Debug, Default, Template)]
#[template(path = "pages/notice.html")]
pub struct Notice {
    /// The theme of the reader.
    pub theme: Theme,
    /// The cluster's name.
    pub cluster_name: String,
    /// The version that serves.
    pub version: String,
    /// What it says.
    pub title: String,
    /// Why, and what to do.
    pub text: String,
    /// For those who look into it.
    pub detail: String,
}

/// A path of this server to go to after signing in; anything else leads to the overview.
///
/// `//host` and `/\host` would lead a browser elsewhere, and a path that answers no page would look broken.
pub fn safe_next(next: &str) -> &str {
    let mut letters = next.chars();
    let is_path = letters.next() == Some('/') && !matches!(letters.next(), Some('/' | '\\'));
    let is_plain = next.len() <= 2048 && !next.chars().any(|c| c.is_control());
    let is_page = !next.starts_with("/api/") && !next.starts_with("/login") && !next.starts_with("/logout");
    if is_path && is_plain && is_page { next } else { "/" }
}

/// The first six bytes of a fingerprint as people compare them: `7c:1e:a4:09:5b:d2`.
pub fn short_fingerprint(fingerprint: &str) -> String {
    let digits: Vec<char> = fingerprint.chars().filter(char::is_ascii_hexdigit).take(12).collect();
    digits.chunks(2).map(|pair| pair.iter().collect::<String>().to_lowercase()).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_never_leads_to_another_site() {
        for (next, expected) in [
            ("/network?probe=a", "/network?probe=a"),
            ("", "/"),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("https://evil.example", "/"),
            ("/a\r\nSet-Cookie: x", "/"),
            ("/api/live", "/"),
            ("/login", "/"),
        ] {
            assert_eq!(safe_next(next), expected, "{next:?}");
        }
    }

    #[test]
    fn a_fingerprint_is_shown_by_its_first_six_bytes() {
        assert_eq!(short_fingerprint("7C1EA4095BD2FFFF"), "7c:1e:a4:09:5b:d2");
        assert_eq!(short_fingerprint("7c:1e:a4:09:5b:d2:ff"), "7c:1e:a4:09:5b:d2");
    }
}
