//! What localisation promises.
