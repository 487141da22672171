//! Mailboxes that packages may name: whether somebody looks into them, and whose account is put into a file.

use caelum_store::{MailboxAddress, mailbox::rights};
use serde::Serialize;

use super::{BuildError, Builder, Secret, Wish};
use crate::mailbox::View;

/// A mailbox that this server looks into, and what makes an account for machines there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MailboxSight {
    /// What is known of it.
    #[serde(flatten)]
    pub view: View,
    /// What to type there for an account that can do no more than join. CHOOSE-ONE stands for a password.
    pub rights: Vec<String>,
    /// An address of such an account, as a package is given it.
    pub example: String,
    /// What to know before an address is put into a package.
    pub warning: &'static str,
}

const REDIS: &str = "The package holds the address with its password. Without an account of its own (Redis 7 or later) \
                     that is the password for everything in this Redis: such an address is taken only for a sealed \
                     package.";
const POSTGRES: &str = "The package holds the address with its password. The account below can call two functions and \
                        read no table; an account of the servers is taken only for a sealed package.";
const FILE: &str = "The package holds no password. Whoever can write into the directory can leave requests, and read \
                    none of the answers.";

impl Builder {
    /// Mailboxes that this server looks into.
    pub fn mailboxes(&self) -> Vec<MailboxSight> {
        let sight = |view: View| {
            let rights = rights(view.kind, &self.parts.cluster_id);
            let bare = view.place.split_once("://").map_or("", |(_, rest)| rest);
            let place = bare.rsplit_once('@').map_or(bare, |(_, place)| place);
            let (example, warning) = match view.kind {
                "redis" => {
                    let scheme = view.place.split("://").next().unwrap_or("redis");
                    (format!("{scheme}://caelum-join:CHOOSE-ONE@{place}"), REDIS)
                }
                "postgres" => (format!("postgres://caelum_join:CHOOSE-ONE@{place}"), POSTGRES),
                _ => {
                    let folder =
                        view.place.rsplit_once('/').map_or(view.place.as_str(), |(folder, _)| folder);
                    (folder.to_owned(), FILE)
                }
            };
            MailboxSight { view, rights, example, warning }
        };
        self.parts.mailboxes.iter().map(|seen| sight(seen.borrow().clone())).collect()
    }

    /// Whether the mailbox of a wish can be used, and may be put into a file.
    pub(super) fn check_mailbox(&self, wish: &Wish) -> Result<(), BuildError> {
        let Some(Secret(text)) = &wish.mailbox else { return Ok(()) };
        let invalid = |text: String| Err(BuildError::Invalid(text));
        let address: MailboxAddress = match text.parse() {
            Ok(address) => address,
            Err(error) => return invalid(format!("the mailbox {error}")),
        };
        let kind = address.kind();
        if !self.parts.mailboxes.iter().any(|seen| seen.borrow().kind == kind) {
            return invalid(format!(
                "no server looks into a mailbox of the kind {kind}: servers look where they coordinate \
                 (cluster.address) and into shared records; `caelum package mailboxes` shows where"
            ));
        }
        let is_own = match address.user() {
            Some(user) => self.parts.own_accounts.contains(&format!("{kind} {user}")),
            None => kind == "redis",
        };
        if is_own && wish.passphrase.is_none() {
            return invalid(format!(
                "the mailbox {address} names an account that may do everything there, and whoever has the package has \
                 it: make one for machines ({}), or seal the package with a passphrase",
                rights(kind, &self.parts.cluster_id).join(" ")
            ));
        }
        Ok(())
    }
}
