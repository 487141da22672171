//! The registrar's word to machines whose requests lay in a mailbox.

use caelum_engine::{enrol::Refusal, mailbox::Request};
use caelum_model::join::{Admission, JoinAnswer};

use super::{
    JoinError, Registrar,
    mailbox::{self, MailError, Opened, Outcome},
};

impl Registrar {
    /// Opens a request that lay in a mailbox.
    pub fn open_mail(&self, request: &Request, text: &str) -> Result<Opened, MailError> {
        mailbox::open_request(&self.authority, &self.cluster_id, request, text)
    }

    /// Seals the answer to it.
    pub fn seal_mail(&self, opened: &Opened, outcome: &Outcome) -> Result<String, MailError> {
        opened.answer(&self.authority, &self.cluster_id, outcome)
    }

    /// Admits a machine whose request lay in a mailbox, or says why not. It has no address: whoever guesses is held
    /// back by the token that he names, and `cluster.access` says nothing about it.
    pub async fn join_by_mailbox(&self, opened: &Opened) -> Result<JoinAnswer, JoinError> {
        let Admission::Token { token_id, .. } = &opened.request.admission else {
            return Err(JoinError::Invalid("only a join token admits through a mailbox".into()));
        };
        if *token_id != opened.token_id() {
            return Err(Refusal::Unknown.into());
        }
        let (key, now_ms) = (format!("mailbox {token_id}"), self.clock.now_ms());
        let retry_after_ms = self.lockout().wait_ms(&key, now_ms);
        if retry_after_ms > 0 {
            return Err(JoinError::RateLimited { retry_after_ms });
        }
        let joined = self.admit(&opened.request, now_ms).await;
        match &joined {
            Ok(_) => self.lockout().succeed(&key),
            Err(error) if error.is_refusal() => self.lockout().fail(&key, now_ms),
            Err(_) => {}
        }
        joined
    }
}
