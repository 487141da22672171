//! The lab does what its users rely on: hosts reach each other, and do not when they are cut off.

use std::{path::Path, time::Duration};

use caelum_testkit::{
    lab::{Host, Lab},
    wait,
};

fn reaches(from: &Host, to: &Host) -> bool {
    let script = format!("import socket;socket.create_connection(('{}',7000),0.3)", to.ip);
    from.run(Path::new("python3"), &["-c", &script]).expect("runs").status.success()
}

#[test]
fn hosts_reach_each_other_unless_they_are_cut_off_or_split() {
    let mut lab = Lab::new().expect("root");
    let (near, far) = (lab.network().expect("made"), lab.network().expect("made"));
    let (a, b, c) =
        (lab.host(&near).expect("made"), lab.host(&near).expect("made"), lab.host(&far).expect("made"));
    let folder = tempfile::tempdir().expect("made");
    let listen =
        "import socket;s=socket.create_server(('',7000));print('up',flush=True)\nwhile True:s.accept()";
    let servers: Vec<_> = [&b, &c]
        .iter()
        .map(|host| {
            host.start(Path::new("python3"), &["-c", listen], &host.ip, folder.path()).expect("starts")
        })
        .collect();
    for server in &servers {
        wait::until("it listens", Duration::from_secs(10), || server.output().contains("up").then_some(()));
    }
    assert!(reaches(&a, &b) && !reaches(&a, &c), "networks are apart");
    lab.route().expect("routed");
    // A host that asked in vain for its router's address asks again only after a while.
    wait::until("a router joins them", Duration::from_secs(10), || reaches(&a, &c).then_some(()));
    lab.cut(&b).expect("cut");
    assert!(!reaches(&a, &b));
    lab.join(&b).expect("joined");
    assert!(reaches(&a, &b));
    lab.split(std::slice::from_ref(&b)).expect("split");
    assert!(!reaches(&a, &b));
}
