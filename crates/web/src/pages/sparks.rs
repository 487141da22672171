//! The last hour's processor use of every machine, for the small charts in a list.
//!
//! All of it is read at once and kept: what a thousand machines did in an hour is some hundred thousand samples, and
//! a page that is open is drawn each time one of them says something. Afterwards only the newest stretch is read
//! again, and the whole hour now and then, since a machine that was away hands its samples in late.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use caelum_model::{UnixMs, id::NodeId};
use caelum_store::{Store, StoreError};
use tokio::sync::Mutex;

/// Points of a chart.
const POINTS: i64 = 40;
/// What a point stands for, ms: together an hour.
const STRETCH_MS: i64 = 90_000;
/// How old the newest point may be, ms.
const FRESH_MS: i64 = 10_000;
/// How long the hour is taken for read, ms.
const WHOLE_MS: i64 = 5 * 60_000;

/// Points from left to right, percent; none where nothing was heard.
pub type Spark = Vec<Option<f64>>;

/// What was read.
#[derive(Default)]
pub struct Sparks(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// When it was read last, and when the whole hour was.
    read_at_ms: Option<(UnixMs, UnixMs)>,
    values: HashMap<NodeId, BTreeMap<UnixMs, f64>>,
    drawn: Arc<HashMap<NodeId, Spark>>,
}

impl Sparks {
    /// The charts as of now, by machine. Whoever asks while another reads waits for that.
    pub async fn at(&self, store: &Store, now_ms: UnixMs) -> Result<Arc<HashMap<NodeId, Spark>>, StoreError> {
        let mut kept = self.0.lock().await;
        let last_ms = now_ms.div_euclid(STRETCH_MS) * STRETCH_MS;
        let first_ms = last_ms - (POINTS - 1) * STRETCH_MS;
        let within = |since_ms: UnixMs, most_ms| (0..most_ms).contains(&(now_ms - since_ms));
        let (from_ms, whole_at_ms) = match kept.read_at_ms {
            Some((read_ms, _)) if within(read_ms, FRESH_MS) => return Ok(Arc::clone(&kept.drawn)),
            Some((read_ms, whole_ms)) if within(whole_ms, WHOLE_MS) => {
                (read_ms.div_euclid(STRETCH_MS) * STRETCH_MS, whole_ms)
            }
            _ => (first_ms, now_ms),
        };
        let read = store.node_loads(from_ms, now_ms + 1, STRETCH_MS).await?;
        kept.values.retain(|_, values| {
            values.retain(|start_ms, _| (first_ms..from_ms).contains(start_ms));
            !values.is_empty()
        });
        for (node_id, start_ms, percent) in read {
            kept.values.entry(node_id).or_default().insert(start_ms, percent);
        }
        let starts = || (0..POINTS).map(|point| first_ms + point * STRETCH_MS);
        let draw =
            |values: &BTreeMap<UnixMs, f64>| starts().map(|start| values.get(&start).copied()).collect();
        let drawn = kept.values.iter().map(|(node_id, values)| (node_id.clone(), draw(values))).collect();
        kept.drawn = Arc::new(drawn);
        kept.read_at_ms = Some((now_ms, whole_at_ms));
        Ok(Arc::clone(&kept.drawn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::tests::stored;

    const NOW_MS: UnixMs = 1_000 * STRETCH_MS + 30_000;

    async fn last_three(sparks: &Sparks, store: &Store, now_ms: UnixMs) -> Vec<Option<f64>> {
        let drawn = sparks.at(store, now_ms).await.expect("read");
        let spark = drawn.values().next().expect("one machine");
        assert_eq!(spark.len(), 40);
        spark[37..].to_vec()
    }

    #[tokio::test]
    async fn what_is_new_is_read_and_what_comes_late_with_the_next_hour() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("caelum.db")).expect("opens");
        let sparks = Sparks::default();
        let put = async |at_ms, percent| stored(&store, "box", at_ms, percent).await;
        put(NOW_MS - STRETCH_MS, 10.0).await;
        put(NOW_MS - 5_000, 20.0).await;
        assert_eq!(last_three(&sparks, &store, NOW_MS).await, [None, Some(10.0), Some(20.0)]);
        put(NOW_MS, 40.0).await;
        put(NOW_MS - 2 * STRETCH_MS, 70.0).await;
        assert_eq!(last_three(&sparks, &store, NOW_MS + 1).await, [None, Some(10.0), Some(20.0)]);
        let later_ms = NOW_MS + FRESH_MS;
        assert_eq!(last_three(&sparks, &store, later_ms).await, [None, Some(10.0), Some(30.0)]);
        put(NOW_MS + STRETCH_MS, 50.0).await;
        let later_ms = NOW_MS + STRETCH_MS;
        assert_eq!(last_three(&sparks, &store, later_ms).await, [Some(10.0), Some(30.0), Some(50.0)]);
        let later_ms = NOW_MS + WHOLE_MS;
        let drawn = sparks.at(&store, later_ms).await.expect("read");
        let all: Vec<f64> = drawn.values().flatten().filter_map(|value| *value).collect();
        assert_eq!(all, [70.0, 10.0, 30.0, 50.0]);
        // The clock was set back.
        assert_eq!(last_three(&sparks, &store, NOW_MS - STRETCH_MS).await, [None, Some(70.0), Some(10.0)]);
    }
}
