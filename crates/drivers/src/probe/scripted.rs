//! A prober that measures nothing: it takes as long as it is told and answers what it is told. For tests of
//! what stands on measurements, with virtual time.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use caelum_model::target::Target;
use tokio::time::Instant;

use super::{Extras, Measure, Measurement, UrlError, parse};

/// What happens at one target.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// How long it takes.
    pub takes: Duration,
    /// What comes out, its target left open.
    pub measurement: Measurement,
}

/// See the module. A target without a turn is measured in no time.
#[derive(Debug, Default)]
pub struct Scripted {
    turns: Mutex<HashMap<String, Turn>>,
    asked: Mutex<Vec<(String, Extras, Instant)>>,
}

impl Scripted {
    /// Sets what happens at a URL from now on.
    pub fn set(&self, url: &str, turn: Turn) {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).insert(url.to_owned(), turn);
    }

    fn turn(&self, url: &str) -> Turn {
        let turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.get(url).cloned().unwrap_or_default()
    }

    /// Every measurement that was begun: URL, what was asked for beside it, and when.
    pub fn asked(&self) -> Vec<(String, Extras, Instant)> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Measure for Scripted {
    async fn measure(&self, target: &Target, extras: Extras) -> Result<Vec<Measurement>, UrlError> {
        parse(&target.url)?;
        let asked = (target.url.clone(), extras, Instant::now());
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        let turn = self.turn(&target.url);
        tokio::time::sleep(turn.takes).await;
        Ok(vec![Measurement { target: target.url.clone(), ..turn.measurement }])
    }
}
