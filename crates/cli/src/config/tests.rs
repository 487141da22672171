//! What a file, the environment and flags make of each other.

use std::path::PathBuf;

use caelum_model::{
    config::{Config, Plaintext},
    target::Families,
};

use super::{
    Fault, Origin, Settings, Sources,
    environment::EARLIER,
    keys::{self, KEYS},
    reference, resolve,
};

fn with_file(text: &str) -> Sources {
    Sources { file: Some((PathBuf::from("c.toml"), text.to_owned())), ..Sources::default() }
}

fn with_environment(variables: &[(&str, &str)]) -> Sources {
    let environment =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sources { environment, ..Sources::default() }
}

fn holds(sources: &Sources) -> Settings {
    resolve(sources).unwrap_or_else(|faults| panic!("{faults}"))
}

fn faults(sources: &Sources) -> Vec<Fault> {
    resolve(sources).expect_err("has faults").0
}

#[test]
fn nothing_written_is_the_default() {
    assert_eq!(holds(&Sources::default()).config, Config::default());
}

#[test]
fn every_name_of_a_setting_is_its_own() {
    for (at, key) in KEYS.iter().enumerate() {
        assert_eq!(keys::find(&key.path()), Some(at));
        assert_eq!(KEYS.iter().position(|other| other.variable() == key.variable()), Some(at));
        assert_eq!(KEYS.iter().position(|other| other.long_flag() == key.long_flag()), Some(at));
    }
}

#[test]
fn sections_stand_together_in_the_table() {
    let sections = keys::sections();
    let mut sorted = sections.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), sections.len());
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_defaults() {
    let mut sources = with_file("[agent]\nsample_interval_s = 20\nhistory_hours = 2\nname = \"file\"\n");
    sources.environment = vec![
        ("CAELUM_AGENT_SAMPLE_INTERVAL_S".to_owned(), "30".to_owned()),
        ("CAELUM_AGENT_HISTORY_HOURS".to_owned(), "3".to_owned()),
    ];
    sources.flags = vec![(keys::position("agent.sample_interval_s"), "40".to_owned())];
    let settings = holds(&sources);
    let agent = &settings.config.agent;
    assert_eq!((agent.sample_interval_s, agent.history_hours, agent.name.as_deref()), (40, 3, Some("file")));
    let origin = |path| settings.origins[keys::position(path)].to_string();
    assert_eq!(origin("agent.sample_interval_s"), "--agent-sample-interval-s");
    assert_eq!(origin("agent.history_hours"), "CAELUM_AGENT_HISTORY_HOURS");
    assert_eq!(origin("agent.name"), "c.toml:4");
    assert_eq!(origin("probe.enabled"), "default");
}

#[test]
fn every_fault_is_said_at_once_with_its_line_and_key() {
    let mut sources = with_file(
        "[server]\nlitsen = [\"127.0.0.1:1\"]\n[agent]\nsample_interval_s = \"10\"\n[helth]\n\
         cpu_warning = 1\n[probe]\ninterval_s = 0\n",
    );
    sources.environment = vec![("CAELUM_TLS_PLAINTEXT".to_owned(), "maybe".to_owned())];
    sources.flags = vec![(keys::position("health.disk_warning"), "120".to_owned())];
    let said: Vec<String> = faults(&sources).iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "c.toml:2: server.litsen is not a setting; did you mean server.listen?",
            "c.toml:4: agent.sample_interval_s is text; allowed: a whole number from 1 to 3600 s",
            "c.toml:5: [helth] is not a section; did you mean [health]?",
            "c.toml:8: probe.interval_s is 0; allowed: a whole number from 1 to 86400 s",
            "CAELUM_TLS_PLAINTEXT: tls.plaintext is \"maybe\"; allowed: \"loopback\" or \"allow\"",
            "--health-disk-warning: health.disk_warning is 120; allowed: a number from 0 to 100 %",
        ]
    );
}

#[test]
fn what_is_not_toml_is_said_with_its_line_beside_the_other_faults() {
    let found = faults(&with_file("[server]\nlisten = [\n[agent]\nhistory_hours = \"x\"\n"));
    assert!(found.iter().any(|fault| fault.what.starts_with("is not TOML")), "{found:?}");
    assert!(found.iter().all(|fault| matches!(fault.origin, Origin::File { .. })), "{found:?}");
}

#[test]
fn a_key_in_the_wrong_place_is_shown_the_right_one() {
    let found = faults(&with_file("ttl_s = 100\n[server]\nplaintext = \"allow\"\n"));
    assert_eq!(
        found[0].to_string(),
        "c.toml:1: ttl_s is outside of a section; did you mean it to stand in [sessions]?"
    );
    assert_eq!(
        found[1].to_string(),
        "c.toml:3: server.plaintext is not a setting; did you mean tls.plaintext?"
    );
}

