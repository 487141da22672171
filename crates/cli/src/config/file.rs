//! Reading the configuration file: every fault of it, each with its line.

use std::path::Path;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Fault, Origin,
    given::{Given, Item},
    keys, similar,
};

/// Understands the file as far as it can be and reports the rest.
pub fn read(path: &Path, text: &str, faults: &mut Vec<Fault>) -> Vec<Item> {
    let origin = |at: usize| Origin::File { path: path.to_owned(), line: line(text, at) };
    let (document, errors) = DeTable::parse_recoverable(text);
    faults.extend(errors.iter().map(|error| Fault {
        origin: origin(error.span().map_or(0, |span| span.start)),
        key: String::new(),
        what: format!("is not TOML: {}", error.message().replace('\n', "; ")),
    }));

    let mut items = Vec::new();
    for (section, value) in document.get_ref().iter() {
        let name = section.get_ref().as_ref();
        let at = section.span().start;
        let Some(table) = value.get_ref().as_table() else {
            let what = no_section(name, "is outside of a section");
            faults.push(Fault { origin: origin(at), key: name.to_owned(), what });
            continue;
        };
        if !keys::sections().contains(&name) {
            let what = no_section(name, "is not a section");
            faults.push(Fault { origin: origin(at), key: format!("[{name}]"), what });
            continue;
        }
        for (key, value) in table.iter() {
            let path = format!("{name}.{}", key.get_ref());
            let at = key.span().start;
            match keys::find(&path) {
                Some(key) => items.push(Item { key, origin: origin(at), given: given(text, value) }),
                None => {
                    let what = no_key(&path, name);
                    faults.push(Fault { origin: origin(at), key: path, what });
                }
            }
        }
    }
    items
}

fn no_section(name: &str, what: &str) -> String {
    let known: Vec<&str> = keys::KEYS.iter().filter(|key| key.name == name).map(|key| key.section).collect();
    match (similar::nearest(name, keys::sections()), known.as_slice()) {
        (_, [section, ..]) => format!("{what}; did you mean it to stand in [{section}]?"),
        (Some(near), []) => format!("{what}; did you mean [{near}]?"),
        (None, []) => format!("{what}; sections are {}", keys::sections().join(", ")),
    }
}

fn no_key(path: &str, section: &str) -> String {
    let name = path.split_once('.').map_or(path, |(_, name)| name);
    let inside: Vec<&str> =
        keys::KEYS.iter().filter(|key| key.section == section).map(|key| key.name).collect();
    if let Some(elsewhere) = keys::KEYS.iter().find(|key| key.name == name) {
        return format!("is not a setting; did you mean {}?", elsewhere.path());
    }
    match similar::nearest(name, inside.iter().copied()) {
        Some(near) => format!("is not a setting; did you mean {section}.{near}?"),
        None => format!("is not a setting; [{section}] has {}", inside.join(", ")),
    }
}

fn given(text: &str, value: &Spanned<DeValue<'_>>) -> Given {
    match value.get_ref() {
        DeValue::String(string) => Given::Text(string.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Given::Other("a number that is too large"), Given::Whole),
        DeValue::Float(number) => {
            number.as_str().parse().map_or(Given::Other("a number that cannot be read"), Given::Decimal)
        }
        DeValue::Boolean(on) => Given::Switch(*on),
        DeValue::Datetime(_) => Given::Other("a date"),
        DeValue::Array(list) => Given::List(
            list.iter().map(|member| (line(text, member.span().start), given(text, member))).collect(),
        ),
        DeValue::Table(table) => Given::Table(
            table
                .iter()
                .map(|(key, member)| {
                    (key.get_ref().to_string(), line(text, key.span().start), given(text, member))
                })
                .collect(),
        ),
    }
}

/// The line, from 1, of a position in the text.
fn line(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
}
