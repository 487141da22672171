//! Mailboxes: where machines that reach no server leave sealed requests, and servers their answers.
//!
//! # Purpose
//! [`Mailbox`] is one handle over the same three backends as servers share: PostgreSQL, Redis, a directory. A
//! machine opens it with an account that can do no more than leave a request and read answers; servers open it with
//! theirs. One suite of promises runs on all of them.
//!
//! # Rules
//! - A request is taken out by one server, never by two.
//! - There are [`SLOTS`] places for requests, of bounded size. What is larger is thrown away unread.
//! - Everything that a server leaves has a time to live.
//! - Whoever can write here may stop others from joining while he does so. He learns nothing, admits nobody, and makes
//!   a server do no more than a bounded amount of work at each look.
//!
//! # What it does not do
//! It reads nothing of what lies there: what counts is said by `engine::mailbox`, what is in it by who sealed it.

mod address;
mod file;
mod redis;

pub use address::{InvalidMailbox, MailboxAddress, rights};
use caelum_engine::mailbox::{ANSWER_BYTES_MAX, REQUEST_BYTES_MAX, SLOTS, is_id, slot_name};

use self::{file::DropFolder, redis::RedisMailbox};
use crate::{CoordinationError, postgres::PostgresMailbox};

/// Most bytes of a sign, as it is read.
const SIGN_BYTES_MAX: usize = 64;

/// See the file.
#[derive(Clone)]
pub struct Mailbox {
    backend: Backend,
}

#[derive(Clone)]
enum Backend {
    Redis(Box<RedisMailbox>),
    Folder(DropFolder),
    Postgres(PostgresMailbox),
}

impl Mailbox {
    /// A mailbox at an address. `space` keeps clusters apart that share a backend. Nothing is asked of it yet.
    pub async fn open(address: &MailboxAddress, space: &str) -> Result<Self, CoordinationError> {
        Ok(Self {
            backend: match address {
                MailboxAddress::Redis(url) => Backend::Redis(Box::new(RedisMailbox::open(url, space)?)),
                MailboxAddress::Folder(path) => Backend::Folder(DropFolder::open(path, space)),
                MailboxAddress::Postgres(address, _) => {
                    Backend::Postgres(PostgresMailbox::open(address).await?)
                }
            },
        })
    }

    /// What kind it is: `postgres`, `redis` or `file`.
    pub fn kind(&self) -> &'static str {
        match &self.backend {
            Backend::Redis(_) => "redis",
            Backend::Folder(_) => "file",
            Backend::Postgres(_) => "postgres",
        }
    }

    /// Where it is, without a password.
    pub fn place(&self) -> String {
        match &self.backend {
            Backend::Redis(redis) => redis.place().to_owned(),
            Backend::Folder(folder) => folder.place(),
            Backend::Postgres(postgres) => postgres.place().to_owned(),
        }
    }

    /// The sign that servers hung out, if there is one.
    pub async fn sign(&self) -> Result<Option<String>, CoordinationError> {
        let sign = match &self.backend {
            Backend::Redis(redis) => redis.sign().await?,
            Backend::Folder(folder) => folder.sign().await?,
            Backend::Postgres(postgres) => postgres.read("sign").await?,
        };
        Ok(sign.filter(|sign| is_id(sign)))
    }

    /// Leaves a request in a place, if that one is free. Answers whether it was.
    pub async fn post(&self, slot: u8, request: &str) -> Result<bool, CoordinationError> {
        self.check("leave a request", slot < SLOTS && request.len() <= REQUEST_BYTES_MAX)?;
        match &self.backend {
            Backend::Redis(redis) => redis.post(&slot_name(slot), request).await,
            Backend::Folder(folder) => folder.post(slot_name(slot), request.to_owned()).await,
            Backend::Postgres(postgres) => postgres.post(slot, request).await,
        }
    }

    /// The answer to a request, if there is one.
    pub async fn answer(&self, request_id: &str) -> Result<Option<String>, CoordinationError> {
        self.check("read an answer", is_id(request_id))?;
        match &self.backend {
            Backend::Redis(redis) => redis.answer(request_id).await,
            Backend::Folder(folder) => folder.answer(request_id.to_owned()).await,
            Backend::Postgres(postgres) => postgres.read(&format!("a/{request_id}")).await,
        }
    }

    /// A server's: hangs out this sign where none hangs. Answers the one that hangs then.
    pub async fn hang_out(&self, sign: &str) -> Result<String, CoordinationError> {
        self.check("hang out a sign", is_id(sign))?;
        let hangs = match &self.backend {
            Backend::Redis(redis) => redis.hang_out(sign).await?,
            Backend::Folder(folder) => folder.hang_out(sign.to_owned()).await?,
            Backend::Postgres(postgres) => postgres.hang_out(sign).await?,
        };
        self.check("hang out a sign", is_id(&hangs))?;
        Ok(hangs)
    }

    /// A server's: takes out some requests, from `first` on, at most as many. What is too large is thrown away.
    pub async fn take(&self, first: u8, most: usize) -> Result<Vec<String>, CoordinationError> {
        let first = first % SLOTS;
        match &self.backend {
            Backend::Redis(redis) => redis.take(first, most).await,
            Backend::Folder(folder) => folder.take(first, most).await,
            Backend::Postgres(postgres) => postgres.take(most).await,
        }
    }

    /// A server's: leaves an answer.
    pub async fn reply(&self, request_id: &str, answer: &str) -> Result<(), CoordinationError> {
        self.check("leave an answer", is_id(request_id) && answer.len() <= ANSWER_BYTES_MAX)?;
        match &self.backend {
            Backend::Redis(redis) => redis.reply(request_id, answer).await,
            Backend::Folder(folder) => folder.reply(request_id.to_owned(), answer.to_owned()).await,
            Backend::Postgres(postgres) => postgres.reply(request_id, answer).await,
        }
    }

    fn check(&self, operation: &'static str, is_fine: bool) -> Result<(), CoordinationError> {
        if is_fine {
            return Ok(());
        }
        let detail = format!(
            "ids are letters and digits, requests have at most {REQUEST_BYTES_MAX} bytes and answers \
             {ANSWER_BYTES_MAX}"
        );
        Err(CoordinationError { operation, place: self.place(), detail, is_transient: false })
    }
}
