//! Promises about keys of hosts, and about hosts without an agent.

use caelum_model::{
    id::NodeId,
    ssh::{KeyOrigin, KnownHost, SshHost},
};

use crate::{Records, promised};

fn known(host: &str, port: u16, key: &str, by: &str) -> KnownHost {
    KnownHost {
        host: host.into(),
        port,
        key: key.into(),
        origin: KeyOrigin::Accepted,
        by: by.into(),
        at_ms: 7,
    }
}

fn host(id: &str, name: &str) -> SshHost {
    SshHost {
        node_id: NodeId::parse(id).expect("valid"),
        name: name.into(),
        address: "192.0.2.7".into(),
        port: 2_222,
        user: Some("deploy".into()),
        tags: vec!["web".into(), "Köln".into()],
        added_by: "admin".into(),
        added_at_ms: 5,
    }
}

async fn a_host_has_the_keys_that_were_accepted_of_it_at_its_port(records: Records) {
    let store = &records.store;
    for one in [known("a", 22, "k1", "ada"), known("a", 22, "k2", "ada"), known("a", 2_222, "k1", "ada")] {
        store.put_known_host(one).await.expect("stored");
    }
    store.put_known_host(known("a", 22, "k1", "bob")).await.expect("said again");
    let keys = store.known_hosts_of("a", 22).await.expect("read");
    assert_eq!(keys, [known("a", 22, "k1", "bob"), known("a", 22, "k2", "ada")]);
    assert_eq!(store.known_hosts_of("b", 22).await.expect("read"), []);
    assert_eq!(store.known_hosts().await.expect("read").len(), 3);
}

async fn forgetting_a_key_leaves_the_others_and_forgetting_a_host_leaves_none(records: Records) {
    let store = &records.store;
    for one in [known("a", 22, "k1", "ada"), known("a", 22, "k2", "ada"), known("b", 22, "k1", "ada")] {
        store.put_known_host(one).await.expect("stored");
    }
    assert_eq!(store.forget_known_hosts("a", 22, Some("k1".into())).await.expect("forgotten"), 1);
    assert_eq!(store.known_hosts_of("a", 22).await.expect("read"), [known("a", 22, "k2", "ada")]);
    assert_eq!(store.forget_known_hosts("a", 22, None).await.expect("forgotten"), 1);
    assert_eq!(store.forget_known_hosts("a", 22, None).await.expect("nothing left"), 0);
    assert_eq!(store.known_hosts().await.expect("read"), [known("b", 22, "k1", "ada")]);
}

async fn of_two_hosts_of_one_name_the_second_is_not_added(records: Records) {
    let store = &records.store;
    assert!(store.add_ssh_host(host("h2", "web-2")).await.expect("added"));
    assert!(store.add_ssh_host(host("h1", "web-1")).await.expect("added"));
    assert!(!store.add_ssh_host(host("h3", "web-1")).await.expect("refused"));
    assert!(!store.add_ssh_host(host("h1", "web-3")).await.expect("refused"));
    let records = records.reopened().await;
    let store = &records.store;
    assert_eq!(store.ssh_hosts().await.expect("read"), [host("h1", "web-1"), host("h2", "web-2")]);
    assert!(store.remove_ssh_host(&host("h1", "web-1").node_id).await.expect("removed"));
    assert!(!store.remove_ssh_host(&host("h1", "web-1").node_id).await.expect("gone"));
    assert!(store.add_ssh_host(host("h4", "web-1")).await.expect("its name is free again"));
}

promised!(
    a_host_has_the_keys_that_were_accepted_of_it_at_its_port,
    forgetting_a_key_leaves_the_others_and_forgetting_a_host_leaves_none,
    of_two_hosts_of_one_name_the_second_is_not_added,
);
