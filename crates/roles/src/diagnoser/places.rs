//! What pairs are part of: groups, resolvers and machines, as set and as observed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use caelum_engine::locate::Facts;
use caelum_model::id::ClientId;
use caelum_store::{Store, StoreError};

use super::pairs::PairKey;
use crate::orders;

/// What is set, and pairs as far as they were asked for.
#[derive(Default)]
pub(super) struct Places {
    target_groups: BTreeMap<String, String>,
    probe_groups: BTreeMap<ClientId, String>,
    machines: BTreeMap<String, ClientId>,
    known: HashMap<PairKey, (Option<Box<str>>, Arc<Facts>)>,
}

impl Places {
    /// Reads what is set.
    pub(super) async fn load(store: &Store) -> Result<Self, StoreError> {
        let mut places = Self { machines: orders::reflectors(store).await?, ..Self::default() };
        for setting in store.probe_settings().await? {
            if let Some(group) = setting.group {
                places.probe_groups.insert(setting.client_id, group);
            }
        }
        for target in store.targets().await? {
            if let Some(group) = target.group {
                places.target_groups.insert(target.url, group);
            }
        }
        Ok(places)
    }

    /// What a pair is part of. A pair that asks another resolver than before is part of that from now on.
    pub(super) fn facts(&mut self, key: &PairKey, resolver: Option<Box<str>>) -> Arc<Facts> {
        if let Some((known, facts)) = self.known.get(key)
            && (resolver.is_none() || *known == resolver)
        {
            return Arc::clone(facts);
        }
        let machine = self.machines.get(&key.target);
        let target_group = match machine {
            // A machine stands where its probe does.
            Some(machine) => self.probe_groups.get(machine),
            None => self.target_groups.get(&key.target),
        };
        let facts = Arc::new(Facts::new(
            key.client_id.clone(),
            key.target.clone(),
            key.family,
            resolver.as_deref(),
            [self.probe_groups.get(&key.client_id).map(String::as_str), target_group.map(String::as_str)],
            machine.map(ClientId::as_str),
        ));
        self.known.insert(key.clone(), (resolver, Arc::clone(&facts)));
        facts
    }

    /// Keeps only pairs of a number that fits; they are made again when needed.
    pub(super) fn bound(&mut self, most: usize) {
        if self.known.len() > most {
            self.known.clear();
        }
    }
}
