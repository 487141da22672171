//! Joining through a mailbox, sealed: the machine's side, and what servers open and answer.
//!
//! # What is sealed, and under what
//! - An invitation with a mailbox carries a key of its token alone, which servers derive again from the authority's
//!   key. The *request* is sealed under it: whoever has no invitation cannot make one that is looked at any further,
//!   and a server computes one code to know that.
//! - The *answer* is sealed under a key that comes from both sides' fresh X25519 halves and from the token's key, over
//!   the whole conversation. Whoever finds the invitation later, with a copy of everything that lay in the mailbox,
//!   opens no answer.
//! - Inside, the authority signs the answer over the same conversation. The machine knows the authority by the
//!   fingerprint in its invitation.
//!
//! # What it does not do
//! It admits nobody; that is [`super::Registrar`]'s, as for machines that reach a server.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use caelum_drivers::{random, tls};
use caelum_engine::mailbox::{Answer, Request, transcript};
use caelum_model::join::{Invitation, JoinAnswer, JoinRequest};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral},
    hkdf, hmac,
    rand::SystemRandom,
};
use serde::{Deserialize, Serialize};

use super::proof;

/// What the secret of all mailboxes of a cluster is derived under.
const LABEL: &[u8] = b"caelum mailbox 1";
/// What conversations begin with.
const REQUEST: &[u8] = b"caelum mailbox request 1";
const ANSWER: &[u8] = b"caelum mailbox answer 1";
const SIGNED: &[u8] = b"caelum mailbox signature 1";
/// Letters of a request's id: 139 bits.
const ID_LENGTH: usize = 24;

/// Why something in a mailbox could not be sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MailError {
    /// It is sealed under another key, or was changed.
    #[error("it was changed, or sealed by somebody else")]
    Foreign,
    /// It is not by the authority of the invitation.
    #[error("it is not signed by the cluster's authority")]
    Authority,
    /// It opens and does not say what it should.
    #[error("it does not say what it should")]
    Malformed,
    /// No key could be made.
    #[error("no key could be made: the system gives no random numbers")]
    NoKey,
}

/// What a machine asks, beside what lies open.
#[derive(Serialize, Deserialize)]
struct Asked {
    /// The machine's half of the answer's key, base64url.
    public_key: String,
    request: JoinRequest,
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Admitted.
    Joined(Box<JoinAnswer>),
    /// Not admitted.
    Refused {
        /// The stable code.
        code: String,
        /// Why.
        message: String,
    },
}

/// What is sealed in an answer.
#[derive(Serialize, Deserialize)]
struct Vouched {
    authority_pem: String,
    /// Of the conversation and the outcome, base64url.
    signature: String,
    /// An [`Outcome`] as JSON: as text, since that is what is signed.
    outcome: String,
}

