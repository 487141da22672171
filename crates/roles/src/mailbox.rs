//! A server looks into a mailbox: takes requests of machines that reach no server, and leaves answers.
//!
//! # Purpose
//! One loop for each mailbox. It hangs out a sign, by which machines know that somebody looks, takes a few requests at
//! each look, and has the registrar judge those that were sealed by somebody with an invitation.
//!
//! # Rules
//! - Of all servers one takes a request; one that dies with it is no harm, since the machine leaves it again.
//! - A request that was looked at once gets no second answer, wherever it comes from: that is written down where the
//!   servers' records are, before anything else.
//! - At each look no more than [`TAKEN_MAX`] requests cost anything, and one that nobody with an invitation made costs
//!   no more than a hash.
//! - A mailbox that is away is said once, and tried again ever more seldom.
//!
//! # What it does not do
//! It decides nothing: what is looked at is said by `engine::mailbox`, who is admitted by [`Registrar`].

use std::{sync::Arc, time::Duration};

use caelum_drivers::{clock::Clock, random};
use caelum_engine::mailbox::{Doorkeeper, Request, SEEN_LIVES_MS, SLOTS, TAKEN_MAX};
use caelum_model::{UnixMs, access::AuditEntry, join::JoinAnswer};
use caelum_store::{CoordinationError, Mailbox, Store};
use serde::Serialize;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{Bus, Change},
    enrol::{
        JoinError, Registrar,
        mailbox::{Opened, Outcome},
    },
};

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Longest time between two looks into one that is away.
const AWAY_MAX: Duration = Duration::from_secs(30);
/// Time between two looks at the sign.
const SIGN: Duration = Duration::from_secs(20);
/// Revoked nodes that an answer names.
const REVOKED_MAX: usize = 500;
/// Letters of a sign.
const SIGN_LENGTH: usize = 16;

/// What a server knows of a mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct View {
    /// `postgres`, `redis` or `file`.
    pub kind: &'static str,
    /// Where it is, without a password.
    pub place: String,
    /// Why it could not be looked into at the last try; none where it could.
    pub error: Option<String>,
    /// When it was last looked into.
    pub looked_at_ms: Option<UnixMs>,
    /// Requests that this server answered.
    pub answered: u64,
    /// What lay there and got no answer: no requests, old ones, or sealed by somebody without an invitation.
    pub ignored: u64,
}

/// What the loop stands on.
pub struct Parts {
    /// The mailbox.
    pub mailbox: Mailbox,
    /// Says who is admitted.
    pub registrar: Arc<Registrar>,
    /// Records: what was looked at, and the audit log.
    pub store: Arc<Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// News.
    pub bus: Bus,
}

/// See the file.
pub struct Loop {
    parts: Parts,
    door: Doorkeeper,
    view: watch::Sender<View>,
}

impl Loop {
    /// A loop that has not begun, and what it will know.
    pub fn new(parts: Parts) -> (Self, watch::Receiver<View>) {
        let view = View {
            kind: parts.mailbox.kind(),
            place: parts.mailbox.place(),
            error: None,
            looked_at_ms: None,
            answered: 0,
            ignored: 0,
        };
        let (view, seen) = watch::channel(view);
        (Self { parts, door: Doorkeeper::default(), view }, seen)
    }

