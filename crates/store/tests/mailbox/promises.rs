//! The promises.

use caelum_engine::mailbox::{REQUEST_BYTES_MAX, SLOTS};

use crate::Place;

async fn what_a_machine_leaves_one_server_takes_and_answers(place: Place) {
    let Place { machine, one, other, .. } = &place;
    let hangs = one.hang_out("signA").await.expect("hung out");
    assert_eq!(hangs, "signA");
    assert_eq!(other.hang_out("signB").await.expect("asked"), "signA", "one hangs there already");
    assert_eq!(machine.sign().await.expect("asked").as_deref(), Some("signA"));
    assert!(machine.post(7, "a \"request\" ü").await.expect("left"));
    assert!(!machine.post(7, "another").await.expect("asked"), "the place is taken");
    assert_eq!(one.take(3, 8).await.expect("taken"), ["a \"request\" ü"]);
    assert!(other.take(3, 8).await.expect("asked").is_empty(), "it was taken");
    assert_eq!(machine.answer("r1").await.expect("asked"), None);
    one.reply("r1", "an answer").await.expect("left");
    for _ in 0..2 {
        assert_eq!(machine.answer("r1").await.expect("asked").as_deref(), Some("an answer"));
    }
    assert!(machine.post(7, "again").await.expect("left"), "the place is free again");
}

async fn of_many_servers_one_takes_a_request(place: Place) {
    place.one.hang_out("signA").await.expect("hung out");
    for slot in 0..20 {
        assert!(place.machine.post(slot, &format!("r{slot}")).await.expect("left"));
    }
    let mut takers = tokio::task::JoinSet::new();
    for number in 0..8 {
        let server = if number % 2 == 0 { &place.one } else { &place.other }.clone();
        takers.spawn(async move { server.take(number * 12, 20).await });
    }
    let mut all: Vec<String> =
        takers.join_all().await.into_iter().flat_map(|taken| taken.expect("taken")).collect();
    all.extend(place.one.take(0, 20).await.expect("taken"));
    all.sort_unstable();
    let before = all.len();
    all.dedup();
    assert_eq!((before, all.len()), (20, 20), "{all:?}");
}

async fn there_is_room_for_so_many_and_so_large_and_no_more(place: Place) {
    let Place { machine, one, .. } = &place;
    one.hang_out("signA").await.expect("hung out");
    let most = "x".repeat(REQUEST_BYTES_MAX);
    for slot in 0..SLOTS {
        assert!(machine.post(slot, &most).await.expect("left"), "{slot}");
    }
    assert!(!machine.post(5, "one more").await.expect("asked"));
    assert!(machine.post(SLOTS, "beside them").await.is_err());
    assert!(machine.post(0, &format!("{most}x")).await.is_err());
    assert_eq!(one.take(50, 8).await.expect("taken").len(), 8, "no more at once than is asked for");
    for bad in ["", "a b", "../x", &"x".repeat(65)] {
        assert!(machine.answer(bad).await.is_err() && one.reply(bad, "x").await.is_err(), "{bad}");
    }
}

macro_rules! promised {
    ($($backend:ident)+) => {
        $(mod $backend {
            use crate::Place;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn what_a_machine_leaves_one_server_takes_and_answers() {
                super::what_a_machine_leaves_one_server_takes_and_answers(Place::$backend().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn of_many_servers_one_takes_a_request() {
                super::of_many_servers_one_takes_a_request(Place::$backend().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn there_is_room_for_so_many_and_so_large_and_no_more() {
                super::there_is_room_for_so_many_and_so_large_and_no_more(Place::$backend().await).await;
            }
        })+
    };
}

promised!(postgres redis folder);
