//! What `caelum doctor` thinks of what it found: facts in, findings out. Nothing here looks at anything.

pub mod backends;

use caelum_model::UnixMs;
use serde::Serialize;

const DAY_MS: i64 = 86_400_000;
/// Free space below which a warning is due, and below which nothing can be kept any more, bytes.
const SPACE_WARNING: u64 = 1 << 30;
const SPACE_FAULT: u64 = 64 << 20;
/// Open files that a server with many nodes needs.
const OPEN_FILES_MIN: u64 = 4_096;
/// A clock that is further off than this is worth a warning, ms.
const CLOCK_WARNING_MS: i64 = 5_000;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// It will hurt.
    Warning,
    /// It hurts.
    Fault,
}

impl Grade {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: String,
    /// How it is.
    pub level: Grade,
    /// What was found.
    pub what: String,
    /// What to do; none where nothing is to be done.
    pub remedy: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn ok(subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self { subject: subject.into(), level: Grade::Ok, what: what.into(), remedy: None }
    }

    /// Something to know or to do.
    pub fn new(
        level: Grade,
        subject: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { subject: subject.into(), level, what: what.into(), remedy: Some(remedy.into()) }
    }
}

/// A process that has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub pid: u32,
    /// Its program.
    pub program: String,
}

/// How a port fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// It can be had.
    Free,
    /// Somebody has it; who may be hidden from this user.
    Held(Option<Holder>),
    /// It cannot be had for another reason.
    Refused(String),
}

/// A port that the settings name. `own` is the process of the server that runs on the same data.
pub fn port(subject: &str, setting: &str, port: &Port, own: Option<u32>) -> Finding {
    match port {
        Port::Free => Finding::ok(subject, "free"),
        Port::Held(Some(holder)) if Some(holder.pid) == own => {
            Finding::ok(subject, format!("held by the running Caelum (pid {})", holder.pid))
        }
        Port::Held(holder) => {
            let (who, look) = match holder {
                Some(Holder { pid, program }) => {
                    (format!("held by {program} (pid {pid})"), format!("end it with `kill {pid}`"))
                }
                None => (
                    "held by a process that this user may not look into".to_owned(),
                    "run this as root to learn which".to_owned(),
                ),
            };
            Finding::new(Grade::Fault, subject, who, format!("{look}, or set another port with {setting}"))
        }
        Port::Refused(why) => Finding::new(
            Grade::Fault,
            subject,
            format!("cannot be had: {why}"),
            format!("name an address and port of this machine with {setting}"),
        ),
    }
}

/// A certificate; `warn_days` before its end something is wrong with its renewal.
pub fn certificate(
    name: &str,
    expires_at_ms: Result<UnixMs, String>,
    now_ms: UnixMs,
    warn_days: i64,
) -> Finding {
    let subject = format!("certificate {name}");
    match expires_at_ms {
        Err(why) => Finding::new(
            Grade::Fault,
            subject,
            format!("cannot be read: {why}"),
            "restore secrets/ from a backup",
        ),
        Ok(at_ms) if at_ms <= now_ms => Finding::new(
            Grade::Fault,
            subject,
            format!("expired {} days ago", (now_ms - at_ms) / DAY_MS),
            "start Caelum: it renews what it can; a node that was away too long joins again with `caelum join`",
        ),
        Ok(at_ms) => {
            let days = (at_ms - now_ms) / DAY_MS;
            let what = format!("valid for {days} more days");
            match days < warn_days {
                true => Finding::new(
                    Grade::Warning,
                    subject,
                    what,
                    "keep Caelum running: it renews its certificates in time",
                ),
                false => Finding::ok(subject, what),
            }
        }
    }
}

/// Whether what an interface sends to a group comes back on it. `None` where it did not in time.
pub fn multicast(interface: &str, is_loopback: bool, heard: &Result<bool, String>) -> Finding {
    let subject = format!("multicast on {interface}");
    match heard {
        Ok(true) => Finding::ok(subject, "a datagram to the group is heard"),
        Ok(false) => Finding::new(
            Grade::Warning,
            subject,
            "a datagram to the group is not heard",
            "let the firewall pass UDP to 239.255.43.21, or name machines in beacon.targets",
        ),
        Err(why) if is_loopback => {
            Finding { remedy: None, ..Finding::new(Grade::Note, subject, format!("not possible: {why}"), "") }
        }
        Err(why) => Finding::new(
            Grade::Warning,
            subject,
            format!("not possible: {why}"),
            format!("`ip link set {interface} multicast on`, or name machines in beacon.targets"),
        ),
    }
}

/// A machine that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The name it gives itself.
    pub name: String,
    /// Where its answer came from.
    pub address: String,
    /// From the question to the answer, ms; machines wait up to half a second on purpose.
    pub after_ms: i64,
    /// What its clock said, as it wrote it.
    pub timestamp: String,
    /// What our clock said when the answer came.
    pub heard_at_ms: UnixMs,
}

