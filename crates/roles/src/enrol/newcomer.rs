//! A machine that shows a code and waits for somebody to adopt it.
//!
//! It answers `POST /adopt` (`web::cluster_adopt`). A right offer goes to whoever runs the machine, who then
//! joins as with a token; what it says about the cluster is believed because its sender knows the code.

use std::sync::{Arc, Mutex};

use caelum_drivers::clock::Clock;
use caelum_engine::enrol::{AdoptionCode, CodeRefusal};
use caelum_model::join::{Admission, AdoptionOffer};
use tokio::sync::{mpsc, watch};

use super::{
    are_servers, is_sha256,
    proof::{self, CodeKey},
};

/// Longest id or name of a cluster, bytes.
const NAME_BYTES_MAX: usize = 255;

/// An offer that proved itself: everything [`super::join`] needs.
#[derive(Clone, Debug)]
pub struct Adoption {
    /// The cluster's id.
    pub cluster_id: String,
    /// Its name.
    pub cluster_name: String,
    /// Where servers are reached, best first.
    pub servers: Vec<String>,
    /// SHA-256 of the authority's certificate.
    pub authority_sha256: String,
    /// What to show the server.
    pub admission: Admission,
}

/// Why an offer is not taken up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferRefusal {
    /// It does not say what an offer says.
    #[error("the offer is not one: {0}")]
    Malformed(&'static str),
    /// Its sender does not know the code.
    #[error("the code is wrong")]
    WrongCode,
    /// The code may not be guessed at now.
    #[error(transparent)]
    Code(#[from] CodeRefusal),
    /// Another offer is being taken up.
    #[error("the machine is joining already")]
    Busy,
}

impl OfferRefusal {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "invalid_request",
            Self::WrongCode => "adopt_code_wrong",
            Self::Code(CodeRefusal::TooSoon { .. }) => "rate_limited",
            Self::Code(CodeRefusal::Over) => "adopt_code_over",
            Self::Busy => "adopt_busy",
        }
    }
}

/// A machine that waits to be adopted.
pub struct Newcomer {
    key_sha256: String,
    clock: Arc<dyn Clock>,
    code: Mutex<AdoptionCode>,
    shown: watch::Sender<String>,
    adoptions: mpsc::Sender<Adoption>,
}

impl Newcomer {
    /// A machine with this key. Offers that prove themselves come out of the receiver, one at a time.
    pub fn new(key_sha256: String, clock: Arc<dyn Clock>) -> (Arc<Self>, mpsc::Receiver<Adoption>) {
        let (adoptions, receiver) = mpsc::channel(1);
        let code = AdoptionCode::new(proof::new_code(), clock.now_ms());
        let shown = watch::Sender::new(proof::shown_code(code.as_str()));
        (Arc::new(Self { key_sha256, clock, code: Mutex::new(code), shown, adoptions }), receiver)
    }

    /// The code to show now, as `XXXX-XXXX`. Asking makes another where the last one is over.
    pub fn code(&self) -> String {
        let mut code = self.code.lock().expect("no code panics while it holds this lock");
        self.replace_if_over(&mut code);
        proof::shown_code(code.as_str())
    }

    /// Follows the code that is shown. It also changes by time: ask [`Self::code`] now and then.
    pub fn codes(&self) -> watch::Receiver<String> {
        self.shown.subscribe()
    }

    fn replace_if_over(&self, code: &mut AdoptionCode) {
        let now_ms = self.clock.now_ms();
        if code.is_over(now_ms) {
            code.replace(proof::new_code(), now_ms);
            self.shown.send_replace(proof::shown_code(code.as_str()));
        }
    }

