//! Who measures what: which targets a probe is given, and which other machines it measures.
//!
//! A target says by its [`Selector`] which probes measure it. With the mesh on, a machine also measures others,
//! at most a handful of them however many there are, and the choice stays the same while machines come and go.
//! What it does not do: it knows no addresses and asks nobody; it chooses among what it is given.

use std::net::SocketAddr;

use caelum_model::{
    id::ClientId,
    probe::ProbeSetting,
    target::{Selector, TAG_BYTES_MAX, TAGS_MAX, Target},
};

use crate::hash::{fnv1a, mix};

/// Most other machines that one measures.
pub const MESH_MOST: usize = 32;

/// Why words select nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// More words than are compared.
    #[error("the selector has {count} words, and at most {TAGS_MAX} are read")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// A word, or what stands behind its `probe:`, is empty.
    #[error("the selector's word '{word}' names nothing")]
    Empty {
        /// The word.
        word: String,
    },
    /// Longer than a tag may be.
    #[error("the selector's word '{word}' is longer than {TAG_BYTES_MAX} bytes")]
    TooLong {
        /// The word.
        word: String,
    },
    /// It looks in a place that there is not.
    #[error("the selector's word '{word}' looks in '{place}': only probe, tag and group can be looked in")]
    UnknownPlace {
        /// The word.
        word: String,
        /// What stands before the colon.
        place: String,
    },
    /// A control character or white space in a word.
    #[error("the selector's word {word:?} has white space or a control character in it")]
    Unprintable {
        /// The word.
        word: String,
    },
}

/// Why a word is no tag and no name of a group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// More than are kept.
    #[error("{count} tags are given, and at most {TAGS_MAX} are kept")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// Nothing, too long, or with characters that a selector could not name.
    #[error(
        "'{tag}' is no name of a tag or group: it has 1 to {TAG_BYTES_MAX} bytes, no white space, no control \
         characters, no comma, no '!' in front, and is not 'all'"
    )]
    Unfit {
        /// As given.
        tag: String,
    },
}

/// A probe, as selectors see it.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    /// Its id.
    pub client_id: &'a str,
    /// Name of its machine; the id where it has none.
    pub name: &'a str,
}

/// What a word looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Probe,
    Tag,
    Group,
    Anywhere,
}

/// A word taken apart: whether it excludes, where it looks, and for what.
fn read(word: &str) -> Result<(bool, Place, &str), SelectorError> {
    let whole = || word.to_owned();
    let (excludes, rest) = word.strip_prefix('!').map_or((false, word), |rest| (true, rest));
    let (place, name) = match rest.split_once(':') {
        Some(("probe", name)) => (Place::Probe, name),
        Some(("tag", name)) => (Place::Tag, name),
        Some(("group", name)) => (Place::Group, name),
        Some((place, _)) => {
            return Err(SelectorError::UnknownPlace { word: whole(), place: place.to_owned() });
        }
        None => (Place::Anywhere, rest),
    };
    if name.is_empty() {
        return Err(SelectorError::Empty { word: whole() });
    }
    // A probe's name may be longer than a tag.
    if name.len() > if place == Place::Probe { ClientId::MAX_BYTES } else { TAG_BYTES_MAX } {
        return Err(SelectorError::TooLong { word: whole() });
    }
    if name.chars().any(|letter| letter.is_control() || letter.is_whitespace()) {
        return Err(SelectorError::Unprintable { word: whole() });
    }
    Ok((excludes, place, name))
}

/// Reads a selector as people write it: words with commas or white space between them.
pub fn parse(text: &str) -> Result<Selector, SelectorError> {
    let words = text.split(|letter: char| letter == ',' || letter.is_whitespace());
    let selector = Selector(words.filter(|word| !word.is_empty()).map(str::to_owned).collect());
    check(&selector)?;
    Ok(selector)
}

/// Whether every word of a selector can be read.
pub fn check(selector: &Selector) -> Result<(), SelectorError> {
    if selector.0.len() > TAGS_MAX {
        return Err(SelectorError::TooMany { count: selector.0.len() });
    }
    selector.0.iter().try_for_each(|word| read(word).map(drop))
}

/// Whether words are fit to be tags.
pub fn check_tags(tags: &[String]) -> Result<(), TagError> {
    if tags.len() > TAGS_MAX {
        return Err(TagError::TooMany { count: tags.len() });
    }
    tags.iter().try_for_each(|tag| check_tag(tag))
}

/// Whether a word is fit to be a tag or the name of a group: what a selector can name.
pub fn check_tag(tag: &str) -> Result<(), TagError> {
    let fits = !tag.is_empty()
        && tag.len() <= TAG_BYTES_MAX
        && !tag.starts_with('!')
        && tag != "all"
        && !tag.chars().any(|letter| letter.is_control() || letter.is_whitespace() || letter == ',');
    if fits { Ok(()) } else { Err(TagError::Unfit { tag: tag.to_owned() }) }
}

