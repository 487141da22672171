//! What is thought of the servers that hold the records and the events: whether they answer, let us in, and
//! are as they should be. Each finding says what to do.

use super::{Finding, Grade};

/// A database that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Which and where, such as `PostgreSQL 15.8 at 10.0.0.5:5432/caelum`.
    pub what: String,
    /// Whether it is too old to be relied on.
    pub is_too_old: bool,
    /// Its schema.
    pub schema: u32,
    /// The newest schema that this version knows.
    pub known_schema: u32,
    /// Whether it takes writes.
    pub is_primary: bool,
    /// What is wrong in it.
    pub complaints: Vec<String>,
    /// Replicas that cannot be reached, each with its reason.
    pub lost_replicas: Vec<String>,
}

/// A server that does not do what is asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was tried and what was answered.
    pub what: String,
    /// Whether it may do so later, as one that is just starting.
    pub is_away: bool,
}

/// The records.
pub fn database(found: Result<Database, Refusal>) -> Vec<Finding> {
    let found = match found {
        Ok(found) => found,
        Err(refusal) => {
            let remedy = database_remedy(&refusal);
            return vec![Finding::new(Grade::Fault, "store", refusal.what, remedy)];
        }
    };
    let Database { what, schema, known_schema, .. } = &found;
    let mut findings = Vec::new();
    let mut is_fine = true;
    let mut add = |level, what: String, remedy: &str| {
        is_fine = is_fine && level < Grade::Warning;
        findings.push(Finding::new(level, "store", what, remedy));
    };
    if found.is_too_old {
        add(
            Grade::Warning,
            format!("{what} is too old to be relied on"),
            "upgrade PostgreSQL to 13 or newer",
        );
    }
    if !found.is_primary {
        add(
            Grade::Fault,
            format!("{what} only reads"),
            "name the server that takes writes in server.store, or promote this one",
        );
    }
    if schema > known_schema {
        add(
            Grade::Fault,
            format!("its schema is {schema}, and this version knows {known_schema}"),
            "run the newer version of Caelum that wrote it",
        );
    } else if schema < known_schema {
        add(
            Grade::Note,
            format!("its schema is {schema}, and this version makes it {known_schema}"),
            "`caelum db migrate` now, or let the next start do it",
        );
    }
    for complaint in &found.complaints {
        add(
            Grade::Fault,
            complaint.clone(),
            "`caelum db check` shows all of it; restore what is broken from a backup",
        );
    }
    for replica in &found.lost_replicas {
        add(
            Grade::Warning,
            format!("a replica is lost: {replica}"),
            "start it, or take it out of server.store",
        );
    }
    if is_fine {
        findings.insert(0, Finding::ok("store", format!("{what} answers and is whole")));
    }
    findings
}

fn database_remedy(refusal: &Refusal) -> &'static str {
    let says = |text: &str| refusal.what.contains(text);
    if says("password authentication failed") || says("password missing") || says("no password") {
        "correct the user and the password in server.store"
    } else if says("pg_hba.conf") {
        "let this host in with a line in the server's pg_hba.conf, then `select pg_reload_conf()` there"
    } else if says("does not exist") {
        "make it with `createdb` and `createuser` there, or correct server.store"
    } else if says("certificate") || says("TLS") || says("SSL") {
        "name the server's authority with sslrootcert=FILE in server.store, or correct sslmode"
    } else if refusal.is_away {
        "start PostgreSQL there, let the firewall pass to its port, or correct the address in server.store"
    } else {
        "correct server.store, or look into the log of PostgreSQL"
    }
}

/// A stream of events that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Its name and where it is.
    pub what: String,
    /// Records in it.
    pub records: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes that it may hold; none where nothing bounds it.
    pub max_bytes: Option<u64>,
    /// Servers that keep it.
    pub replicas: usize,
    /// Why events would be lost or doubled in it.
    pub complaint: Option<String>,
}

/// The servers of the event stream, and the stream; none where it was not made yet.
pub fn stream(place: &str, found: Result<Option<Stream>, Refusal>) -> Vec<Finding> {
    let stream = match found {
        Err(refusal) => {
            let remedy = stream_remedy(&refusal);
            return vec![Finding::new(Grade::Fault, "queue", refusal.what, remedy)];
        }
        Ok(None) => {
            let what = format!("NATS at {place} answers, and has no stream of events yet");
            return vec![Finding::new(Grade::Note, "queue", what, "the first start of a server makes it")];
        }
        Ok(Some(stream)) => stream,
    };
    let mut findings = Vec::new();
    if let Some(complaint) = &stream.complaint {
        let what = format!("{}: {complaint}", stream.what);
        let remedy = "correct the stream or the settings as it says; events would be lost or counted twice";
        findings.push(Finding::new(Grade::Fault, "queue", what, remedy));
    }
    if let Some(max_bytes) = stream.max_bytes
        && stream.bytes >= max_bytes / 10 * 9
    {
        let what =
            format!("{} is nearly full: {} of {} MiB", stream.what, stream.bytes >> 20, max_bytes >> 20);
        let remedy = "start more aggregators (`caelum pipeline` shows which partitions lag), or give the stream \
                      more bytes with the tools of NATS";
        findings.push(Finding::new(Grade::Warning, "queue", what, remedy));
    }
    if findings.is_empty() {
        let what =
            format!("{} answers; {} records in {} KiB", stream.what, stream.records, stream.bytes >> 10);
        findings.push(Finding::ok("queue", what));
    }
    if stream.replicas < 2 {
        findings.push(Finding::new(
            Grade::Note,
            "queue",
            format!("{} is on one server, which writes to its disk lazily", stream.what),
            "three servers of NATS and replicas=3 in server.queue keep it when a machine is lost",
        ));
    }
    findings
}

