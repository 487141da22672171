//! Numbers people understand: voice quality and experience from distributions, responsiveness from times.
//!
//! Each function states its assumptions; a score with a missing input is none, never zero.

use crate::sketch::Histogram;

/// A voice codec's loss behaviour (ITU-T G.113, Appendix I).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Codec {
    /// Equipment impairment without loss.
    pub ie: f64,
    /// Robustness against random loss.
    pub bpl: f64,
}

impl Codec {
    /// G.711 with packet loss concealment.
    pub const G711: Self = Self { ie: 0.0, bpl: 25.1 };
    /// G.729A with voice activity detection.
    pub const G729A: Self = Self { ie: 11.0, bpl: 19.0 };
}

/// Delay impairment of ITU-T G.107 for a one-way mouth-to-ear delay.
fn delay_impairment(delay_ms: f64) -> f64 {
    if delay_ms <= 100.0 {
        return 0.0;
    }
    let x = (delay_ms / 100.0).log2();
    25.0 * ((1.0 + x.powi(6)).powf(1.0 / 6.0) - 3.0 * (1.0 + (x / 3.0).powi(6)).powf(1.0 / 6.0) + 2.0)
}

/// Transmission rating R of the E-model (ITU-T G.107, narrowband, defaults elsewhere) for a one-way delay in
/// ms and random loss in percent.
pub fn voice_rating(codec: Codec, delay_ms: f64, loss_percent: f64) -> f64 {
    let loss = codec.ie + (95.0 - codec.ie) * loss_percent / (loss_percent + codec.bpl);
    93.2 - delay_impairment(delay_ms) - loss
}

/// Mean opinion score, 1 to 4.5, of a rating (ITU-T G.107, Annex B).
pub fn mean_opinion_score(rating: f64) -> f64 {
    if rating < 0.0 {
        1.0
    } else if rating > 100.0 {
        4.5
    } else {
        1.0 + 0.035 * rating + rating * (rating - 60.0) * (100.0 - rating) * 7e-6
    }
}

/// Voice quality over a path, as G.711 would sound: one-way delay is half the median round trip, a jitter
/// buffer of the 95th percentile of delay variation (at least 20 ms), and 20 ms of framing. `rtt` is in ms,
/// `loss` in percent a train; none where either was not measured.
pub fn voice(rtt: &Histogram, loss: &Histogram) -> Option<f64> {
    let median = rtt.quantile(0.5)?;
    let variation = rtt.quantile(0.95)? - rtt.min()?;
    let delay_ms = median / 2.0 + variation.max(20.0) + 20.0;
    Some(mean_opinion_score(voice_rating(Codec::G711, delay_ms, loss.mean()?)))
}

/// Time within which a measurement satisfies, ms; four times that is still tolerable.
pub const SATISFYING_MS: f64 = 500.0;

/// Experience from 0 to 100: the Apdex of whole measurements at T = [`SATISFYING_MS`], where a failed one
/// counts as frustrating. None where nothing was measured.
pub fn experience(total: &Histogram, failures: u64) -> Option<f64> {
    let all = total.count() + failures;
    if all == 0 {
        return None;
    }
    let satisfied = total.count_at_most(SATISFYING_MS);
    let tolerated = total.count_at_most(4.0 * SATISFYING_MS) - satisfied;
    Some((satisfied as f64 + tolerated as f64 / 2.0) * 100.0 / all as f64)
}

/// Responsiveness under load, in round trips a minute (draft-ietf-ippm-responsiveness).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Responsiveness {
    /// Of connections made while the line is loaded.
    pub foreign: f64,
    /// Of requests on the connections that load it.
    pub loaded: f64,
    /// The mean of both: what people are told.
    pub both: f64,
}