    /// Looks at an offer, and takes it up if its sender knows the code.
    pub async fn consider(&self, offer: AdoptionOffer) -> Result<(), OfferRefusal> {
        if !are_servers(&offer.servers) || !is_sha256(&offer.authority_sha256) {
            return Err(OfferRefusal::Malformed("it names no server that can be trusted"));
        }
        let is_name =
            |text: &str| (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
        if !is_name(&offer.cluster_id) || !is_name(&offer.cluster_name) {
            return Err(OfferRefusal::Malformed("it names no cluster"));
        }
        let place = self.adoptions.try_reserve().map_err(|_| OfferRefusal::Busy)?;
        let code = {
            let mut code = self.code.lock().expect("no code panics while it holds this lock");
            self.replace_if_over(&mut code);
            code.attempt(self.clock.now_ms())?;
            code.as_str().to_owned()
        };
        let (machine, authority) = (self.key_sha256.clone(), offer.authority_sha256.clone());
        let stretched =
            tokio::task::spawn_blocking(move || CodeKey::stretch(&code, &machine, &authority)).await;
        // The work is arithmetic; it ends early only when the process does.
        let Ok(key) = stretched else { return Err(OfferRefusal::Busy) };
        let is_right = key.is_server(&offer.proof);
        {
            let mut code = self.code.lock().expect("no code panics while it holds this lock");
            if is_right {
                code.was_right();
            }
            self.replace_if_over(&mut code);
        }
        if !is_right {
            return Err(OfferRefusal::WrongCode);
        }
        place.send(Adoption {
            cluster_id: offer.cluster_id,
            cluster_name: offer.cluster_name,
            servers: offer.servers,
            authority_sha256: offer.authority_sha256,
            admission: Admission::Adoption { proof: key.machine_proof(&self.key_sha256) },
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use caelum_drivers::clock::ManualClock;

    use super::*;

    fn offer(key: &CodeKey) -> AdoptionOffer {
        AdoptionOffer {
            cluster_id: "c-1".into(),
            cluster_name: "home".into(),
            servers: vec!["192.0.2.1:8080".into()],
            authority_sha256: "ab".repeat(32),
            proof: key.server_proof(),
        }
    }

    fn typed(code: &str) -> CodeKey {
        CodeKey::stretch(&caelum_engine::enrol::plain_code(code), "aa", &"ab".repeat(32))
    }

    #[tokio::test]
    async fn after_five_wrong_codes_the_machine_shows_another_and_the_first_is_worth_nothing() {
        let clock = Arc::new(ManualClock::new(1_000_000));
        let (newcomer, mut adoptions) = Newcomer::new("aa".into(), Arc::clone(&clock) as _);
        let codes = newcomer.codes();
        let first = newcomer.code();
        let (right, wrong) = (typed(&first), typed("2222-2222"));
        for _ in 0..5 {
            assert_eq!(newcomer.consider(offer(&wrong)).await, Err(OfferRefusal::WrongCode));
            let soon = newcomer.consider(offer(&right)).await;
            assert!(matches!(soon, Err(OfferRefusal::Code(CodeRefusal::TooSoon { .. }))), "{soon:?}");
            clock.advance(Duration::from_secs(1));
        }
        let second = newcomer.code();
        assert!(second != first && codes.borrow().as_str() == second);
        assert_eq!(newcomer.consider(offer(&right)).await, Err(OfferRefusal::WrongCode));
        assert!(adoptions.try_recv().is_err());
        clock.advance(Duration::from_secs(1));
        assert_eq!(newcomer.consider(offer(&typed(&second))).await, Ok(()));
        let adoption = adoptions.try_recv().expect("is handed over");
        let Admission::Adoption { proof } = adoption.admission else { panic!("is no adoption") };
        assert!(typed(&second).is_machine("aa", &proof));
    }

    #[tokio::test]
    async fn one_offer_at_a_time_and_none_that_is_malformed_costs_an_attempt() {
        let clock = Arc::new(ManualClock::new(0));
        let (newcomer, adoptions) = Newcomer::new("aa".into(), Arc::clone(&clock) as _);
        let right = typed(&newcomer.code());
        for servers in [Vec::new(), vec!["a b:1".to_owned()]] {
            let refused = newcomer.consider(AdoptionOffer { servers, ..offer(&right) }).await;
            assert!(matches!(refused, Err(OfferRefusal::Malformed(_))), "{refused:?}");
        }
        assert_eq!(newcomer.consider(offer(&right)).await, Ok(()));
        clock.advance(Duration::from_secs(1));
        assert_eq!(newcomer.consider(offer(&right)).await, Err(OfferRefusal::Busy));
        drop(adoptions);
    }

    #[test]
    fn a_code_changes_by_itself_after_half_an_hour() {
        let clock = Arc::new(ManualClock::new(0));
        let (newcomer, _adoptions) = Newcomer::new("aa".into(), Arc::clone(&clock) as _);
        let first = newcomer.code();
        clock.advance(Duration::from_secs(29 * 60));
        assert_eq!(newcomer.code(), first);
        clock.advance(Duration::from_secs(60));
        assert_ne!(newcomer.code(), first);
    }
}