/// What requests by a token are sealed under, lower-case hex: as an invitation carries it.
pub fn token_key(authority: &tls::Authority, token_id: &str) -> String {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, &authority.derive(LABEL));
    hmac::sign(&secret, token_id.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A machine's side of one conversation.
pub struct Asking {
    cluster_id: String,
    authority_sha256: String,
    token_id: String,
    token_key: String,
    own: EphemeralPrivateKey,
    request_id: String,
    request_sha256: [u8; 32],
}

impl Asking {
    /// Seals a request. Answers the side that opens the answer, and the text to leave.
    pub fn begin(
        invitation: &Invitation,
        token_key: &str,
        sign: &str,
        request: &JoinRequest,
    ) -> Result<(Self, String), MailError> {
        let chance = SystemRandom::new();
        let own = EphemeralPrivateKey::generate(&X25519, &chance).map_err(|_| MailError::NoKey)?;
        let public_key = own.compute_public_key().map_err(|_| MailError::NoKey)?;
        let asked =
            Asked { public_key: URL_SAFE_NO_PAD.encode(public_key.as_ref()), request: request.clone() };
        let request_id = random::secret(ID_LENGTH);
        let about = about_request(&invitation.cluster_id, &invitation.token_id, &request_id, sign);
        let plain = serde_json::to_vec(&asked).expect("text and numbers have a JSON form");
        let sealed = seal(&key_of(token_key)?, &about, plain);
        let text =
            Request::new(request_id.clone(), invitation.token_id.clone(), sign.to_owned(), sealed).to_text();
        let side = Self {
            cluster_id: invitation.cluster_id.clone(),
            authority_sha256: invitation.authority_sha256.clone(),
            token_id: invitation.token_id.clone(),
            token_key: token_key.to_owned(),
            own,
            request_id,
            request_sha256: proof::sha256(text.as_bytes()),
        };
        Ok((side, text))
    }

    /// Under what the answer will lie.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Opens the answer, if it is one to this request and by the authority of the invitation.
    pub fn open(self, text: &str) -> Result<Outcome, MailError> {
        let answer = Answer::read(text).map_err(|_| MailError::Malformed)?;
        let theirs = URL_SAFE_NO_PAD.decode(&answer.public_key).map_err(|_| MailError::Malformed)?;
        let about =
            about_answer(&self.cluster_id, &self.token_id, &self.request_id, &self.request_sha256, &theirs);
        let key = agreed(self.own, &theirs, &self.token_key, &about)?;
        let plain = open(&key, &about, &answer.sealed)?;
        let vouched: Vouched = serde_json::from_slice(&plain).map_err(|_| MailError::Malformed)?;
        let signature = URL_SAFE_NO_PAD.decode(&vouched.signature).map_err(|_| MailError::Malformed)?;
        let fingerprint =
            tls::fingerprint_of_pem(&vouched.authority_pem).map_err(|_| MailError::Authority)?;
        let signed = transcript(&[SIGNED, &about, vouched.outcome.as_bytes()]);
        let is_vouched_for = fingerprint == self.authority_sha256
            && tls::is_vouched_for(&vouched.authority_pem, &signed, &signature).unwrap_or(false);
        if !is_vouched_for {
            return Err(MailError::Authority);
        }
        serde_json::from_str(&vouched.outcome).map_err(|_| MailError::Malformed)
    }
}

/// A server's side of one conversation: a request that was opened.
#[derive(Debug)]
pub struct Opened {
    /// What the machine asks.
    pub request: JoinRequest,
    token_id: String,
    token_key: String,
    request_id: String,
    request_sha256: [u8; 32],
    theirs: Vec<u8>,
}

/// Opens a request. Whoever sealed it has an invitation of this cluster with a mailbox.
pub fn open_request(
    authority: &tls::Authority,
    cluster_id: &str,
    request: &Request,
    text: &str,
) -> Result<Opened, MailError> {
    let token_key = token_key(authority, &request.token_id);
    let about = about_request(cluster_id, &request.token_id, &request.request_id, &request.sign);
    let plain = open(&key_of(&token_key)?, &about, &request.sealed)?;
    let asked: Asked = serde_json::from_slice(&plain).map_err(|_| MailError::Malformed)?;
    let theirs = URL_SAFE_NO_PAD.decode(&asked.public_key).map_err(|_| MailError::Malformed)?;
    Ok(Opened {
        request: asked.request,
        token_id: request.token_id.clone(),
        token_key,
        request_id: request.request_id.clone(),
        request_sha256: proof::sha256(text.as_bytes()),
        theirs,
    })
}

impl Opened {
    /// The token under whose key it was sealed.
    pub fn token_id(&self) -> &str {
        &self.token_id
    }

    /// Its id.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Seals what a server says to it.
    pub fn answer(
        &self,
        authority: &tls::Authority,
        cluster_id: &str,
        outcome: &Outcome,
    ) -> Result<String, MailError> {
        let own =
            EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).map_err(|_| MailError::NoKey)?;
        let public_key = own.compute_public_key().map_err(|_| MailError::NoKey)?;
        let about = about_answer(
            cluster_id,
            &self.token_id,
            &self.request_id,
            &self.request_sha256,
            public_key.as_ref(),
        );
        let key = agreed(own, &self.theirs, &self.token_key, &about)?;
        let outcome = serde_json::to_string(outcome).expect("text and numbers have a JSON form");
        let signed = transcript(&[SIGNED, &about, outcome.as_bytes()]);
        let signature = authority.vouch(&signed).map_err(|_| MailError::NoKey)?;
        let vouched = Vouched {
            authority_pem: authority.certificate_pem().to_owned(),
            signature: URL_SAFE_NO_PAD.encode(signature),
            outcome,
        };
        let plain = serde_json::to_vec(&vouched).expect("text has a JSON form");
        let sealed = seal(&key, &about, plain);
        Ok(Answer::new(URL_SAFE_NO_PAD.encode(public_key.as_ref()), sealed).to_text())
    }
}

