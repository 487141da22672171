//! How the probe's machine fares, looked at every few seconds and read by every measurement: a look for each
//! event would cost more than the event.

use std::{sync::Arc, time::Duration};

use caelum_drivers::condition::Looker;
use caelum_model::{details::Condition, event::InterfaceType};
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is around a measurement.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    /// None before the first look.
    pub(super) condition: Option<Condition>,
    pub(super) interface_type: InterfaceType,
    pub(super) vpn_enabled: bool,
}

/// Looks again and again.
pub(super) struct Watch {
    looker: Looker,
    network: fn() -> (InterfaceType, bool),
    seen: watch::Sender<Arc<Surroundings>>,
}

/// Who looks, and where what was seen last is read.
pub(super) fn watch(
    looker: Looker,
    network: fn() -> (InterfaceType, bool),
) -> (Watch, watch::Receiver<Arc<Surroundings>>) {
    let (interface_type, vpn_enabled) = network();
    let first = Surroundings { condition: None, interface_type, vpn_enabled };
    let (seen, surroundings) = watch::channel(Arc::new(first));
    (Watch { looker, network, seen }, surroundings)
}

impl Watch {
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let network = self.network;
            let condition = tokio::select! {
                () = stop.cancelled() => return,
                condition = self.looker.look() => condition,
            };
            // Routes are files of the kernel, and may be many.
            let Ok((interface_type, vpn_enabled)) = tokio::task::spawn_blocking(network).await else {
                continue;
            };
            let seen = Surroundings { condition: Some(condition), interface_type, vpn_enabled };
            self.seen.send_replace(Arc::new(seen));
        }
    }
}