/// Whether a selector selects a probe. Words that cannot be read select nothing: of a setting that a newer
/// version wrote, too little is measured rather than too much.
pub fn selects(selector: &Selector, probe: Probe<'_>, setting: Option<&ProbeSetting>) -> bool {
    let group = setting.and_then(|setting| setting.group.as_deref());
    let has_name = |name: &str| probe.client_id == name || probe.name == name;
    let has_tag = |name: &str| setting.is_some_and(|setting| setting.tags.iter().any(|tag| tag == name));
    let matches = |place: Place, name: &str| match place {
        Place::Probe => has_name(name),
        Place::Tag => has_tag(name),
        Place::Group => group == Some(name),
        Place::Anywhere => name == "all" || has_name(name) || has_tag(name) || group == Some(name),
    };
    // With nothing but exclusions, everybody else is meant.
    let (mut wants, mut is_wanted) = (false, false);
    for word in &selector.0 {
        match read(word) {
            Ok((true, place, name)) if matches(place, name) => return false,
            Ok((true, ..)) => {}
            Ok((false, place, name)) => {
                wants = true;
                is_wanted |= matches(place, name);
            }
            Err(_) => wants = true,
        }
    }
    is_wanted || !wants
}

/// The targets that a probe measures: enabled ones whose selector selects it, in the order given; none where
/// the probe itself is not to measure.
pub fn orders(settings: &[ProbeSetting], targets: &[Target], probe: Probe<'_>) -> Vec<Target> {
    let setting = settings.iter().find(|setting| setting.client_id.as_str() == probe.client_id);
    if setting.is_some_and(|setting| !setting.enabled) {
        return Vec::new();
    }
    let is_its = |target: &&Target| target.enabled && selects(&target.probes, probe, setting);
    targets.iter().filter(is_its).cloned().collect()
}

/// Which of `others` a machine measures, at most `most`: their places in the list, ascending.
///
/// One of them is the machine behind it on a ring of hashes, so that of machines that know the same others each
/// is measured by somebody; the rest are those with the highest hash of the pair (rendezvous hashing), so that
/// a machine that comes or goes changes one choice at most elsewhere. Of an id that stands twice, one is taken.
pub fn mesh(own: &ClientId, others: &[(ClientId, SocketAddr)], most: usize) -> Vec<usize> {
    let place = |id: &ClientId| (mix(fnv1a(id.as_str())), id.clone());
    let own_place = place(own);
    let mut seen = std::collections::HashSet::new();
    let mut candidates: Vec<usize> = (0..others.len())
        .filter(|index| others[*index].0 != *own && seen.insert(others[*index].0.clone()))
        .collect();
    let first_of_ring = |behind: bool| {
        candidates
            .iter()
            .copied()
            .filter(|index| !behind || place(&others[*index].0) > own_place)
            .min_by_key(|index| place(&others[*index].0))
    };
    let next = first_of_ring(true).or_else(|| first_of_ring(false));
    let weight = |index: usize| mix(own_place.0.rotate_left(17) ^ mix(fnv1a(others[index].0.as_str())));
    candidates.sort_by_key(|index| {
        let index = *index;
        (Some(index) != next, std::cmp::Reverse(weight(index)), others[index].0.clone())
    });
    candidates.truncate(most);
    candidates.sort_unstable();
    candidates
}

#[cfg(test)]
mod tests {
    use caelum_model::id::TargetId;

    use super::*;

    fn setting(group: Option<&str>, tags: &[&str]) -> ProbeSetting {
        ProbeSetting {
            group: group.map(str::to_owned),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..ProbeSetting::usual(ClientId::parse("p1").expect("an id"))
        }
    }

    fn is_selected(words: &str, setting: Option<&ProbeSetting>) -> bool {
        let selector = parse(words).expect("a selector");
        selects(&selector, Probe { client_id: "p1", name: "lab-1" }, setting)
    }

    #[test]
    fn nothing_and_all_select_every_probe() {
        assert!(is_selected("", None) && is_selected("all", None));
        assert!(is_selected("", Some(&setting(Some("berlin"), &["wifi"]))));
    }

    #[test]
    fn a_plain_word_looks_at_name_tags_and_group_and_a_place_only_there() {
        let berlin = setting(Some("berlin"), &["wifi"]);
        for word in ["p1", "lab-1", "wifi", "berlin", "probe:lab-1", "tag:wifi", "group:berlin", "x,wifi"] {
            assert!(is_selected(word, Some(&berlin)), "{word}");
        }
        for word in ["lab", "probe:wifi", "tag:berlin", "group:wifi", "tag:all"] {
            assert!(!is_selected(word, Some(&berlin)), "{word}");
        }
        assert!(!is_selected("wifi", None));
    }