#[test]
fn targets_are_read_whole_and_each_fault_has_its_own_line() {
    let settings = holds(&with_file(
        "[probe]\n[[probe.targets]]\nurl = \"https://a.example/\"\nname = \"A\"\ninterval_s = 30\nfamilies = \"both\"\n\
         [[probe.targets]]\nurl = \"tcp://192.0.2.1:443\"\n",
    ));
    let targets = &settings.config.probe.targets;
    assert_eq!(targets.len(), 2);
    assert_eq!((targets[0].interval_s, targets[0].families), (Some(30), Families::Both));

    let found = faults(&with_file(
        "[[probe.targets]]\nurl = \"ftp://a\"\n[[probe.targets]]\nurl = \"tcp://host\"\nintervall_s = 3\n\
         [[probe.targets]]\nname = \"no url\"\n",
    ));
    let said: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said[0].starts_with("c.toml:2: probe.targets[0].url is \"ftp://a\": 'ftp' cannot"), "{said:?}");
    assert!(
        said[1].starts_with("c.toml:4: probe.targets[1].url is \"tcp://host\": a tcp target"),
        "{said:?}"
    );
    assert_eq!(
        said[2],
        "c.toml:5: probe.targets[1].intervall_s is no part of a target; did you mean interval_s?"
    );
    assert!(said[3].ends_with("probe.targets[2].url is missing; every target has one"), "{said:?}");
}

#[test]
fn lists_in_words_have_commas_between_their_members() {
    let settings = holds(&with_environment(&[
        ("CAELUM_SERVER_LISTEN", "127.0.0.1:1, [::1]:1"),
        ("CAELUM_PROBE_TARGETS", "https://a.example/,icmp://192.0.2.1"),
        ("CAELUM_PROBE_ENABLED", "off"),
        ("CAELUM_TLS_PLAINTEXT", "allow"),
    ]));
    assert_eq!(settings.config.server.listen.len(), 2);
    assert_eq!(settings.config.probe.targets[1].url, "icmp://192.0.2.1");
    assert!(!settings.config.probe.enabled);
    assert_eq!(settings.config.tls.plaintext, Plaintext::Allow);
}

#[test]
fn an_empty_variable_is_not_set_and_an_unknown_one_is_noted() {
    let settings = holds(&with_environment(&[
        ("CAELUM_AGENT_HISTORY_HOURS", ""),
        ("CAELUM_SERVER_LITSEN", "127.0.0.1:1"),
        ("CAELUM_SERVICE_HOST", "192.0.2.1"),
        ("CAELUM_TOKEN", "secret"),
    ]));
    assert_eq!(settings.config, Config::default());
    assert_eq!(
        settings.notes,
        [
            "CAELUM_SERVER_LITSEN is not a setting and has no effect; did you mean CAELUM_SERVER_LISTEN?",
            "CAELUM_SERVICE_HOST is not a setting and has no effect",
        ]
    );
}

#[test]
fn values_that_are_wrong_together_are_blamed_on_what_was_written() {
    let found = faults(&with_file("[health]\ncpu_warning = 96\n[tls]\nkey = \"/k.pem\"\n"));
    let said: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "c.toml:2: health.cpu_warning does not fit: a warning must not come after it is critical; \
             health.cpu_warning is 96.0 (c.toml:2), health.cpu_critical is 95.0 (default)",
            "c.toml:4: tls.key does not fit: a certificate and its key are given together; \
             tls.certificate is not set (default), tls.key is \"/k.pem\" (c.toml:4)",
        ]
    );
}

#[test]
fn a_secret_is_never_printed() {
    let mut sources = with_environment(&[("ARCHITECT_PASSWORD", "swordfish")]);
    let settings = holds(&sources);
    assert_eq!(settings.config.server.admin_password.as_deref(), Some("swordfish"));
    assert!(!reference::print(&settings, true).contains("swordfish"));
    assert!(!format!("{settings:?}").contains("swordfish"));
    sources.environment[0].1 = "short77".to_owned();
    let said = faults(&sources)[0].to_string();
    assert!(!said.contains("short77"), "{said}");
}

#[test]
fn a_target_that_cannot_be_measured_as_it_is_set_is_said_where_it_begins() {
    let written = "[[probe.targets]]\nurl = \"tcp://a:1\"\npackets = 20\n[[probe.targets]]\nurl = \"tcp://b:1\"\n\
                   template = \"moon\"\n[[probe.targets]]\nurl = \"tcp://c:1\"\nprobes = [\"site:x\"]\n";
    let said: Vec<String> = faults(&with_file(written)).iter().map(ToString::to_string).collect();
    assert!(said[0].contains("packets is for icmp and stamp targets"), "{said:?}");
    assert!(said[1].contains("template is \"moon\"; allowed: web, api"), "{said:?}");
    assert!(said[2].contains("looks in 'site'"), "{said:?}");
}

