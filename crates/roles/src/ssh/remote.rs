//! Tasks of the kind `ssh`: the worker of a server runs them over the same pool.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use caelum_drivers::worker::{Remote, RemoteEnd, RemoteOrder};
use caelum_model::ssh::SshOutcome;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Order, Spot, Ssh, outcome_text};

/// What is kept of a task's output here: it goes to the task as it comes.
const KEPT_BYTES: usize = 0;

#[async_trait]
impl Remote for Ssh {
    async fn run(
        &self,
        who: &str,
        order: RemoteOrder,
        timeout_s: u64,
        stop: CancellationToken,
        output: mpsc::Sender<(bool, Bytes)>,
    ) -> RemoteEnd {
        let spot = match self.spot_of(&order).await {
            Ok(spot) => spot,
            Err(because) => return RemoteEnd::Failed(because),
        };
        let command = match with_variables(&order) {
            Ok(command) => command,
            Err(because) => return RemoteEnd::Failed(because),
        };
        let subject = format!("{}: {command}", spot.name);
        if let Err(error) = self.write_down(who, "ssh.task", &subject, "begun").await {
            return RemoteEnd::Failed(format!("nothing was run: it could not be written down: {error}"));
        }
        let order = Order {
            command: command.into(),
            timeout: Duration::from_secs(timeout_s),
            output_max_bytes: KEPT_BYTES,
            listener: Some(output),
            stop: stop.clone(),
        };
        let result = Ssh::run(self, &spot, &order, self.pool.owner()).await;
        self.write_end(who, "ssh.task", &subject, &outcome_text(&result)).await;
        let because = || {
            let error = result.error.clone().unwrap_or_else(|| result.outcome.as_str().to_owned());
            format!("{}: {error}", result.node)
        };
        match (result.outcome, result.return_code) {
            _ if stop.is_cancelled() && result.return_code.is_none() => RemoteEnd::Stopped,
            (_, Some(code)) => RemoteEnd::Exited(code),
            (SshOutcome::TimedOut, None) => RemoteEnd::TimedOut(because()),
            (_, None) => RemoteEnd::Failed(because()),
        }
    }
}

impl Ssh {
    /// The host that a task names, with the user and port that it asks for. What nobody added is not dialled.
    async fn spot_of(&self, order: &RemoteOrder) -> Result<Spot, String> {
        let places = self.places().await.map_err(|error| error.to_string())?;
        let host = order.host.as_str();
        let by = |is: &dyn Fn(&Spot) -> bool| places.iter().find(|spot| is(spot));
        let found = by(&|spot| spot.node_id.as_str() == host)
            .or_else(|| by(&|spot| spot.name == host || spot.hostname == host))
            .or_else(|| by(&|spot| spot.host.as_deref() == Some(host)));
        let mut spot = found.cloned().ok_or_else(|| {
            format!("there is no node or host {host}; `caelum ssh add` adds one without an agent")
        })?;
        if let Some(user) = &order.user {
            spot.user.clone_from(user);
        }
        if let Some(port) = order.port.filter(|port| *port != spot.port) {
            spot.port = port;
            let address = spot.host.clone().unwrap_or_default();
            let known = self.store.known_hosts_of(&address, port).await.map_err(|error| error.to_string())?;
            spot.accepted = known.into_iter().map(|known| known.key).collect();
        }
        Ok(spot)
    }
}

/// The command with its variables in front: what a host takes over from us is its own choice otherwise.
fn with_variables(order: &RemoteOrder) -> Result<String, String> {
    let mut command = String::new();
    for (name, value) in &order.env {
        let is_name = |(at, letter): (usize, char)| {
            letter == '_' || letter.is_ascii_alphabetic() || (at > 0 && letter.is_ascii_digit())
        };
        if name.is_empty() || !name.chars().enumerate().all(is_name) {
            return Err(format!("{name:?} is no name of a variable"));
        }
        command.push_str(&format!("export {name}='{}'\n", value.replace('\'', "'\\''")));
    }
    command.push_str(&order.command);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(name: &str, value: &str) -> RemoteOrder {
        RemoteOrder {
            host: "h".to_owned(),
            command: "env".to_owned(),
            user: None,
            port: None,
            env: [(name.to_owned(), value.to_owned())].into(),
        }
    }

    #[test]
    fn variables_stand_in_front_and_nothing_in_them_is_read_by_the_shell() {
        let command = with_variables(&order("WHO", "it's $(me)")).expect("reads");
        assert_eq!(command, "export WHO='it'\\''s $(me)'\nenv");
        assert!(with_variables(&order("A;B", "x")).is_err());
        assert!(with_variables(&order("", "x")).is_err());
    }
}