fn about_request(cluster_id: &str, token_id: &str, request_id: &str, sign: &str) -> Vec<u8> {
    let parts = [cluster_id, token_id, request_id, sign].map(str::as_bytes);
    transcript(&[&[REQUEST], &parts[..]].concat())
}

fn about_answer(
    cluster_id: &str,
    token_id: &str,
    request_id: &str,
    request_sha256: &[u8; 32],
    public_key: &[u8],
) -> Vec<u8> {
    let said = [cluster_id.as_bytes(), token_id.as_bytes(), request_id.as_bytes()];
    transcript(&[ANSWER, said[0], said[1], said[2], request_sha256, public_key])
}

/// The key of an answer: of both halves, of the token, and of this conversation alone.
fn agreed(
    own: EphemeralPrivateKey,
    theirs: &[u8],
    token_key: &str,
    about: &[u8],
) -> Result<LessSafeKey, MailError> {
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, token_key.as_bytes());
    let agreed = agree_ephemeral(own, &UnparsedPublicKey::new(&X25519, theirs), |shared| {
        let secret = salt.extract(shared);
        let info = [about];
        secret.expand(&info, &CHACHA20_POLY1305).map(UnboundKey::from)
    });
    // A half that is no point, or one that gives the same key to everybody, agrees on nothing.
    let key = agreed.map_err(|_| MailError::Malformed)?.map_err(|_| MailError::Malformed)?;
    Ok(LessSafeKey::new(key))
}

fn key_of(hex: &str) -> Result<LessSafeKey, MailError> {
    if !super::is_sha256(hex) {
        return Err(MailError::Malformed);
    }
    let mut bytes = [0; 32];
    for (nth, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * nth..2 * nth + 2], 16).map_err(|_| MailError::Malformed)?;
    }
    Ok(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &bytes).expect("a key has 32 bytes")))
}

fn seal(key: &LessSafeKey, about: &[u8], mut bytes: Vec<u8>) -> String {
    let mut nonce = [0; NONCE_LEN];
    random::fill(&mut nonce);
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(about), &mut bytes)
        .expect("no cipher refuses so few bytes");
    URL_SAFE_NO_PAD.encode([&nonce[..], &bytes].concat())
}

fn open(key: &LessSafeKey, about: &[u8], sealed: &str) -> Result<Vec<u8>, MailError> {
    let mut bytes = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| MailError::Malformed)?;
    let (nonce, sealed) = bytes.split_first_chunk_mut::<NONCE_LEN>().ok_or(MailError::Malformed)?;
    let plain = key
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(about), sealed)
        .map_err(|_| MailError::Foreign)?;
    Ok(plain.to_vec())
}

#[cfg(test)]
mod tests {
    use caelum_engine::mailbox::Doorkeeper;
    use caelum_model::{
        cluster::{Ceiling, NodeRole},
        id::NodeId,
        join::Admission,
    };

    use super::*;

    const CLUSTER: &str = "c-1";

    struct Pair {
        authority: tls::Authority,
        invitation: Invitation,
        key: String,
    }

    fn pair() -> Pair {
        let authority = tls::Authority::create("Caelum test").expect("made");
        let invitation = Invitation {
            cluster_id: CLUSTER.into(),
            cluster_name: "home".into(),
            servers: vec!["192.0.2.1:8080".into()],
            authority_sha256: tls::fingerprint_sha256(authority.certificate_der()),
            token_id: "t1".into(),
            secret: "the secret of the token".into(),
            expires_at_ms: 1,
            mailbox: None,
        };
        let key = token_key(&authority, "t1");
        Pair { authority, invitation, key }
    }

    fn request(invitation: &Invitation) -> JoinRequest {
        JoinRequest {
            csr_pem: "csr".into(),
            node_id: NodeId::parse("n-1").expect("an id"),
            hostname: "edge".into(),
            role: NodeRole::Server,
            ceiling: Ceiling::Observe,
            version: "1".into(),
            admission: Admission::Token {
                token_id: invitation.token_id.clone(),
                secret: invitation.secret.clone(),
            },
        }
    }

