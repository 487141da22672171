//! A full disk: nothing that was acknowledged is lost, what cannot be kept is refused, and room is enough to go on.

use std::{fs, path::Path, process::Command, time::Duration};

use caelum_testkit::{
    api::Api,
    event::{Numbered, USUAL, ndjson, now_ms},
    server::Plan,
    wait,
};

/// A small disk in memory, gone when it is dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(place: &'a Path, size: &str) -> Self {
        fs::create_dir_all(place).expect("made");
        let options = format!("size={size},mode=0700");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(place).status();
        assert!(mounted.is_ok_and(|status| status.success()), "this test mounts a small disk, as root");
        Self(place)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Its process is gone by now; a lazy unmount cannot be refused.
        drop(Command::new("umount").arg("--lazy").arg(self.0).status());
    }
}

fn batch(probe: &mut Numbered) -> Vec<u8> {
    let events: Vec<_> = (0..20).map(|_| probe.event("https://one.example/", now_ms(), USUAL)).collect();
    ndjson(&events)
}

async fn post(api: &Api, body: &[u8]) -> u16 {
    api.post_events("application/x-ndjson", body.to_vec()).await.map_or(0, |(status, _)| status)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_loses_nothing_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("disk");
    let disk = SmallDisk::mount(&place, "24m");
    let data = place.join("data");
    let mut server = Plan::new(env!("CARGO_BIN_EXE_caelum")).with_data(&data).start().expect("starts");
    let api = server.api().expect("the authority is there");
    let writer = api.with_token(&server.token("ingest").expect("made"));
    let reader = api.with_token(&server.token("read").expect("made"));
    let mut probe = Numbered::new("numbered-1", 7);
    let mut acknowledged = 0u64;
    for _ in 0..5 {
        assert_eq!(post(&writer, &batch(&mut probe)).await, 202);
        acknowledged += 20;
    }
    fs::write(place.join("filler"), vec![0; 64 << 20]).expect_err("the disk is smaller than that");
    let refused = wait::until_answered("events are refused", Duration::from_secs(30), async || {
        let body = batch(&mut probe);
        match post(&writer, &body).await {
            503 => Some(body),
            202 => {
                acknowledged += 20;
                None
            }
            other => panic!("answered with {other}"),
        }
    })
    .await;
    fs::remove_file(place.join("filler")).expect("removed");
    wait::until_answered("events are taken again", Duration::from_secs(30), async || {
        (post(&writer, &refused).await == 202).then_some(())
    })
    .await;
    acknowledged += 20;
    wait::until_answered("everything is counted", Duration::from_secs(60), async || {
        let rows = reader.json("/api/rollups?client_id=numbered-1&limit=500").await.ok()?;
        let counts = rows["rollups"].as_array()?.iter().filter_map(|row| row["count_total"].as_u64());
        (counts.sum::<u64>() == acknowledged).then_some(())
    })
    .await;
    server.stop(Duration::from_secs(20));
    drop(disk);
}