    /// Looks until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut sign_at = Instant::now();
        let mut pause = LOOK;
        loop {
            let looked = self.look(&mut sign_at).await;
            match &looked {
                Ok(()) => pause = LOOK,
                Err(error) => {
                    if self.view.borrow().error.is_none() {
                        tracing::warn!(
                            code = "mailbox.away", %error,
                            "machines that reach no server cannot join through this mailbox now"
                        );
                    }
                    pause = (pause * 2).min(AWAY_MAX);
                    sign_at = Instant::now();
                }
            }
            let now_ms = self.parts.clock.now_ms();
            self.view.send_modify(|view| {
                if view.error.is_some() && looked.is_ok() {
                    tracing::info!(
                        code = "mailbox.back",
                        place = view.place,
                        "the mailbox is looked into again"
                    );
                }
                view.looked_at_ms = if looked.is_ok() { Some(now_ms) } else { view.looked_at_ms };
                view.error = looked.err().map(|error| error.to_string());
            });
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn look(&mut self, sign_at: &mut Instant) -> Result<(), CoordinationError> {
        if Instant::now() >= *sign_at {
            let hangs = self.parts.mailbox.hang_out(&random::secret(SIGN_LENGTH)).await?;
            self.door.saw(&hangs, self.parts.clock.now_ms());
            *sign_at = Instant::now() + SIGN;
        }
        // From another place each time: whoever fills the first ones does not hide the others.
        let first = u8::try_from(random::number() % u64::from(SLOTS)).unwrap_or(0);
        for text in self.parts.mailbox.take(first, TAKEN_MAX).await? {
            let is_answered = self.judge(&text).await?;
            self.view.send_modify(|view| match is_answered {
                true => view.answered += 1,
                false => view.ignored += 1,
            });
        }
        Ok(())
    }

    /// Answers one request, if it is one that gets an answer. Answers whether it was.
    async fn judge(&self, text: &str) -> Result<bool, CoordinationError> {
        let now_ms = self.parts.clock.now_ms();
        let ignored = |why: &dyn std::fmt::Display| {
            tracing::debug!(code = "mailbox.ignored", %why, "something in the mailbox got no answer");
            Ok(false)
        };
        let request: Request = match self.door.read(text, now_ms) {
            Ok(request) => request,
            Err(why) => return ignored(&why),
        };
        let opened = match self.parts.registrar.open_mail(&request, text) {
            Ok(opened) => opened,
            Err(why) => return ignored(&why),
        };
        // Before it is judged: an answer that was given is never given again.
        let key = format!("mail/{}", opened.request_id());
        let first =
            self.parts.store.compare_and_put_key(key, None, String::new(), now_ms, SEEN_LIVES_MS).await;
        match first {
            Ok(Some(_)) => {}
            Ok(None) => return ignored(&"it was looked at before"),
            // The machine leaves it again when the records are back.
            Err(why) => return ignored(&why),
        }
        let joined = self.parts.registrar.join_by_mailbox(&opened).await;
        self.record(&opened, &joined, now_ms).await;
        let outcome = match joined {
            Ok(mut answer) => {
                self.parts.bus.publish(Change::PackagesChanged);
                // An answer has little room, and the first link tells all of them.
                answer.revoked.truncate(REVOKED_MAX);
                Outcome::Joined(Box::new(answer))
            }
            Err(error) => Outcome::Refused { code: error.code().to_owned(), message: said(&error) },
        };
        match self.parts.registrar.seal_mail(&opened, &outcome) {
            Ok(answer) => {
                self.parts.mailbox.reply(opened.request_id(), &answer).await?;
                Ok(true)
            }
            Err(why) => ignored(&why),
        }
    }

    /// Every attempt is in the audit log, as for machines that reach a server.
    async fn record(&self, opened: &Opened, joined: &Result<JoinAnswer, JoinError>, at_ms: UnixMs) {
        let outcome = match joined {
            Ok(_) => "done".to_owned(),
            Err(error) if error.is_refusal() => format!("refused: {}", error.code()),
            Err(JoinError::Store(_) | JoinError::Tls(_)) => "failed".to_owned(),
            Err(_) => return,
        };
        let entry = AuditEntry {
            at_ms,
            actor: format!("join token {} through the mailbox", opened.token_id()),
            action: "node.join".to_owned(),
            subject: opened.request.node_id.to_string(),
            outcome,
        };
        if let Err(error) = self.parts.store.audit(entry).await {
            tracing::error!(code = "audit.write_failed", %error, "the audit log has a gap");
        }
    }
}

/// What a machine is told. What went wrong inside stays in the log.
fn said(error: &JoinError) -> String {
    match error {
        JoinError::Store(_) | JoinError::Tls(_) => {
            tracing::error!(code = "mailbox.failed", %error, "a request in the mailbox could not be judged");
            "the server could not judge the request; it is in its log".to_owned()
        }
        other => other.to_string(),
    }
}
