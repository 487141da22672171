//! What became of packages: what their join tokens say, and who joined by them.

use caelum_engine::enrol::token_state;
use caelum_model::{
    UnixMs,
    join::{Enrolment, JoinToken},
    package::Package,
};
use caelum_store::{Store, StoreError};
use serde::Serialize;

use super::LISTED_MAX;

/// What became of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageState {
    /// Nobody has joined by it yet, and somebody may.
    Waiting,
    /// A machine has joined by it.
    Used,
    /// Its time is over.
    Expired,
    /// Somebody revoked it.
    Revoked,
}

impl PackageState {
    /// The wire spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// A package, and what became of it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The package.
    pub package: Package,
    /// What became of it.
    pub state: PackageState,
    /// The node that joined by it.
    pub used_by: Option<Enrolment>,
    /// When it was revoked.
    pub revoked_at_ms: Option<UnixMs>,
}

/// What a package's token says of it. One that was used and then revoked was used.
pub(super) fn state(token: Option<&JoinToken>, now_ms: UnixMs) -> PackageState {
    match token {
        Some(token) if token.uses_left < token.uses => PackageState::Used,
        Some(token) => match token_state(token, now_ms) {
            "revoked" => PackageState::Revoked,
            "expired" => PackageState::Expired,
            _ => PackageState::Waiting,
        },
        // Forgotten: nobody joins by it.
        None => PackageState::Expired,
    }
}

/// The newest packages.
pub(super) async fn read(store: &Store, now_ms: UnixMs) -> Result<Vec<Listed>, StoreError> {
    let packages = store.packages(LISTED_MAX).await?;
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    let enrolments = store.enrolments().await?;
    let mut listed = Vec::with_capacity(packages.len());
    for package in packages {
        let token = store.join_token(package.token_id.clone()).await?;
        let by = format!("token:{}", package.token_id);
        listed.push(Listed {
            state: state(token.as_ref(), now_ms),
            used_by: enrolments.iter().find(|enrolment| enrolment.admitted_by == by).cloned(),
            revoked_at_ms: token.and_then(|token| token.revoked_at_ms),
            package,
        });
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use caelum_model::cluster::NodeRole;

    use super::*;

    #[test]
    fn a_package_is_what_its_token_is() {
        let token = |uses_left, expires_at_ms, revoked_at_ms| JoinToken {
            token_id: "t".into(),
            secret_sha256: [0; 32],
            role: NodeRole::Agent,
            uses_left,
            uses: 1,
            created_at_ms: 0,
            expires_at_ms,
            revoked_at_ms,
        };
        assert_eq!(state(Some(&token(1, 10, None)), 5), PackageState::Waiting);
        assert_eq!(state(Some(&token(0, 10, None)), 5), PackageState::Used);
        assert_eq!(state(Some(&token(0, 10, Some(6))), 20), PackageState::Used);
        assert_eq!(state(Some(&token(1, 10, None)), 10), PackageState::Expired);
        assert_eq!(state(Some(&token(1, 10, Some(3))), 5), PackageState::Revoked);
        assert_eq!(state(None, 5), PackageState::Expired);
    }
}