    #[test]
    fn an_exclusion_wins_and_alone_means_everybody_else() {
        let berlin = setting(Some("berlin"), &["wifi"]);
        assert!(!is_selected("all !tag:wifi", Some(&berlin)));
        assert!(!is_selected("!berlin,lab-1", Some(&berlin)));
        assert!(is_selected("!tag:wifi", None));
        assert!(!is_selected("!lab-1", None));
    }

    #[test]
    fn a_bad_word_is_named_in_the_error() {
        assert_eq!(
            parse("site:berlin"),
            Err(SelectorError::UnknownPlace { word: "site:berlin".into(), place: "site".into() })
        );
        assert_eq!(parse("tag:"), Err(SelectorError::Empty { word: "tag:".into() }));
        assert_eq!(parse("!"), Err(SelectorError::Empty { word: "!".into() }));
        assert!(matches!(parse(&"x".repeat(65)), Err(SelectorError::TooLong { .. })));
        assert!(matches!(parse(&"a ".repeat(33)), Err(SelectorError::TooMany { count: 33 })));
        assert!(check(&Selector(vec!["a\u{7}b".into()])).is_err());
        // What cannot be read selects nobody.
        let unread = Selector(vec!["site:berlin".into()]);
        assert!(!selects(&unread, Probe { client_id: "p1", name: "p1" }, None));
    }

    #[test]
    fn a_tag_is_what_a_selector_can_name() {
        assert!(check_tags(&["wifi".into(), "büro-3".into()]).is_ok());
        for bad in ["", "two words", "a,b", "!x", "all", "\n"] {
            assert!(check_tag(bad).is_err(), "{bad:?}");
        }
        assert!(matches!(check_tags(&vec!["a".into(); 33]), Err(TagError::TooMany { count: 33 })));
    }

    fn target(url: &str, probes: &str) -> Target {
        Target {
            probes: parse(probes).expect("a selector"),
            ..Target::usual(TargetId::parse(url).expect("an id"), url.to_owned(), 0)
        }
    }

    #[test]
    fn a_probe_gets_its_enabled_targets_and_none_while_it_is_off() {
        let mut off = target("icmp://c", "all");
        off.enabled = false;
        let targets = [target("icmp://a", ""), target("icmp://b", "tag:wifi"), off];
        let urls = |settings: &[ProbeSetting]| -> Vec<String> {
            orders(settings, &targets, Probe { client_id: "p1", name: "lab-1" })
                .into_iter()
                .map(|target| target.url)
                .collect()
        };
        assert_eq!(urls(&[]), ["icmp://a"]);
        assert_eq!(urls(&[setting(None, &["wifi"])]), ["icmp://a", "icmp://b"]);
        assert!(urls(&[ProbeSetting { enabled: false, ..setting(None, &["wifi"]) }]).is_empty());
    }

    fn machines(count: usize) -> Vec<(ClientId, SocketAddr)> {
        (0..count)
            .map(|n| {
                let id = ClientId::parse(&format!("machine-{n}")).expect("an id");
                (id, SocketAddr::from(([192, 0, 2, 1], u16::try_from(n).expect("few"))))
            })
            .collect()
    }

    #[test]
    fn every_machine_of_many_is_measured_by_somebody_and_none_measures_itself() {
        for count in [1, 2, 3, 40, 200] {
            let all = machines(count);
            for most in [1, 2, 32] {
                let mut measured = vec![0; count];
                for (n, (own, _)) in all.iter().enumerate() {
                    let chosen = mesh(own, &all, most);
                    assert_eq!(chosen.len(), most.min(count - 1));
                    assert!(!chosen.contains(&n), "itself");
                    chosen.iter().for_each(|index| measured[*index] += 1);
                }
                assert!(
                    count == 1 || measured.iter().all(|times| *times > 0),
                    "{count} machines, {most} each"
                );
            }
        }
    }

    #[test]
    fn one_machine_more_changes_few_choices() {
        let (before, after) = (machines(100), machines(101));
        let names = |list: &[(ClientId, SocketAddr)], chosen: Vec<usize>| -> Vec<ClientId> {
            chosen.into_iter().map(|index| list[index].0.clone()).collect()
        };
        for (own, _) in &before {
            let was = names(&before, mesh(own, &before, MESH_MOST));
            let is = names(&after, mesh(own, &after, MESH_MOST));
            let kept = was.iter().filter(|id| is.contains(id)).count();
            assert!(kept >= MESH_MOST - 2, "{own} kept {kept}");
        }
    }

    #[test]
    fn the_order_in_which_machines_are_listed_does_not_matter() {
        let all = machines(60);
        let mut turned = all.clone();
        turned.reverse();
        turned.extend_from_slice(&all[..5]);
        let own = &all[7].0;
        let mut a: Vec<&ClientId> = mesh(own, &all, 8).into_iter().map(|index| &all[index].0).collect();
        let mut b: Vec<&ClientId> = mesh(own, &turned, 8).into_iter().map(|index| &turned[index].0).collect();
        a.sort();
        b.sort();
        assert_eq!(a, b);
    }
}
