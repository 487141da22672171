//! Settings given as flags.

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};

use crate::config::keys::{Field, KEYS, LONG_FLAGS, position};

/// Settings given as flags: one flag for each row of the table, made from it.
#[derive(Debug, Default)]
pub struct Overrides(pub Vec<(usize, String)>);

impl Args for Overrides {
    fn augment_args(command: clap::Command) -> clap::Command {
        let flags = KEYS.iter().zip(LONG_FLAGS.iter()).filter(|(key, _)| key.has_flag());
        let command = flags.fold(command, |command, (key, long)| {
            let mut flag = Arg::new(long.as_str())
                .long(long.as_str())
                .value_name(value_name(&key.field))
                .action(ArgAction::Set)
                .allow_hyphen_values(true)
                .hide_short_help(key.short_flag.is_none())
                .help_heading("Settings (see `caelum config reference`)")
                .help(key.text);
            if let Some(short) = key.short_flag.filter(|short| short != long) {
                flag = flag.visible_alias(short);
            }
            command.arg(flag)
        });
        let without = |name: &'static str, conflicting: &'static str, text: &'static str| {
            Arg::new(name).long(name).action(ArgAction::SetTrue).conflicts_with(conflicting).help(text)
        };
        command.arg(without("no-probe", "probe-enabled", "Do not measure the network")).arg(without(
            "no-worker",
            "worker-enabled",
            "Run no tasks",
        ))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut overrides = Self::default();
        overrides.update_from_arg_matches(matches)?;
        Ok(overrides)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for (at, key) in KEYS.iter().enumerate().filter(|(_, key)| key.has_flag()) {
            if let Some(value) = matches.get_one::<String>(&key.long_flag()) {
                self.0.push((at, value.clone()));
            }
        }
        if matches.get_flag("no-probe") {
            self.0.push((position("probe.enabled"), "false".to_owned()));
        }
        if matches.get_flag("no-worker") {
            self.0.push((position("worker.enabled"), "false".to_owned()));
        }
        Ok(())
    }
}

fn value_name(field: &Field) -> &'static str {
    match field {
        Field::Text { .. } | Field::MaybeText { .. } | Field::Secret { .. } => "TEXT",
        Field::Switch { .. } => "true|false",
        Field::Whole { .. } | Field::Decimal { .. } => "N",
        Field::Choice { .. } => "WORD",
        Field::Addresses { .. } => "ADDRESS:PORT,…",
        Field::Words { .. } => "TEXT,…",
        Field::Targets { .. } => "URL,…",
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{
        super::{Arguments, Command},
        *,
    };

    #[test]
    fn a_setting_is_given_by_its_flag_or_its_short_name() {
        for flag in ["--listen", "--server-listen"] {
            let arguments = Arguments::try_parse_from(["caelum", "up", flag, "127.0.0.1:1", "--no-probe"]);
            let Command::Up(up) = arguments.expect("parses").command else { panic!("is another command") };
            assert_eq!(
                up.overrides.0,
                [
                    (position("server.listen"), "127.0.0.1:1".to_owned()),
                    (position("probe.enabled"), "false".to_owned())
                ]
            );
        }
    }
}
