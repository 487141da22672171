//! Promises about packages that were built.

use caelum_model::{
    cluster::NodeRole,
    package::{Package, PackageKind, Platform},
};

use crate::{Records, promised};

fn package(id: &str, built_at_ms: i64) -> Package {
    Package {
        package_id: id.into(),
        name: "caelum.deb".into(),
        node_name: Some("edge-1".into()),
        kind: PackageKind::Deb,
        role: NodeRole::Agent,
        platform: Platform::LinuxX86,
        token_id: "t1".into(),
        sha256: "ab".repeat(32),
        size_bytes: 7,
        built_at_ms,
        built_by: "ada".into(),
        expires_at_ms: 9,
    }
}

async fn packages_are_listed_newest_first_and_forgotten_one_by_one(records: Records) {
    let store = &records.store;
    for (id, at) in [("p-1", 1), ("p-2", 3), ("p-3", 2)] {
        store.add_package(package(id, at)).await.expect("written");
    }
    let records = records.reopened().await;
    let store = &records.store;
    let found = store.packages(2).await.expect("read");
    assert_eq!(found, [package("p-2", 3), package("p-3", 2)]);
    assert_eq!(store.package("p-1").await.expect("read"), Some(package("p-1", 1)));
    assert!(store.remove_package("p-1").await.expect("written"));
    assert!(!store.remove_package("p-1").await.expect("written"));
    assert_eq!(store.package("p-1").await.expect("read"), None);
    assert_eq!(store.packages(9).await.expect("read").len(), 2);
}

promised!(packages_are_listed_newest_first_and_forgotten_one_by_one);
