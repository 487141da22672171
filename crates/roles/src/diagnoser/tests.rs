//! What the diagnoser promises, on a real store.