/// Who answered a question to everybody.
pub fn answers(answers: &[Answer]) -> Vec<Finding> {
    if answers.is_empty() {
        return vec![Finding::new(
            Grade::Note,
            "machines",
            "nobody answered a beacon within two seconds",
            "on the other machine: is `caelum up` running, and does its firewall let UDP 8181 in?",
        )];
    }
    let finding = |answer: &Answer| {
        let subject = format!("machine {}", answer.name);
        let offset_ms = read_iso(&answer.timestamp).map(|at_ms| at_ms - answer.heard_at_ms);
        let what = format!("{} answered after {} ms; {}", answer.address, answer.after_ms, clock(offset_ms));
        match offset_ms {
            Some(offset_ms) if offset_ms.abs() > CLOCK_WARNING_MS => Finding::new(
                Grade::Warning,
                subject,
                what,
                "synchronise the clocks of both machines: `timedatectl set-ntp true`",
            ),
            _ => Finding::ok(subject, what),
        }
    };
    answers.iter().map(finding).collect()
}

fn clock(offset_ms: Option<i64>) -> String {
    match offset_ms {
        None => "its clock is not known".to_owned(),
        Some(ms) => {
            let side = if ms < 0 { "behind" } else { "ahead" };
            format!("clock {:.1} s {side}", ms.unsigned_abs() as f64 / 1000.0)
        }
    }
}

/// `2026-01-31T23:59:59.999+00:00` or with `Z`, as milliseconds since 1970; for looking at only.
pub fn read_iso(text: &str) -> Option<UnixMs> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        digits.parse().ok()
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(19..)?;
    let digits = rest.strip_prefix('.').map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    let milli = match digits {
        0 => 0,
        _ => format!("{:0<3}", &rest[1..=digits.min(3)]).parse::<i64>().ok()?,
    };
    let zone = rest.get(if digits == 0 { 0 } else { digits + 1 }..)?;
    let offset_min = match zone.as_bytes() {
        [] | [b'Z'] => 0,
        [sign @ (b'+' | b'-'), ..] if zone.len() == 6 && zone.is_ascii() => {
            let minutes = zone[1..3].parse::<i64>().ok()? * 60 + zone[4..6].parse::<i64>().ok()?;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    // The year is taken to begin in March, so that the leap day is its last.
    let shifted = year - i64::from(month <= 2);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * DAY_MS + ((hour * 60 + minute - offset_min) * 60 + second) * 1_000 + milli)
}

/// Free space where the data is.
pub fn space(free_bytes: u64) -> Finding {
    let what = format!("{} MiB free", free_bytes >> 20);
    let remedy = "make room, or move the data directory with --data";
    match free_bytes {
        ..SPACE_FAULT => Finding::new(Grade::Fault, "disk space", what, remedy),
        SPACE_FAULT..SPACE_WARNING => Finding::new(Grade::Warning, "disk space", what, remedy),
        _ => Finding::ok("disk space", what),
    }
}

/// Who may read the data directory.
pub fn privacy(folder: &str, mode: u32) -> Finding {
    match mode & 0o077 {
        0 => Finding::ok("data directory", format!("{folder}, its owner's only")),
        _ => Finding::new(
            Grade::Fault,
            "data directory",
            format!("others may look into {folder} (mode {:o})", mode & 0o777),
            format!("chmod 700 {folder}"),
        ),
    }
}

/// What the kernel says of its own clock; none where it does not say.
pub fn own_clock(is_synchronised: Option<bool>) -> Finding {
    match is_synchronised {
        Some(true) => Finding::ok("clock", "synchronised"),
        Some(false) => Finding::new(
            Grade::Note,
            "clock",
            "the kernel says that nothing keeps it right",
            "`timedatectl set-ntp true`, or run chronyd; Caelum compares no clocks, but its times are this clock's",
        ),
        None => Finding::ok("clock", "this system does not say whether it is synchronised"),
    }
}

