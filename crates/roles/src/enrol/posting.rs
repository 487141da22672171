//! The machine's side of joining through a mailbox: waits until servers look there, leaves a request, and waits for
//! its answer.

use std::time::Duration;

use caelum_drivers::{random, tls};
use caelum_engine::mailbox::SLOTS;
use caelum_model::join::{Invitation, JoinAnswer, JoinRequest};
use caelum_store::{Mailbox, MailboxAddress};
use tokio::time::Instant;

use super::{
    JoinFailure,
    joining::judged,
    mailbox::{Asking, Outcome},
};

/// How long a machine waits for an answer, unless it is told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(45);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(400);
/// A request that was not answered for this long is left again: whoever took it may have died.
const AGAIN: Duration = Duration::from_secs(10);

/// Asks to be admitted through the mailbox that an invitation names.
pub async fn join_by_mailbox(
    invitation: &Invitation,
    request: &JoinRequest,
    patience: Duration,
) -> Result<JoinAnswer, JoinFailure> {
    let Some(place) = &invitation.mailbox else {
        return Err(JoinFailure::Unreachable("the invitation names no mailbox".to_owned()));
    };
    let address: MailboxAddress = place
        .address
        .parse()
        .map_err(|error| JoinFailure::Mailbox(format!("the mailbox in the invitation {error}")))?;
    let away = |error: caelum_store::CoordinationError| match error.is_transient {
        true => JoinFailure::Unreachable(error.to_string()),
        false => JoinFailure::Mailbox(error.to_string()),
    };
    let mailbox = Mailbox::open(&address, &invitation.cluster_id).await.map_err(away)?;
    let key_sha256 = tls::csr_key_sha256(&request.csr_pem)?;
    let until = Instant::now() + patience;
    let mut waiting = Waiting { mailbox: &mailbox, until, patience, last_error: None };
    loop {
        let sign = waiting.for_sign().await?;
        let (side, text) = Asking::begin(invitation, &place.key, &sign, request)
            .map_err(|error| JoinFailure::Mailbox(format!("seal a request: {error}")))?;
        waiting.post(&text).await?;
        let Some(answer) = waiting.for_answer(side.request_id(), &sign).await? else { continue };
        let outcome = side.open(&answer).map_err(|error| {
            JoinFailure::NotTrusted(format!("the answer in the mailbox at {address} is not used: {error}"))
        })?;
        let from = format!("a server, through the mailbox at {address},");
        return match outcome {
            Outcome::Refused { code, message } => Err(JoinFailure::Refused { server: from, code, message }),
            Outcome::Joined(joined) => judged(*joined, &invitation.authority_sha256, request, &key_sha256)
                .map_err(|detail| JoinFailure::Answer { server: from, detail }),
        };
    }
}

/// Looks into a mailbox until there is something, or the patience is over.
struct Waiting<'a> {
    mailbox: &'a Mailbox,
    until: Instant,
    patience: Duration,
    last_error: Option<String>,
}

impl Waiting<'_> {
    async fn for_sign(&mut self) -> Result<String, JoinFailure> {
        loop {
            let looked = self.mailbox.sign().await;
            if let Some(sign) = self.found(looked)?.flatten() {
                return Ok(sign);
            }
            self.pause("no server has looked into it lately: is one running, and does it use that place?")
                .await?;
        }
    }

    /// Leaves a request in a place that is free.
    async fn post(&mut self, text: &str) -> Result<(), JoinFailure> {
        loop {
            // Machines that begin at once try different places.
            let first = u8::try_from(random::number() % u64::from(SLOTS)).unwrap_or(0);
            for nth in 0..SLOTS {
                let left = self.mailbox.post((first + nth) % SLOTS, text).await;
                match self.found(left)? {
                    Some(true) => return Ok(()),
                    Some(false) => {}
                    None => break,
                }
            }
            self.pause("all its places are taken, and no server empties them").await?;
        }
    }

    /// The answer; none where the request should be left again.
    async fn for_answer(&mut self, request_id: &str, sign: &str) -> Result<Option<String>, JoinFailure> {
        let again = Instant::now() + AGAIN;
        loop {
            let looked = self.mailbox.answer(request_id).await;
            if let Some(Some(answer)) = self.found(looked)? {
                return Ok(Some(answer));
            }
            if Instant::now() >= again {
                return Ok(None);
            }
            let hangs = self.mailbox.sign().await;
            if self.found(hangs)?.flatten().is_some_and(|hangs| hangs != sign) {
                return Ok(None);
            }
            self.pause(
                "servers look into it and did not answer; the token may be of another cluster, or its package was \
                 built before the cluster's authority",
            )
            .await?;
        }
    }

    /// What was found; none where the mailbox is away for now.
    fn found<T>(
        &mut self,
        looked: Result<T, caelum_store::CoordinationError>,
    ) -> Result<Option<T>, JoinFailure> {
        match looked {
            Ok(found) => {
                self.last_error = None;
                Ok(Some(found))
            }
            Err(error) if error.is_transient => {
                self.last_error = Some(error.to_string());
                Ok(None)
            }
            Err(error) => Err(JoinFailure::Mailbox(error.to_string())),
        }
    }

    async fn pause(&self, why: &str) -> Result<(), JoinFailure> {
        if Instant::now() >= self.until {
            let why = self.last_error.clone().unwrap_or_else(|| why.to_owned());
            return Err(JoinFailure::Unreachable(format!(
                "nobody answered in the mailbox at {} in {} s: {why}",
                self.mailbox.place(),
                self.patience.as_secs()
            )));
        }
        tokio::time::sleep(LOOK).await;
        Ok(())
    }
}