#[test]
fn what_is_printed_brings_the_same_about() {
    let written = "[server]\nlisten = [\"127.0.0.1:9000\"]\n[agent]\nname = \"a \\\"b\\\"\"\n[health]\nload_warning = 2.5\n\
                   [[probe.targets]]\nurl = \"https://a.example/\"\nfamilies = \"ipv6\"\ntemplate = \"web\"\n\
                   tags = [\"a\", \"b\"]\ngroup = \"berlin\"\nprobes = [\"!tag:wifi\"]\nobjective = \"300ms,99.9%,28d\"\n\
                   timeout_ms = 900\ntrace_every_s = 60\n";
    let settings = holds(&with_file(written));
    assert_eq!(holds(&with_file(&reference::print(&settings, false))).config, settings.config);
    assert_eq!(holds(&with_file(&reference::print(&settings, true))).config, settings.config);
}

#[test]
fn the_example_is_the_default_with_and_without_its_comment_signs() {
    let example = reference::example();
    assert_eq!(holds(&with_file(&example)).config, Config::default());
    let set: Vec<&str> = example
        .lines()
        .filter(|line| !line.starts_with("# ") && !line.contains("# not set"))
        .map(|line| line.strip_prefix('#').unwrap_or(line))
        .collect();
    let settings = holds(&with_file(&set.join("\n")));
    assert_eq!(settings.config, Config::default());
    let written = settings.origins.iter().filter(|origin| **origin != Origin::Default).count();
    let unset = example.lines().filter(|line| line.contains("# not set")).count();
    assert_eq!(written + unset, KEYS.len());
}

#[test]
fn the_document_is_what_the_program_prints() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let document = std::fs::read_to_string(path).expect("the document can be read");
    assert!(
        document == reference::document(),
        "docs/configuration.md is not what the program prints: cargo run -- config reference > docs/configuration.md"
    );
}

/// One test a row of the table of earlier names.
macro_rules! earlier {
    ($($test:ident: $name:literal = $value:literal => $expected:expr;)*) => {
        $(
            #[test]
            fn $test() {
                let settings = holds(&with_environment(&[($name, $value)]));
                let (path, shown) = $expected;
                let key = &KEYS[keys::position(path)];
                assert_eq!(key.field.show(&settings.config), shown);
                let note = format!("{} is understood; its name is now {}", $name, key.variable());
                assert_eq!(settings.notes, [note]);
            }
        )*

        #[test]
        fn every_row_of_earlier_names_has_its_test() {
            let tested = [$($name,)*];
            let rows: Vec<&str> = EARLIER.iter().map(|(name, _)| *name).collect();
            assert_eq!(rows, tested);
        }
    };
}

earlier! {
    architect_cpu_warning_is_understood: "ARCHITECT_CPU_WARNING" = "70" => ("health.cpu_warning", "70.0");
    architect_cpu_critical_is_understood: "ARCHITECT_CPU_CRITICAL" = "90" => ("health.cpu_critical", "90.0");
    architect_memory_warning_is_understood: "ARCHITECT_MEMORY_WARNING" = "70" => ("health.memory_warning", "70.0");
    architect_memory_critical_is_understood: "ARCHITECT_MEMORY_CRITICAL" = "90" => ("health.memory_critical", "90.0");
    architect_disk_warning_is_understood: "ARCHITECT_DISK_WARNING" = "70" => ("health.disk_warning", "70.0");
    architect_disk_critical_is_understood: "ARCHITECT_DISK_CRITICAL" = "85" => ("health.disk_critical", "85.0");
    architect_heartbeat_timeout_is_understood: "ARCHITECT_HEARTBEAT_TIMEOUT" = "60" => ("health.heartbeat_timeout_s", "60");
    architect_user_is_understood: "ARCHITECT_USER" = "root" => ("server.admin_name", "\"root\"");
    architect_password_is_understood_and_hidden: "ARCHITECT_PASSWORD" = "swordfish" => ("server.admin_password", "hidden");
    architect_dashboard_url_is_understood: "ARCHITECT_DASHBOARD_URL" = "http://192.0.2.1:8080" => ("agent.server", "\"http://192.0.2.1:8080\"");
    beacon_port_is_understood: "BEACON_PORT" = "8095" => ("server.listen", "[\"0.0.0.0:8095\", \"[::]:8095\"]");
}

#[test]
fn the_standard_name_of_a_collector_is_understood_without_a_word_and_yields_to_ours() {
    let standard = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
    let settings = holds(&with_environment(&[standard]));
    assert_eq!(settings.config.telemetry.otlp_url.as_deref(), Some("http://127.0.0.1:4318"));
    assert_eq!(settings.notes, Vec::<String>::new());
    let ours = ("CAELUM_TELEMETRY_OTLP_URL", "http://127.0.0.1:1");
    let settings = holds(&with_environment(&[ours, standard]));
    assert_eq!(settings.config.telemetry.otlp_url.as_deref(), Some("http://127.0.0.1:1"));
}

#[test]
fn an_earlier_name_yields_to_ours() {
    let settings =
        holds(&with_environment(&[("CAELUM_HEALTH_CPU_WARNING", "60"), ("ARCHITECT_CPU_WARNING", "70")]));
    assert_eq!(settings.config.health.cpu.warning, 60.0);
}
