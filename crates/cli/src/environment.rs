//! The only place that reads environment variables.

use std::{env, ffi::OsString, path::PathBuf};

/// The variables of this process that are text. One that is not cannot be a setting of ours.
pub fn variables() -> Vec<(String, String)> {
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// A variable as text; none where it is not set or is no text.
pub fn text(name: &str) -> Option<String> {
    env::var(name).ok()
}

/// A variable as a path; empty counts as not set.
pub fn path(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from)
}
