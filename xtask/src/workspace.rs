//! Where the workspace is and which files belong to it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Folders that are never ours: build output and version control.
const SKIPPED: [&str; 3] = [".git", "target", "node_modules"];

/// The workspace's root: this crate's parent.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lives in the workspace").to_owned()
}

/// Every file below the root whose name ends so, with its path relative to the root, in order.
pub fn files(root: &Path, extension: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let entry = entry.with_context(|| format!("list {}", folder.display()))?;
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if entry.file_type().with_context(|| format!("look at {}", path.display()))?.is_dir() {
                if !SKIPPED.contains(&name.as_ref()) && !name.starts_with("target-") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == extension) {
                let relative =
                    path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
                found.push((relative, path));
            }
        }
    }
    found.sort();
    Ok(found)
}