/// Whether this user may ping.
pub fn ping(refused: Option<String>) -> Finding {
    match refused {
        None => Finding::ok("ping", "permitted"),
        Some(why) => Finding::new(
            Grade::Note,
            "ping",
            why,
            "`sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"`, or measure tcp:// targets instead of icmp://",
        ),
    }
}

/// How many files this process may open.
pub fn open_files(limit: u64) -> Finding {
    match limit < OPEN_FILES_MIN {
        true => Finding::new(
            Grade::Warning,
            "open files",
            format!("{limit} at most"),
            format!(
                "`ulimit -n {OPEN_FILES_MIN}` before the start, or LimitNOFILE={OPEN_FILES_MIN} in the unit"
            ),
        ),
        false => Finding::ok("open files", format!("{limit} at most")),
    }
}

/// What opens the ports of Caelum, for each firewall program that is there.
pub fn firewall(programs: &[&str], tcp: u16, udp: u16) -> Vec<Finding> {
    let lines = |program: &str| match program {
        "ufw" => Some(format!("ufw allow {tcp}/tcp && ufw allow {udp}/udp")),
        "firewall-cmd" => Some(format!(
            "firewall-cmd --permanent --add-port={tcp}/tcp --add-port={udp}/udp && firewall-cmd --reload"
        )),
        "nft" => Some(format!(
            "nft add rule inet filter input tcp dport {tcp} accept && nft add rule inet filter input udp dport {udp} accept"
        )),
        "iptables" => Some(format!(
            "iptables -I INPUT -p tcp --dport {tcp} -j ACCEPT && iptables -I INPUT -p udp --dport {udp} -j ACCEPT"
        )),
        _ => None,
    };
    let findings: Vec<Finding> = programs
        .iter()
        .filter_map(|program| {
            let remedy = format!("if other machines cannot reach this one: {}", lines(program)?);
            Some(Finding::new(Grade::Note, "firewall", format!("{program} is here"), remedy))
        })
        .collect();
    match findings.is_empty() {
        true => vec![Finding::ok("firewall", "no firewall program is here")],
        false => findings,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_fine_when_free_or_our_own_and_its_other_holder_is_named() {
        let held = |pid| Port::Held(Some(Holder { pid, program: "nginx".to_owned() }));
        assert_eq!(port("8080/tcp", "server.listen", &Port::Free, None).level, Grade::Ok);
        assert_eq!(port("8080/tcp", "server.listen", &held(7), Some(7)).level, Grade::Ok);
        let taken = port("8080/tcp", "server.listen", &held(8), Some(7));
        assert_eq!((taken.level, taken.what.as_str()), (Grade::Fault, "held by nginx (pid 8)"));
        assert!(taken.remedy.expect("one").contains("server.listen"));
        assert_eq!(port("8080/tcp", "server.listen", &Port::Held(None), Some(7)).level, Grade::Fault);
    }

    #[test]
    fn a_certificate_is_worse_the_nearer_its_end_is() {
        let level = |at: Result<i64, String>| certificate("node", at, 100 * DAY_MS, 2).level;
        assert_eq!(level(Ok(103 * DAY_MS)), Grade::Ok);
        assert_eq!(level(Ok(101 * DAY_MS)), Grade::Warning);
        assert_eq!(level(Ok(100 * DAY_MS)), Grade::Fault);
        assert_eq!(level(Err("no".to_owned())), Grade::Fault);
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        for at_ms in [0, 1, 951_782_399_999, 951_868_800_000, 1_795_242_994_877, -1] {
            assert_eq!(read_iso(&crate::timestamp::iso(at_ms)), Some(at_ms));
        }
        assert_eq!(read_iso("1970-01-01T02:00:00.5+02:00"), Some(500));
        assert_eq!(read_iso("1970-01-01T00:00:01Z"), Some(1_000));
        assert_eq!(read_iso("1970-01-01T00:00:01.123456"), Some(1_123));
        for wrong in ["", "now", "1970-13-01T00:00:00Z", "1970-01-01T00:00:00.€", "1970-01-01T00:00:00+0"] {
            assert_eq!(read_iso(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_clock_that_is_far_off_is_said_and_none_is_no_fault() {
        let answer = |timestamp: &str| Answer {
            name: "a".to_owned(),
            address: "10.0.0.1".to_owned(),
            after_ms: 3,
            timestamp: timestamp.to_owned(),
            heard_at_ms: 0,
        };
        let of = |timestamp| answers(&[answer(timestamp)]).remove(0);
        assert!(of("1970-01-01T00:00:01.200Z").what.ends_with("clock 1.2 s ahead"));
        assert_eq!(of("1969-12-31T23:59:50Z").level, Grade::Warning);
        assert_eq!(of("?").level, Grade::Ok);
        assert_eq!(answers(&[])[0].level, Grade::Note);
    }

    #[test]
    fn limits_are_judged_at_their_edges() {
        assert_eq!(space(SPACE_FAULT - 1).level, Grade::Fault);
        assert_eq!(space(SPACE_FAULT).level, Grade::Warning);
        assert_eq!(space(SPACE_WARNING).level, Grade::Ok);
        assert_eq!(open_files(OPEN_FILES_MIN - 1).level, Grade::Warning);
        assert_eq!(open_files(OPEN_FILES_MIN).level, Grade::Ok);
        assert_eq!(privacy("/d", 0o40_700).level, Grade::Ok);
        assert_eq!(privacy("/d", 0o40_750).level, Grade::Fault);
    }

    #[test]
    fn every_firewall_is_opened_for_the_ports_in_use() {
        let findings = firewall(&["ufw", "firewall-cmd", "nft", "iptables", "other"], 81, 82);
        assert_eq!(findings.len(), 4);
        for finding in findings {
            let remedy = finding.remedy.expect("one");
            assert!(remedy.contains("81") && remedy.contains("82"), "{remedy}");
        }
        assert_eq!(firewall(&[], 81, 82)[0].level, Grade::Ok);
    }
}
