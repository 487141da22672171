//! Placeholder, filled by the first commits.
