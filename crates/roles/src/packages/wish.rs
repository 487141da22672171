//! What somebody wants of a package, and whether that makes sense.

use std::fmt::Write as _;

use caelum_model::{
    cluster::{Ceiling, NodeRole},
    package::{PackageKind, Platform},
};
use caelum_packager::names;

use super::BuildError;
use crate::enrol::{invitation, sealed};

/// The shortest and the longest that an invitation in a package is valid, ms.
pub const VALID_MS_MIN: i64 = 60_000;
/// See [`VALID_MS_MIN`].
pub const VALID_MS_MAX: i64 = 30 * 24 * 3_600_000;
/// Longest name of a node, bytes.
const NODE_NAME_BYTES_MAX: usize = 63;

/// A time of validity as people write it: `15m`, `24h` or `7d`.
pub fn validity_ms(text: &str) -> Result<i64, BuildError> {
    let unit_ms = match text.chars().last() {
        Some('m') => 60_000,
        Some('h') => 3_600_000,
        Some('d') => 86_400_000,
        _ => 0,
    };
    let digits = text.get(..text.len().saturating_sub(1)).unwrap_or_default();
    let number = digits.parse::<i64>().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
    number
        .and_then(|number| number.checked_mul(unit_ms))
        .filter(|ms| *ms > 0)
        .ok_or_else(|| BuildError::Invalid("say for how long as 15m, 24h or 7d".to_owned()))
}

/// A package that somebody wants.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Name of the file, without its ending.
    pub package_name: String,
    /// Name of the node; its host's where none is given.
    pub node_name: Option<String>,
    /// The form.
    pub kind: PackageKind,
    /// What node it makes.
    pub role: NodeRole,
    /// The machines it is for.
    pub platform: Platform,
    /// The most that the node lets anybody do to it.
    pub ceiling: Ceiling,
    /// How long its invitation is valid, ms.
    pub valid_ms: i64,
    /// What its invitation is sealed to, if it is.
    pub passphrase: Option<Passphrase>,
    /// Where the machine leaves a sealed request if it reaches no server: an address with the account for machines.
    pub mailbox: Option<Secret>,
}

