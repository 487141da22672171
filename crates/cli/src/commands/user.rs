//! `caelum user`: people who may sign in, looked after on the machine whose data directory it is.

use std::io::{self, BufRead as _, Read as _};

use anyhow::{Context as _, Result, bail};
use caelum_drivers::{
    clock::{Clock as _, SystemClock},
    random,
};
use caelum_web::auth;

use super::token::{audit, open};
use crate::{arguments::User, exit::Exit, output};

/// Characters of a generated password: 56 symbols each, to be typed once.
const PASSWORD_LENGTH: usize = 20;
/// Bytes a password may have.
const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 8..=128;

/// Sets a password and ends the sessions that the old one opened.
pub async fn run(command: User) -> Result<Exit> {
    let User::Password { name, stdin, place } = command;
    let store = open(&place).await?;
    let Some(mut user) = store.user(name.clone()).await? else {
        let names: Vec<String> = store.users().await?.into_iter().map(|user| user.name).collect();
        bail!("there is no user {name}; there are {}", names.join(", "));
    };
    let password = if stdin { read_password()? } else { random::secret(PASSWORD_LENGTH) };
    user.password_hash = auth::hash_password(&password).context("hash the password")?;
    store.put_user(user).await?;
    let ended = store.delete_keys_with_value("session/".to_owned(), name.clone()).await?;
    store.audit(audit(SystemClock.now_ms(), "user.password", &name)).await?;
    store.close();
    let text = match stdin {
        true => format!("{name} has a new password; {ended} session(s) ended\n"),
        false => format!(
            "{name} has a new password; {ended} session(s) ended; it is not shown again:\n{password}\n"
        ),
    };
    output::print(&text)?;
    Ok(Exit::Fine)
}

fn read_password() -> Result<String> {
    let mut line = String::new();
    let most = u64::try_from(*PASSWORD_BYTES.end() + 2).expect("is small");
    io::stdin().lock().take(most).read_line(&mut line).context("read the password from standard input")?;
    let password = line.trim_end_matches(['\r', '\n']);
    if !PASSWORD_BYTES.contains(&password.len()) || password.chars().any(char::is_control) {
        bail!("the password must have 8 to 128 bytes and no control characters");
    }
    Ok(password.to_owned())
}
