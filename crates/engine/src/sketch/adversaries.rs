//! Five distributions that are hard on a histogram, from a seed. The bench of distributions draws from them,
//! too.

/// Numbers that look like chance and follow from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Chance(pub u64);

impl Chance {
    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to 1.
    pub fn share(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Draws one value.
pub type Draw = fn(&mut Chance) -> f64;

/// Each with what is hard about it.
pub const ADVERSARIES: [(&str, Draw); 5] = [
    ("a tail without a mean", |chance| (1.0 - chance.share()).powi(-2).min(1e14)),
    ("two humps nine decades apart", |chance| {
        let within = 1.0 + chance.share();
        if chance.share() < 0.9 { 1e-3 * within } else { 1e6 * within }
    }),
    ("just above the bounds of buckets", |chance| {
        let index = (chance.number() % 1024) as f64 - 256.0;
        (index / 64.0).exp2() * (1.0 + 1e-12)
    }),
    ("nothing, nearly always the same, once an hour", |chance| match chance.number() % 1000 {
        0 => 3.6e6,
        nth if nth < 400 => 0.0,
        _ => 20.0 + 1e-9 * chance.share(),
    }),
    ("anything over twenty-three decades", |chance| 10f64.powf(-8.0 + 22.9 * chance.share())),
];
