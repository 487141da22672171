//! The promises.

use std::time::{Duration, Instant};

use caelum_testkit::{measure, wait};

use crate::{PATIENCE, Space};

const LONG: Duration = Duration::from_secs(3_600);

async fn what_one_server_writes_another_reads(space: Space) {
    let Space { one, other, .. } = &space;
    assert_eq!(one.get("server/a").await.expect("asked"), None);
    let version = one.put("server/a", "here \"I\" am ü", LONG).await.expect("stored");
    let kept = other.get("server/a").await.expect("asked").expect("lives");
    assert_eq!((kept.value.as_str(), kept.version), ("here \"I\" am ü", version));
    assert!(kept.lives_ms > 3_590_000 && kept.lives_ms <= 3_600_000, "{kept:?}");
    let later = other.put("server/a", "there", LONG).await.expect("stored");
    assert!(later > version, "{later} after {version}");
    other.delete("server/a").await.expect("removed");
    assert_eq!(one.get("server/a").await.expect("asked"), None);
    one.delete("server/a").await.expect("removing nothing is fine");
}

async fn a_list_has_the_keys_of_a_prefix_in_order_and_no_others(space: Space) {
    let Space { one, other, .. } = &space;
    for key in ["server/b", "server/a", "server*", "serve", "server/[c]", "session/a"] {
        one.put(key, key, LONG).await.expect("stored");
    }
    let keys = async |prefix: &str, limit| {
        let list = other.list(prefix, limit).await.expect("listed");
        assert!(list.iter().all(|kept| kept.key == kept.value));
        list.into_iter().map(|kept| kept.key).collect::<Vec<_>>()
    };
    assert_eq!(keys("server/", 10).await, ["server/[c]", "server/a", "server/b"]);
    assert_eq!(keys("server*", 10).await, ["server*"]);
    assert_eq!(keys("server/[", 10).await, ["server/[c]"]);
    assert_eq!(keys("server/", 2).await.len(), 2);
    assert!(keys("none", 10).await.is_empty());
}

async fn what_is_over_is_gone(space: Space) {
    let Space { one, other, .. } = &space;
    let begun = Instant::now();
    one.put("short", "x", Duration::from_millis(400)).await.expect("stored");
    one.put("long", "x", LONG).await.expect("stored");
    if let Some(kept) = other.get("short").await.expect("asked") {
        assert!(kept.lives_ms <= 400, "{kept:?}");
    }
    wait::until_answered("it is over", PATIENCE, async || {
        other.get("short").await.expect("asked").is_none().then_some(())
    })
    .await;
    assert!(begun.elapsed() >= Duration::from_millis(380), "not before its time");
    let keys: Vec<_> = other.list("", 10).await.expect("listed").into_iter().map(|kept| kept.key).collect();
    assert_eq!(keys, ["long"]);
    let again = other.compare_and_put("short", None, "y", LONG).await.expect("asked");
    assert!(again.is_some(), "nothing lives there");
}

async fn a_write_that_compares_is_refused_where_another_was_faster(space: Space) {
    let Space { one, other, .. } = &space;
    let first = one.compare_and_put("lead", None, "one", LONG).await.expect("asked").expect("free");
    assert_eq!(other.compare_and_put("lead", None, "other", LONG).await.expect("asked"), None);
    assert_eq!(other.compare_and_put("lead", Some(first + 1), "other", LONG).await.expect("asked"), None);
    let second = one.compare_and_put("lead", Some(first), "one", LONG).await.expect("asked").expect("fits");
    assert!(second > first);
    assert_eq!(other.compare_and_put("lead", Some(first), "other", LONG).await.expect("asked"), None);
    assert_eq!(one.compare_and_put("absent", Some(1), "x", LONG).await.expect("asked"), None);
    assert!(!other.delete_at("lead", first).await.expect("asked"));
    assert!(other.delete_at("lead", second).await.expect("asked"));
    assert_eq!(one.get("lead").await.expect("asked"), None);
}

async fn numbers_grow_over_a_removal(space: Space) {
    let Space { one, other, .. } = &space;
    let mut last = 0;
    for round in 0..20 {
        let writer = if round % 2 == 0 { one } else { other };
        let version = writer.put("lead", "x", LONG).await.expect("stored");
        assert!(version > last, "{version} after {last}");
        last = version;
        if round % 3 == 0 {
            writer.delete("lead").await.expect("removed");
        }
    }
}

async fn of_many_that_want_the_same_one_gets_it(space: Space) {
    for round in 0..5 {
        let key = format!("lead/{round}");
        let mut claims = tokio::task::JoinSet::new();
        for number in 0..12 {
            let coordination = if number % 2 == 0 { &space.one } else { &space.other }.clone();
            let (key, name) = (key.clone(), number.to_string());
            claims.spawn(async move { coordination.compare_and_put(&key, None, &name, LONG).await });
        }
        let won = claims.join_all().await.into_iter().filter(|won| matches!(won, Ok(Some(_)))).count();
        assert_eq!(won, 1, "round {round}");
    }
}

async fn twenty_that_write_at_once_lose_nobody(space: Space) {
    const WRITERS: usize = 20;
    let seconds = measure::variable("CAELUM_WRITERS_S", 2);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..WRITERS {
        let coordination = if number % 2 == 0 { &space.one } else { &space.other }.clone();
        writers.spawn(async move {
            let key = format!("server/{number:02}");
            let mut last = 0;
            for count in 1.. {
                let version = coordination.put(&key, &count.to_string(), LONG).await.expect("stored");
                assert!(version > last, "{version} after {last}");
                last = version;
                let all = coordination.list("server/", 100).await.expect("listed");
                let own = all.iter().find(|kept| kept.key == key).expect("its own is there");
                assert_eq!((own.value.as_str(), own.version), (count.to_string().as_str(), last));
                if Instant::now() >= until {
                    return count;
                }
            }
            0
        });
    }
    let counts = writers.join_all().await;
    let all = space.other.list("server/", 100).await.expect("listed");
    let values: Vec<_> = all.iter().map(|kept| kept.value.parse::<i32>().expect("a number")).collect();
    assert_eq!(all.len(), WRITERS);
    assert_eq!(values.iter().sum::<i32>(), counts.iter().sum::<i32>(), "the last write of each is there");
}

async fn what_is_too_large_or_no_key_is_refused(space: Space) {
    let one = &space.one;
    for key in ["a b", "ü", &"x".repeat(201)] {
        let refusal = one.put(key, "x", LONG).await.expect_err("refused");
        assert!(!refusal.is_transient, "{refusal}");
    }
    assert!(one.put("key", &"x".repeat((64 << 10) + 1), LONG).await.is_err());
    one.put("key", &"\u{1}".repeat(64 << 10), LONG).await.expect("the most there may be");
    assert_eq!(space.other.get("key").await.expect("asked").expect("lives").value.len(), 64 << 10);
}

macro_rules! promised {
    ($($backend:ident: $($promise:ident)+;)+) => {
        $(mod $backend {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() { super::$promise($crate::Space::$backend().await).await; })+
        })+
    };
}

macro_rules! on_each {
    ($($backend:ident)+) => {
        promised! {
            $($backend:
                what_one_server_writes_another_reads
                a_list_has_the_keys_of_a_prefix_in_order_and_no_others
                what_is_over_is_gone
                a_write_that_compares_is_refused_where_another_was_faster
                numbers_grow_over_a_removal
                of_many_that_want_the_same_one_gets_it
                twenty_that_write_at_once_lose_nobody
                what_is_too_large_or_no_key_is_refused;)+
        }
    };
}

on_each!(sqlite postgres redis folder memory);
