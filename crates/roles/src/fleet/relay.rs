//! News between servers: what happened here is told to the others, gathered, a few times a second at most; what
//! they tell is news here.
//!
//! The way is the records' own server. A notice says which kinds of things changed and nothing else, so a lost
//! one costs the time until pages look anyway.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use caelum_model::id::NodeId;
use caelum_store::{News, Store};
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, Change};

/// Shortest time between two notices of one server.
const GATHER: Duration = Duration::from_millis(200);

/// Carries news until told to stop.
pub async fn run(store: Arc<Store>, bus: Bus, node_id: NodeId, stop: CancellationToken) {
    let Some(heard) = store.hear() else { return };
    tokio::join!(tell(&store, &bus, &node_id, &stop), hear(heard, &bus, &node_id, &stop));
}

async fn tell(store: &Store, bus: &Bus, node_id: &NodeId, stop: &CancellationToken) {
    let mut outgoing = bus.outgoing();
    let mut gathered: BTreeSet<usize> = BTreeSet::new();
    let mut not_before = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            change = outgoing.recv() => match change {
                Ok(change) => gathered.extend(number(change)),
                Err(RecvError::Lagged(_)) => gathered.extend(0..Change::ALL.len()),
                Err(RecvError::Closed) => return,
            },
            () = sleep_until(not_before), if !gathered.is_empty() => {
                not_before = Instant::now() + GATHER;
                let text = notice(node_id, &std::mem::take(&mut gathered));
                if let Err(error) = store.tell(&text).await {
                    tracing::debug!(code = "fleet.news_lost", %error, "the other servers were not told of a change");
                }
            }
        }
    }
}

async fn hear(mut heard: mpsc::Receiver<News>, bus: &Bus, node_id: &NodeId, stop: &CancellationToken) {
    loop {
        let news = tokio::select! {
            () = stop.cancelled() => return,
            news = heard.recv() => news,
        };
        match news {
            Some(News::Told(text)) => changes(&text, node_id).into_iter().for_each(|change| bus.hear(change)),
            Some(News::Gap) => Change::ALL.into_iter().for_each(|change| bus.hear(change)),
            None => return,
        }
    }
}

/// The number under which a change travels; none for what each server sees for itself.
fn number(change: Change) -> Option<usize> {
    let at = Change::ALL.iter().position(|known| *known == change);
    at.filter(|_| change != Change::RosterChanged)
}

fn notice(node_id: &NodeId, gathered: &BTreeSet<usize>) -> String {
    let numbers: Vec<String> = gathered.iter().map(usize::to_string).collect();
    format!("{node_id} {}", numbers.join(","))
}

/// What a notice of another server says; nothing of one's own, and of what cannot be read.
fn changes(text: &str, own: &NodeId) -> Vec<Change> {
    match text.split_once(' ') {
        Some((from, numbers)) if from != own.as_str() => numbers
            .split(',')
            .filter_map(|number| Change::ALL.get(number.parse::<usize>().ok()?).copied())
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> NodeId {
        NodeId::parse(text).expect("valid")
    }

    #[test]
    fn a_notice_says_to_others_what_changed_and_nothing_to_its_sender() {
        let gathered: BTreeSet<usize> = Change::ALL.into_iter().filter_map(number).collect();
        let text = notice(&id("n-a"), &gathered);
        let heard = changes(&text, &id("n-b"));
        assert_eq!(heard.len(), Change::ALL.len() - 1);
        assert!(!heard.contains(&Change::RosterChanged), "each server sees its own roster");
        assert!(changes(&text, &id("n-a")).is_empty());
    }

    #[test]
    fn a_notice_that_cannot_be_read_says_nothing() {
        for text in ["", "n-b", "n-b x,,99999999999999999999,-1", "n-b 999"] {
            assert!(changes(text, &id("n-a")).is_empty(), "{text}");
        }
    }

    #[tokio::test]
    async fn what_another_server_said_is_not_said_again() {
        let bus = Bus::default();
        let (mut all, mut outgoing) = (bus.subscribe(), bus.outgoing());
        bus.hear(Change::TasksChanged);
        bus.publish(Change::AlertsChanged);
        assert_eq!(all.recv().await, Ok(Change::TasksChanged));
        assert_eq!(outgoing.recv().await, Ok(Change::AlertsChanged));
    }
}
