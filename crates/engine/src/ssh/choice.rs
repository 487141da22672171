//! Which hosts words stand for. A word is `all`, a name or id, `tag=WORD` (or any word with `=` in it, which
//! is a tag as it stands), `level=LEVEL`, `capability=WORD`, `role=ROLE` or `group=NAME`.
//!
//! Words of one kind widen the choice and words of different kinds narrow it: `level=healthy level=warning
//! tag=web` is what is healthy or warning and has the tag. Names are added to whatever else is chosen.

/// One host that can be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its names: the one people use, and the host's own.
    pub names: [&'a str; 2],
    /// Words it is tagged with.
    pub tags: &'a [String],
    /// What it can do.
    pub capabilities: &'a [String],
    /// How it fares: `healthy`, `warning`, `critical`, `offline`; `ssh` for one without an agent.
    pub level: &'a str,
    /// What it runs.
    pub roles: &'a [String],
    /// What it is listed under.
    pub group: Option<&'a str>,
}

/// Most words that are read.
pub const WORDS_MAX: usize = 1_000;

/// Why words choose nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// No word at all.
    #[error(
        "say where: a node's name, tag=WORD, level=LEVEL, capability=WORD, role=ROLE, group=NAME, or all"
    )]
    Nothing,
    /// More than are read.
    #[error("{0} words say where, and at most {WORDS_MAX} are read")]
    TooMany(usize),
    /// A name that nobody has.
    #[error("there is no node {0}")]
    Unknown(String),
}

#[derive(Default)]
struct Wishes<'a> {
    is_all: bool,
    names: Vec<&'a str>,
    tags: Vec<&'a str>,
    levels: Vec<&'a str>,
    capabilities: Vec<&'a str>,
    roles: Vec<&'a str>,
    groups: Vec<&'a str>,
}

impl<'a> Wishes<'a> {
    fn read(words: &'a [String]) -> Result<Self, ChoiceError> {
        if words.len() > WORDS_MAX {
            return Err(ChoiceError::TooMany(words.len()));
        }
        let mut wishes = Self::default();
        for word in words.iter().map(|word| word.trim()).filter(|word| !word.is_empty()) {
            let place = match word.split_once('=') {
                None if word == "all" => {
                    wishes.is_all = true;
                    continue;
                }
                None => (&mut wishes.names, word),
                Some(("tag", tag)) => (&mut wishes.tags, tag),
                Some(("level", level)) => (&mut wishes.levels, level),
                Some(("capability", capability)) => (&mut wishes.capabilities, capability),
                Some(("role", role)) => (&mut wishes.roles, role),
                Some(("group", group)) => (&mut wishes.groups, group),
                Some(("node", name)) => (&mut wishes.names, name),
                Some(_) => (&mut wishes.tags, word),
            };
            place.0.push(place.1);
        }
        Ok(wishes)
    }

    fn is_empty(&self) -> bool {
        !self.is_all && self.names.is_empty() && !self.has_narrowing()
    }

    fn has_narrowing(&self) -> bool {
        [&self.tags, &self.levels, &self.capabilities, &self.roles, &self.groups]
            .iter()
            .any(|words| !words.is_empty())
    }

    fn is_met_by(&self, candidate: &Candidate<'_>) -> bool {
        if self.names.iter().any(|name| is_called(candidate, name)) {
            return true;
        }
        if !self.is_all && !self.has_narrowing() {
            return false;
        }
        let has = |wanted: &[&str], of: &[String]| {
            wanted.is_empty() || wanted.iter().any(|word| of.iter().any(|has| has == word))
        };
        let is = |wanted: &[&str], value: Option<&str>| {
            wanted.is_empty() || value.is_some_and(|value| wanted.contains(&value))
        };
        has(&self.tags, candidate.tags)
            && has(&self.capabilities, candidate.capabilities)
            && has(&self.roles, candidate.roles)
            && is(&self.levels, Some(candidate.level))
            && is(&self.groups, candidate.group)
    }
}

fn is_called(candidate: &Candidate<'_>, name: &str) -> bool {
    candidate.id == name || candidate.names.contains(&name)
}

/// The positions of those that words stand for, in the order of the candidates.
pub fn choose(words: &[String], candidates: &[Candidate<'_>]) -> Result<Vec<usize>, ChoiceError> {
    let wishes = Wishes::read(words)?;
    if wishes.is_empty() {
        return Err(ChoiceError::Nothing);
    }
    for name in &wishes.names {
        if !candidates.iter().any(|candidate| is_called(candidate, name)) {
            return Err(ChoiceError::Unknown((*name).to_owned()));
        }
    }
    Ok((0..candidates.len()).filter(|at| wishes.is_met_by(&candidates[*at])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn words_of_one_kind_widen_and_of_different_kinds_narrow_and_names_are_added() {
        let (web, db) = (words(&["web", "site=a"]), words(&["db"]));
        let gpu = words(&["gpu"]);
        let candidate = |id, tags, capabilities, level| Candidate {
            id,
            names: [id, ""],
            tags,
            capabilities,
            level,
            roles: &[],
            group: None,
        };
        let candidates = [
            candidate("n1", &web, &gpu, "healthy"),
            candidate("n2", &web, &[], "warning"),
            candidate("n3", &db, &gpu, "healthy"),
        ];
        let chosen = |given: &[&str]| choose(&words(given), &candidates);
        assert_eq!(chosen(&["all"]), Ok(vec![0, 1, 2]));
        assert_eq!(chosen(&["tag=web"]), Ok(vec![0, 1]));
        assert_eq!(chosen(&["site=a", "level=healthy"]), Ok(vec![0]));
        assert_eq!(chosen(&["tag=web", "tag=db", "level=healthy"]), Ok(vec![0, 2]));
        assert_eq!(chosen(&["tag=db", "n1"]), Ok(vec![0, 2]));
        assert_eq!(chosen(&["capability=gpu", "tag=db"]), Ok(vec![2]));
        assert_eq!(chosen(&["n9"]), Err(ChoiceError::Unknown("n9".to_owned())));
        assert_eq!(chosen(&[""]), Err(ChoiceError::Nothing));
        assert_eq!(chosen(&["tag=none"]), Ok(vec![]));
    }
}