/// An address with a password in it, which is not shown.
#[derive(Clone)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A passphrase, which is not shown.
#[derive(Clone)]
pub struct Passphrase(pub String);

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Wish {
    /// A wish from a file's name and what may be given beside it: the kind follows the name's ending, and the
    /// platform the kind, where they are not said.
    pub fn of_name(
        name: &str,
        kind: Option<PackageKind>,
        platform: Option<Platform>,
    ) -> Result<Self, BuildError> {
        let invalid = |text: String| BuildError::Invalid(text);
        let (stem, kind) = match (PackageKind::of_name(name), kind) {
            (Some((stem, found)), None) => (stem, found),
            (Some((stem, found)), Some(kind)) if found == kind => (stem, kind),
            (_, Some(kind)) => (name, kind),
            (None, None) => {
                let endings = PackageKind::ALL.map(PackageKind::ending).join(", ");
                return Err(invalid(format!("say the kind, or let package_name end in one of {endings}")));
            }
        };
        let suits = |platform: &Platform| kind.suits(*platform);
        let platform = platform
            .or_else(|| Platform::own().filter(suits))
            .or_else(|| Platform::ALL.into_iter().rev().find(suits));
        let wish = Self {
            package_name: stem.to_owned(),
            node_name: None,
            kind,
            role: NodeRole::Agent,
            platform: platform.expect("every kind suits some platform"),
            ceiling: Ceiling::default(),
            valid_ms: invitation::VALID_MS,
            passphrase: None,
            mailbox: None,
        };
        wish.check()?;
        Ok(wish)
    }

    /// Whether it makes sense.
    pub fn check(&self) -> Result<(), BuildError> {
        let invalid = |text: String| Err(BuildError::Invalid(text));
        if let Err(error) = names::check(&self.file_name()) {
            return invalid(error.to_string());
        }
        if let Some(name) = &self.node_name
            && (name.is_empty()
                || name.len() > NODE_NAME_BYTES_MAX
                || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
                || !name.as_bytes()[0].is_ascii_alphanumeric())
        {
            return invalid(format!(
                "a node's name has 1 to {NODE_NAME_BYTES_MAX} letters, digits, dots, dashes and underscores, and starts \
                 with a letter or digit"
            ));
        }
        if !self.kind.suits(self.platform) {
            return invalid(format!(
                "a {} package is not for {}",
                self.kind.as_str(),
                self.platform.as_str()
            ));
        }
        if let Some(Passphrase(passphrase)) = &self.passphrase
            && passphrase.chars().count() < sealed::PASSPHRASE_CHARS_MIN
        {
            return invalid(sealed::SealedError::Short.to_string());
        }
        if !(VALID_MS_MIN..=VALID_MS_MAX).contains(&self.valid_ms) {
            return invalid("a package's invitation is valid for between 1 minute and 30 days".to_owned());
        }
        Ok(())
    }

    /// Name of the file.
    pub fn file_name(&self) -> String {
        format!("{}{}", self.package_name, self.kind.ending())
    }

    /// The configuration file of the node. Nothing in it is secret.
    pub(super) fn config(&self, shared_store: Option<&str>) -> String {
        let mut text = String::from(
            "# Settings of this node; `caelum config reference` lists all of them.\n\
             # They hold from the next start on: systemctl restart caelum\n\n[agent]\n",
        );
        if let Some(name) = &self.node_name {
            let _ = writeln!(text, "name = \"{name}\"");
        }
        let _ = writeln!(
            text,
            "# The most that anybody may do to this machine, whatever servers say: observe, tasks, shell.\n\
             ceiling = \"{}\"",
            self.ceiling.as_str()
        );
        // Whoever joins through a mailbox is told there, sealed, with the password.
        if let (NodeRole::Server, Some(store), None) = (self.role, shared_store, &self.mailbox) {
            let shown: String = store.chars().filter(|c| !c.is_control() && !"\"\\".contains(*c)).collect();
            let _ = writeln!(
                text,
                "\n[server]\n# The records that the servers share. The password is not in this file: put\n\
                 # CAELUM_SERVER_STORE=… with it into /etc/caelum/environment, readable by root only.\n\
                 store = \"{shown}\""
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_and_the_platform_follow_the_name() {
        let wish = Wish::of_name("caelum-home.deb", None, None).unwrap();
        assert_eq!((wish.package_name.as_str(), wish.kind), ("caelum-home", PackageKind::Deb));
        assert!(!wish.platform.is_macos());
        assert_eq!(wish.file_name(), "caelum-home.deb");
        let mac = Wish::of_name("FleetServerClusterNode.pkg", None, None).unwrap();
        assert!(mac.platform.is_macos());
        let named = Wish::of_name("a.deb", Some(PackageKind::Rpm), None).unwrap();
        assert_eq!(named.file_name(), "a.deb.rpm");
        assert!(Wish::of_name("caelum", None, None).is_err());
    }

    #[test]
    fn a_validity_is_a_number_and_its_unit() {
        assert_eq!(validity_ms("24h").unwrap(), VALID_MS_MAX / 30);
        for wrong in ["", "h", "-1h", "+1h", "1.5h", "0d", "24", "24 h", "99999999999999999999d", "1ä"] {
            assert!(validity_ms(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        for name in ["../a.deb", "/etc/a.deb", "a\r\nX: y.deb", "a\".deb", ".deb", "a/b.deb", ""] {
            let refused = Wish::of_name(name, None, None);
            assert!(matches!(refused, Err(BuildError::Invalid(_))), "{name:?}");
        }
        let fine = Wish::of_name("a.deb", None, None).unwrap();
        for name in ["", "a b", "a\"\nstore = 1", "-a", &"a".repeat(64)] {
            let wish = Wish { node_name: Some(name.to_owned()), ..fine.clone() };
            assert!(wish.check().is_err(), "{name:?}");
        }
        assert!(Wish { valid_ms: VALID_MS_MAX + 1, ..fine.clone() }.check().is_err());
        assert!(Wish { platform: Platform::MacosArm, ..fine }.check().is_err());
    }

    #[test]
    fn the_configuration_says_name_and_ceiling() {
        let wish = Wish {
            node_name: Some("edge-1".to_owned()),
            ceiling: Ceiling::Tasks,
            ..Wish::of_name("a.deb", None, None).unwrap()
        };
        let text = wish.config(Some("postgres://db/caelum"));
        assert!(text.contains("name = \"edge-1\"") && text.contains("ceiling = \"tasks\""), "{text}");
        assert!(!text.contains("postgres"), "an agent has no store");
        let server = Wish { role: NodeRole::Server, ..wish };
        assert!(server.config(Some("postgres://db/caelum")).contains("store = \"postgres://db/caelum\""));
    }
}
