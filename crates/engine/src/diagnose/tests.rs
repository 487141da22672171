//! What the detector promises.
