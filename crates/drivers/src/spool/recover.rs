//! What is found at open: which segments there are, what of them is whole, and where numbering goes on.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
};

use super::{
    SpoolError, failed, remove,
    segment::{self, HEADER_BYTES, MAX_JUMP, Segment},
};

/// No spool ever counts this far; a file that claims to begin beyond is none of ours.
const MAX_FIRST_SEQ: u64 = 1 << 62;

/// Segment files by their first number. Half-made ones are removed.
pub(super) fn find_segments(directory: &Path) -> Result<Vec<(u64, PathBuf)>, SpoolError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed("list", directory))? {
        let path = entry.map_err(failed("list", directory))?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        match (extension, number) {
            (Some("spool"), Some(first_seq @ 1..=MAX_FIRST_SEQ)) => found.push((first_seq, path)),
            (Some("new"), _) => remove(&path)?,
            _ => {}
        }
    }
    found.sort();
    Ok(found)
}

#[derive(Default)]
pub(super) struct Recovered {
    pub(super) epoch: Option<u64>,
    pub(super) segments: VecDeque<Segment>,
    pub(super) trimmed_through: u64,
    pub(super) handed_out_through: u64,
}

pub(super) fn recover(found: Vec<(u64, PathBuf)>) -> Result<Recovered, SpoolError> {
    let mut recovered = Recovered::default();
    let mut foreign = false;
    for (first_seq, path) in found {
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        let epoch = segment::decode_header(&bytes, first_seq);
        if epoch.is_none() {
            tracing::error!(path = %path.display(), "a segment of the spool has a damaged header");
        }
        let scan = segment::scan(&bytes, first_seq);
        if scan.damages > 0 {
            tracing::error!(path = %path.display(), places = scan.damages, "a segment of the spool is damaged");
        }
        let expected = recovered.segments.back().map_or(first_seq, |before| before.last_seq() + 1);
        if first_seq.saturating_sub(expected) > MAX_JUMP {
            tracing::error!(path = %path.display(), "a segment of the spool belongs to another sequence");
            foreign = true;
        }
        // Numbers between the segment before and this one were in it, and nothing of them is left.
        if let Some(before) = recovered.segments.back_mut().filter(|_| !foreign) {
            before.fill_lost(first_seq - 1);
        }
        recovered.epoch = epoch.or(recovered.epoch);
        recovered.trimmed_through = recovered.trimmed_through.max(scan.trimmed_through);
        recovered.handed_out_through = recovered.handed_out_through.max(scan.handed_out_through);
        let bytes = scan.end.max(HEADER_BYTES) as u64;
        recovered.segments.push_back(Segment { path, first_seq, places: scan.places, bytes });
    }
    if foreign {
        recovered.epoch = None;
    } else if let Some(newest) = recovered.segments.back_mut() {
        newest.fill_lost(recovered.handed_out_through);
    }
    Ok(recovered)
}

/// Renames the files of an unknown epoch. What was kept for people the last time goes.
pub(super) fn set_aside(directory: &Path, segments: &VecDeque<Segment>) -> Result<(), SpoolError> {
    for entry in fs::read_dir(directory).map_err(failed("list", directory))? {
        let path = entry.map_err(failed("list", directory))?.path();
        if path.extension().is_some_and(|extension| extension == "damaged") {
            remove(&path)?;
        }
    }
    for Segment { path, .. } in segments {
        let aside = path.with_extension("damaged");
        tracing::error!(path = %aside.display(), "a segment of an unknown epoch was set aside");
        fs::rename(path, &aside).map_err(failed("rename", path))?;
    }
    Ok(())
}
