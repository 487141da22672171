//! Programs that packages are made of: this one for its own platform, others from an operator's folder.
//!
//! In the folder, the program for a target triple is `TRIPLE/caelum`. What is in a file is not looked at here.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _},
    path::{Path, PathBuf},
};

use caelum_model::package::Platform;

/// Name of the program in the folder of its triple.
const PROGRAM: &str = "caelum";

/// Where programs are found.
#[derive(Clone, Debug)]
pub struct Artifacts {
    folder: Option<PathBuf>,
    own: PathBuf,
}

/// Why there is no program for a platform.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// Nobody put one there.
    #[error("there is no program for {platform}: put one at {place}", platform = .platform.as_str(), place = .place.display())]
    Missing {
        /// For what.
        platform: Platform,
        /// Where it would be looked for first.
        place: PathBuf,
    },
    /// No folder is named.
    #[error(
        "there is no program for {platform}: name a folder in packages.artifacts and put one there as \
         {triple}/{PROGRAM}", platform = .platform.as_str(), triple = .platform.triples()[0]
    )]
    NoFolder {
        /// For what.
        platform: Platform,
    },
    /// It is larger than any that makes sense.
    #[error("{} is larger than {max_bytes} bytes", .path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// How large it may be.
        max_bytes: usize,
    },
    /// It cannot be read.
    #[error("read {}: {source}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Artifacts {
    /// Programs in a folder, and the one at `own`: the one that runs.
    pub fn new(folder: Option<PathBuf>, own: PathBuf) -> Self {
        Self { folder, own }
    }

    /// The program for a platform, where it lies. One in the folder goes before the one that runs.
    pub fn find(&self, platform: Platform) -> Result<PathBuf, ArtifactError> {
        let places = || platform.triples().iter().filter_map(|triple| self.place(triple));
        if let Some(found) = places().find(|place| place.is_file()) {
            return Ok(found);
        }
        if Platform::own() == Some(platform) {
            return Ok(self.own.clone());
        }
        Err(match places().next() {
            Some(place) => ArtifactError::Missing { platform, place },
            None => ArtifactError::NoFolder { platform },
        })
    }

    fn place(&self, triple: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(triple).join(PROGRAM))
    }

    /// Reads the program for a platform.
    pub fn read(&self, platform: Platform, max_bytes: usize) -> Result<Vec<u8>, ArtifactError> {
        let path = self.find(platform)?;
        let bytes = head(&path, max_bytes + 1)?;
        if bytes.len() > max_bytes {
            return Err(ArtifactError::TooLarge { path, max_bytes });
        }
        Ok(bytes)
    }

    /// Reads how the program for a platform begins.
    pub fn head(&self, platform: Platform, bytes: usize) -> Result<Vec<u8>, ArtifactError> {
        head(&self.find(platform)?, bytes)
    }
}

fn head(path: &Path, bytes: usize) -> Result<Vec<u8>, ArtifactError> {
    let read = || {
        let mut found = Vec::new();
        File::open(path)?.take(bytes as u64).read_to_end(&mut found)?;
        match found.is_empty() {
            true => Err(io::Error::new(ErrorKind::UnexpectedEof, "it is empty")),
            false => Ok(found),
        }
    };
    read().map_err(|source| ArtifactError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_program_in_the_folder_goes_before_the_one_that_runs() {
        let folder = tempfile::tempdir().expect("a folder");
        let own = folder.path().join("own");
        fs::write(&own, b"own").expect("written");
        let artifacts = Artifacts::new(Some(folder.path().to_owned()), own);
        let platform = Platform::own().expect("tests run where packages are for");
        assert_eq!(artifacts.read(platform, 3).expect("read"), b"own");
        assert!(matches!(artifacts.read(platform, 2), Err(ArtifactError::TooLarge { .. })));
        let place = folder.path().join(platform.triples()[0]);
        fs::create_dir(&place).expect("made");
        fs::write(place.join(PROGRAM), b"static").expect("written");
        assert_eq!(artifacts.read(platform, 9).expect("read"), b"static");
        assert_eq!(artifacts.head(platform, 2).expect("read"), b"st");
    }

    #[test]
    fn a_missing_program_says_where_it_belongs() {
        let other = |platform: &Platform| Platform::own() != Some(*platform);
        let platform = Platform::ALL.into_iter().find(other).expect("there are several");
        let with = Artifacts::new(Some("/srv/programs".into()), "/own".into());
        let said = with.find(platform).expect_err("is not there").to_string();
        assert!(said.contains(&format!("/srv/programs/{}/caelum", platform.triples()[0])), "{said}");
        let said = Artifacts::new(None, "/own".into()).find(platform).expect_err("none").to_string();
        assert!(said.contains("packages.artifacts"), "{said}");
    }
}