/// Responsiveness from times under load, ms: connect, handshake (empty without TLS, where there are two
/// parts instead of three) and first byte on connections of their own, and first byte on the loaded ones.
/// Each is a mean without the slowest twentieth. None where a part was not measured.
pub fn responsiveness(tcp: &[f64], tls: &[f64], http: &[f64], loaded: &[f64]) -> Option<Responsiveness> {
    let (tcp, http, loaded) = (trimmed_mean(tcp)?, trimmed_mean(http)?, trimmed_mean(loaded)?);
    let foreign = match trimmed_mean(tls) {
        Some(tls) => (tcp + tls + http) / 3.0,
        None => (tcp + http) / 2.0,
    };
    let a_minute = |ms: f64| (ms > 0.0).then(|| 60_000.0 / ms);
    let (foreign, loaded) = (a_minute(foreign)?, a_minute(loaded)?);
    Some(Responsiveness { foreign, loaded, both: (foreign + loaded) / 2.0 })
}

/// The mean without the largest 5 %.
fn trimmed_mean(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.truncate(values.len() - values.len() / 20);
    (!sorted.is_empty()).then(|| sorted.iter().sum::<f64>() / sorted.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responsiveness_meets_the_vector_of_the_draft() {
        let got = responsiveness(&[20.0], &[40.0], &[30.0], &[50.0]);
        assert_eq!(got, Some(Responsiveness { foreign: 2000.0, loaded: 1200.0, both: 1600.0 }));
        let plain = responsiveness(&[20.0], &[], &[30.0], &[50.0]).map(|plain| plain.foreign);
        assert_eq!(plain, Some(2400.0), "two parts without TLS, never three with a zero");
        assert_eq!(responsiveness(&[20.0], &[40.0], &[30.0], &[]), None);
        let mut mostly = vec![50.0; 19];
        mostly.push(5_000.0);
        assert_eq!(responsiveness(&[20.0], &[40.0], &[30.0], &mostly).map(|got| got.loaded), Some(1200.0));
    }

    fn of(values: &[f64]) -> Histogram {
        let mut histogram = Histogram::default();
        for value in values {
            histogram.record(*value).expect("measurable");
        }
        histogram
    }

    #[test]
    fn the_e_model_meets_its_vectors() {
        let vectors = [
            (Codec::G711, 0.0, 0.0, 93.20, 4.409),
            (Codec::G711, 100.0, 1.0, 89.56, 4.328),
            (Codec::G711, 150.0, 2.0, 86.03, 4.230),
            (Codec::G711, 250.0, 5.0, 68.50, 3.526),
            (Codec::G729A, 100.0, 0.0, 82.20, 4.104),
            (Codec::G729A, 150.0, 2.0, 74.04, 3.780),
        ];
        for (codec, delay_ms, loss, rating, score) in vectors {
            let got = voice_rating(codec, delay_ms, loss);
            assert!((got - rating).abs() < 0.005, "R {got} for {rating}");
            let got = mean_opinion_score(got);
            assert!((got - score).abs() < 0.0006, "MOS {got} for {score}");
        }
        for (delay_ms, impairment) in [(150.0, 0.16), (200.0, 3.04), (250.0, 8.92), (400.0, 24.07)] {
            assert!((delay_impairment(delay_ms) - impairment).abs() < 0.005, "Idd at {delay_ms} ms");
        }
    }

    #[test]
    fn voice_is_unknown_without_a_round_trip_or_without_loss() {
        assert_eq!(voice(&Histogram::default(), &of(&[0.0])), None);
        assert_eq!(voice(&of(&[10.0]), &Histogram::default()), None);
        assert!(voice(&of(&[10.0]), &of(&[0.0])).is_some_and(|mos| mos > 4.4));
    }

    #[test]
    fn experience_counts_tolerable_as_half_and_failures_as_nothing() {
        assert_eq!(experience(&Histogram::default(), 0), None);
        assert_eq!(experience(&of(&[100.0, 1000.0, 5000.0]), 1), Some(37.5));
        assert_eq!(experience(&Histogram::default(), 3), Some(0.0));
    }
}