    fn opened(pair: &Pair, text: &str) -> Result<Opened, MailError> {
        let mut door = Doorkeeper::default();
        door.saw("sign", 0);
        let envelope = door.read(text, 1).expect("a request");
        open_request(&pair.authority, CLUSTER, &envelope, text)
    }

    fn refused() -> Outcome {
        Outcome::Refused { code: "join_token_expired".into(), message: "over".into() }
    }

    #[test]
    fn a_request_and_its_answer_are_opened_by_their_sides_and_say_nothing_to_others() {
        let pair = pair();
        let asked = request(&pair.invitation);
        let (side, text) = Asking::begin(&pair.invitation, &pair.key, "sign", &asked).expect("sealed");
        assert!(!text.contains("secret") && !text.contains("edge"), "{text}");
        let found = opened(&pair, &text).expect("opens");
        assert_eq!(found.request, asked);
        let answer = found.answer(&pair.authority, CLUSTER, &refused()).expect("sealed");
        assert!(!answer.contains("over"), "{answer}");
        assert_eq!(side.open(&answer), Ok(refused()));
    }

    #[test]
    fn a_byte_that_was_changed_is_noticed_wherever_it_is() {
        let pair = pair();
        let asked = request(&pair.invitation);
        let (_, text) = Asking::begin(&pair.invitation, &pair.key, "sign", &asked).expect("sealed");
        let begin = text.find("\"b\":\"").expect("is there") + 5;
        for at in (begin..text.len() - 4).step_by(97) {
            let changed = flipped(&text, at);
            assert!(opened(&pair, &changed).is_err(), "byte {at}");
        }
        for nth in 0..24 {
            let (side, text) = Asking::begin(&pair.invitation, &pair.key, "sign", &asked).expect("sealed");
            let answer = opened(&pair, &text).expect("opens");
            let answer = answer.answer(&pair.authority, CLUSTER, &refused()).expect("sealed");
            let at = 12 + nth * (answer.len() - 16) / 24;
            assert!(side.open(&flipped(&answer, at)).is_err(), "byte {at} of {answer}");
        }
    }

    fn flipped(text: &str, at: usize) -> String {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).expect("letters")
    }

    #[test]
    fn a_request_is_opened_for_its_cluster_its_token_and_its_id_alone() {
        let pair = pair();
        let asked = request(&pair.invitation);
        let (_, text) = Asking::begin(&pair.invitation, &pair.key, "sign", &asked).expect("sealed");
        let envelope: Request = serde_json::from_str(&text).expect("reads");
        let open = |cluster: &str, envelope: &Request| {
            open_request(&pair.authority, cluster, envelope, &text).map(drop)
        };
        assert_eq!(open(CLUSTER, &envelope), Ok(()));
        assert_eq!(open("c-2", &envelope), Err(MailError::Foreign));
        let other = |change: fn(&mut Request)| {
            let mut other = envelope.clone();
            change(&mut other);
            open(CLUSTER, &other)
        };
        assert_eq!(other(|of| of.token_id = "t2".into()), Err(MailError::Foreign));
        assert_eq!(other(|of| of.request_id = "r2".into()), Err(MailError::Foreign));
        assert_eq!(other(|of| of.sign = "s2".into()), Err(MailError::Foreign));
    }

    #[test]
    fn an_answer_by_another_authority_is_refused_though_it_knows_the_tokens_key() {
        let pair = pair();
        let asked = request(&pair.invitation);
        let (side, text) = Asking::begin(&pair.invitation, &pair.key, "sign", &asked).expect("sealed");
        let thief = tls::Authority::create("Caelum test").expect("made");
        let found = opened(&pair, &text).expect("opens");
        let answer = found.answer(&thief, CLUSTER, &refused()).expect("sealed");
        assert_eq!(side.open(&answer), Err(MailError::Authority));
    }

    #[test]
    fn an_answer_to_one_request_is_none_to_another() {
        let pair = pair();
        let asked = request(&pair.invitation);
        let (_, first) = Asking::begin(&pair.invitation, &pair.key, "sign", &asked).expect("sealed");
        let (side, _) = Asking::begin(&pair.invitation, &pair.key, "sign", &asked).expect("sealed");
        let answer = opened(&pair, &first).expect("opens");
        let answer = answer.answer(&pair.authority, CLUSTER, &refused()).expect("sealed");
        assert_eq!(side.open(&answer), Err(MailError::Foreign));
    }
}
