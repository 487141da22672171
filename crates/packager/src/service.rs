//! How the system starts Caelum: a systemd unit and a launchd property list, for packages and for
//! `caelum service install` alike.
//!
//! Both give it a user of its own and nothing it does not need. No capability: ICMP goes by the sockets that
//! Linux gives to everybody where `net.ipv4.ping_group_range` says so, as distributions set it.

use std::fmt::Write as _;

/// The system user that it runs as on Linux.
pub const USER: &str = "caelum";
/// Name of the systemd unit.
pub const UNIT: &str = "caelum.service";
/// The launchd label, which is also the name of its file.
pub const LABEL: &str = "io.caelum.node";

/// What is started, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Service<'a> {
    /// The command: `up`, `agent`, `beacon` or another role.
    pub command: &'a str,
    /// The program.
    pub program: &'a str,
    /// The configuration file.
    pub config: &'a str,
    /// The data directory.
    pub data: &'a str,
    /// The invitation that it joins by at its first start.
    pub join_file: Option<&'a str>,
    /// A file of `NAME=VALUE` lines for its environment; it need not be there.
    pub environment_file: Option<&'a str>,
    /// The user that it runs as.
    pub user: &'a str,
}

impl<'a> Service<'a> {
    /// The command line, word by word.
    pub fn words(&self) -> Vec<&'a str> {
        let mut words = vec![self.program, self.command, "--config", self.config, "--data", self.data];
        if let Some(file) = self.join_file {
            words.extend(["--join-file", file]);
        }
        words
    }
}

/// The unit as text.
pub fn systemd_unit(service: &Service<'_>) -> String {
    let words: Vec<String> = service.words().into_iter().map(systemd_word).collect();
    // systemd makes and opens /var/lib/NAME by itself; another place is only opened.
    let state = match service.data.strip_prefix("/var/lib/") {
        Some(name) if !name.is_empty() && !name.contains('/') => {
            format!("StateDirectory={}\nStateDirectoryMode=0700", systemd_path(name))
        }
        _ => format!("ReadWritePaths={}", systemd_path(service.data)),
    };
    let environment = service
        .environment_file
        .map_or_else(String::new, |file| format!("EnvironmentFile=-{}\n", systemd_path(file)));
    format!(
        "[Unit]
Description=Caelum {command}
Documentation=man:systemd.service(5)
Wants=network-online.target
After=network-online.target
# One that cannot start stays down for the operator to see, instead of trying for ever.
StartLimitIntervalSec=600
StartLimitBurst=20

[Service]
Type=notify
NotifyAccess=main
ExecStart={exec}
User={user}
Group={user}
{state}
{environment}Restart=always
RestartSec=3
# What cannot get better by itself: wrong arguments or settings.
RestartPreventExitStatus=2 3
TimeoutStartSec=90
# Tasks under way get 30 s to end.
TimeoutStopSec=45
WatchdogSec=60
UMask=0077
LimitNOFILE=65536

NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
",
        command = service.command,
        exec = words.join(" "),
        user = service.user,
    )
}

/// A word of `ExecStart`: what systemd would read as more than itself is escaped.
fn systemd_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=@+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '%' => quoted.push_str("%%"),
            '$' => quoted.push_str("$$"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A path in a setting that takes some, with white space between them.
fn systemd_path(path: &str) -> String {
    systemd_word(path).replace("$$", "$")
}

/// The property list as text.
pub fn launchd_plist(service: &Service<'_>, log: &str) -> String {
    let arguments: String =
        service.words().into_iter().map(|word| format!("\t\t<string>{}</string>\n", xml(word))).collect();
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>Label</key>
	<string>{LABEL}</string>
	<key>ProgramArguments</key>
	<array>
{arguments}	</array>
	<key>UserName</key>
	<string>{user}</string>
	<key>RunAtLoad</key>
	<true/>
	<key>KeepAlive</key>
	<true/>
	<key>ThrottleInterval</key>
	<integer>5</integer>
	<key>ExitTimeOut</key>
	<integer>45</integer>
	<key>Umask</key>
	<integer>63</integer>
	<key>ProcessType</key>
	<string>Background</string>
	<key>StandardErrorPath</key>
	<string>{log}</string>
	<key>StandardOutPath</key>
	<string>{log}</string>
</dict>
</plist>
"#,
        user = xml(service.user),
        log = xml(log),
    )
}

/// Text inside an XML element.
pub(crate) fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: Service<'_> = Service {
        command: "agent",
        program: "/usr/bin/caelum",
        config: "/etc/caelum/caelum.toml",
        data: "/var/lib/caelum",
        join_file: Some("/var/lib/caelum/join"),
        environment_file: None,
        user: USER,
    };

    #[test]
    fn a_unit_starts_the_command_as_its_own_user_with_nothing_to_spare() {
        let unit = systemd_unit(&SERVICE);
        for line in [
            "ExecStart=/usr/bin/caelum agent --config /etc/caelum/caelum.toml --data /var/lib/caelum --join-file \
             /var/lib/caelum/join",
            "User=caelum",
            "Type=notify",
            "StateDirectory=caelum",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "CapabilityBoundingSet=",
        ] {
            assert!(unit.lines().any(|found| found == line), "{line}\n{unit}");
        }
    }

    #[test]
    fn a_data_directory_of_ones_own_is_opened_for_writing() {
        let unit = systemd_unit(&Service { data: "/srv/my data", join_file: None, ..SERVICE });
        assert!(unit.contains("ReadWritePaths=\"/srv/my data\"\n") && !unit.contains("StateDirectory"));
        assert!(unit.contains("--data \"/srv/my data\"\n"), "{unit}");
    }

    #[test]
    fn no_path_ends_its_line_or_becomes_a_variable() {
        let word = systemd_word("/a\nExecStart=/bin/sh $HOME %n \"x\\");
        assert_eq!(word, "\"/a\\x0aExecStart=/bin/sh $$HOME %%n \\\"x\\\\\"");
        let list = launchd_plist(&Service { data: "</string>&", ..SERVICE }, "/log");
        assert!(list.contains("<string>&lt;/string&gt;&amp;</string>"));
    }
}