fn stream_remedy(refusal: &Refusal) -> &'static str {
    let says = |text: &str| refusal.what.contains(text);
    if says("let us in") {
        "correct the login in server.queue"
    } else if says("?ca=") || says("certificate") {
        "name the server's authority with ?ca=FILE.pem in server.queue"
    } else if refusal.is_away {
        "start NATS there, let the firewall pass to its port, or correct the address in server.queue"
    } else {
        "set up NATS as it says (JetStream on, 2.9 or newer), or correct server.queue"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Database {
        Database {
            what: "PostgreSQL 15 at a:5432/c".to_owned(),
            is_too_old: false,
            schema: 20,
            known_schema: 20,
            is_primary: true,
            complaints: Vec::new(),
            lost_replicas: Vec::new(),
        }
    }

    fn refusal(what: &str, is_away: bool) -> Refusal {
        Refusal { what: what.to_owned(), is_away }
    }

    #[test]
    fn a_sound_database_is_one_good_finding_and_each_fault_is_one_with_its_remedy() {
        let found = database(Ok(sound()));
        assert_eq!(found.iter().map(|finding| finding.level).collect::<Vec<_>>(), [Grade::Ok]);
        let sick = Database {
            is_primary: false,
            schema: 21,
            complaints: vec!["a table is missing".to_owned()],
            lost_replicas: vec!["b:5432: connection refused".to_owned()],
            ..sound()
        };
        let found = database(Ok(sick));
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found.iter().all(|finding| finding.level > Grade::Note && finding.remedy.is_some()));
        let older = database(Ok(Database { schema: 19, ..sound() }));
        let levels: Vec<Grade> = older.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Grade::Ok, Grade::Note]);
    }

    #[test]
    fn what_a_database_refuses_leads_to_the_remedy_for_that() {
        for (what, is_away, word) in [
            ("db error: FATAL: password authentication failed for user \"c\"", false, "password"),
            ("no pg_hba.conf entry for host", false, "pg_hba.conf"),
            ("database \"c\" does not exist", false, "createdb"),
            ("invalid peer certificate: UnknownIssuer", false, "sslrootcert"),
            ("connection refused", true, "start PostgreSQL"),
            ("something else", false, "server.store"),
        ] {
            let found = database(Err(refusal(what, is_away)));
            assert_eq!(found[0].level, Grade::Fault);
            assert!(found[0].remedy.as_deref().is_some_and(|remedy| remedy.contains(word)), "{found:?}");
        }
    }

    #[test]
    fn a_stream_is_judged_by_its_room_its_replicas_and_what_is_wrong_with_it() {
        let sound = Stream {
            what: "the stream EVENTS at a:4222".to_owned(),
            records: 3,
            bytes: 89,
            max_bytes: Some(100),
            replicas: 3,
            complaint: None,
        };
        let levels = |stream: Stream| -> Vec<Grade> {
            super::stream("a:4222", Ok(Some(stream))).iter().map(|finding| finding.level).collect()
        };
        assert_eq!(levels(sound.clone()), [Grade::Ok]);
        assert_eq!(levels(Stream { bytes: 90, ..sound.clone() }), [Grade::Warning]);
        assert_eq!(levels(Stream { replicas: 1, ..sound.clone() }), [Grade::Ok, Grade::Note]);
        assert_eq!(levels(Stream { complaint: Some("no".to_owned()), ..sound }), [Grade::Fault]);
        assert_eq!(stream("a", Ok(None))[0].level, Grade::Note);
    }

    #[test]
    fn what_the_stream_s_servers_refuse_leads_to_the_remedy_for_that() {
        for (what, is_away, word) in [
            ("it does not let us in (authorization violation)", true, "login"),
            ("IO error; name its authority with ?ca=FILE.pem", true, "?ca="),
            ("it does not answer", true, "start NATS"),
            ("JetStream is not enabled there", false, "JetStream"),
        ] {
            let found = stream("a", Err(refusal(what, is_away)));
            assert!(found[0].remedy.as_deref().is_some_and(|remedy| remedy.contains(word)), "{found:?}");
        }
    }
}
