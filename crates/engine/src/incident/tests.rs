//! What incidents promise.
