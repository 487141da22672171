//! The book in virtual time, alone and two against each other.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn id(name: &str) -> NodeId {
    NodeId::parse(name).expect("valid")
}

fn addr(n: u16) -> SocketAddr {
    ([127, 0, 0, 1], n).into()
}

fn at(ms: i64) -> Now {
    Now { ms, wall_ms: 0 }
}

fn put(book: &mut Book, ms: i64, input: Input) -> Vec<Output> {
    let mut out = Vec::new();
    book.handle(at(ms), input, &mut out);
    out
}

fn known(n: u16, is_server: bool) -> Input {
    Input::Known { node_id: id(&format!("n{n:03}")), addr: addr(n), is_server }
}

fn opened(link: u64, name: &str, is_dialled: bool, n: u16) -> Input {
    Input::Opened { link: LinkId(link), node_id: Some(id(name)), is_dialled, addr: addr(n) }
}

fn dials(out: &[Output]) -> Vec<u16> {
    let port = |one: &Output| match one {
        Output::Dial { addr, .. } => Some(addr.port()),
        Output::Drop { .. } => None,
    };
    out.iter().filter_map(port).collect()
}

fn drop_of(link: u64, reason: DropReason) -> Output {
    Output::Drop { link: LinkId(link), reason }
}

#[test]
fn the_smaller_id_dials_at_once_and_the_larger_waits_a_moment() {
    let mut small = Book::new(id("n000"), false, 1);
    assert_eq!(dials(&put(&mut small, 0, known(5, false))), [5]);
    let mut large = Book::new(id("n900"), false, 1);
    assert_eq!(dials(&put(&mut large, 0, known(5, false))), [0_u16; 0]);
    let at_ms = large.next_wakeup_ms().expect("it waits");
    assert!(DEFER_MS.contains(&at_ms));
    assert_eq!(dials(&put(&mut large, at_ms, Input::Wake)), [5]);
    assert_eq!(dials(&put(&mut large, at_ms + 1, known(5, false))), [0_u16; 0], "one dial at a time");
}

#[test]
fn of_two_links_the_one_dialled_by_the_smaller_id_survives() {
    let mut book = Book::new(id("b"), false, 1);
    assert_eq!(put(&mut book, 0, opened(1, "c", false, 9)), []);
    assert_eq!(put(&mut book, 0, opened(2, "c", true, 3)), [drop_of(1, DropReason::Duplicate)]);
    assert_eq!(put(&mut book, 0, opened(3, "c", false, 9)), [drop_of(3, DropReason::Duplicate)]);
    assert_eq!(put(&mut book, 0, opened(4, "a", true, 4)), []);
    assert_eq!(put(&mut book, 0, opened(5, "a", false, 9)), [drop_of(4, DropReason::Duplicate)]);
    assert_eq!(book.link_to(&id("c")), Some(LinkId(2)));
    assert_eq!(put(&mut book, 1, Input::Closed { link: LinkId(4), was_refused: false }), []);
    assert_eq!(book.link_to(&id("a")), Some(LinkId(5)), "the end of a dropped link changes nothing");
}

#[test]
fn who_dials_again_replaces_its_older_link() {
    let mut book = Book::new(id("b"), false, 1);
    put(&mut book, 0, opened(1, "a", false, 9));
    assert_eq!(put(&mut book, 5, opened(2, "a", false, 9)), [drop_of(1, DropReason::Replaced)]);
}

#[test]
fn up_to_sixteen_others_are_all_dialled_and_beyond_that_the_next_two_in_the_ring() {
    let mut book = Book::new(id("n010"), false, 1);
    for n in (0..18).filter(|n| *n != 10) {
        put(&mut book, 0, known(n, false));
    }
    put(&mut book, 0, known(500, true));
    assert_eq!(book.wanted, Some([id("n011"), id("n012")].into()));
    let mut last = Book::new(id("n017"), false, 1);
    for n in 0..17 {
        put(&mut last, 0, known(n, false));
    }
    assert_eq!(last.wanted, Some([id("n000"), id("n001")].into()), "round the end");
    let mut small = Book::new(id("n000"), false, 1);
    let mut dialled: Vec<u16> = (1..=16).flat_map(|n| dials(&put(&mut small, 0, known(n, false)))).collect();
    dialled.extend(dials(&put(&mut small, 0, known(500, true))));
    assert_eq!(dialled.len(), 17);
}

#[test]
fn in_a_large_cluster_links_that_neither_end_wants_are_ended_and_servers_kept() {
    let mut book = Book::new(id("n000"), false, 1);
    put(&mut book, 0, known(500, true));
    put(&mut book, 0, opened(500, "n500", true, 500));
    let mut dropped = Vec::new();
    for n in 1..=30_u16 {
        put(&mut book, 0, known(n, false));
        dropped.extend(put(&mut book, 0, opened(u64::from(n), &format!("n{n:03}"), false, 9)));
    }
    let ended = |one: &Output| matches!(one, Output::Drop { reason: DropReason::Surplus, .. });
    assert_eq!(dropped.iter().filter(|one| ended(one)).count(), 26);
    let linked = |n: u16| book.link_to(&id(&format!("n{n:03}"))).is_some();
    assert_eq!((1..=30).filter(|n| linked(*n)).count(), 2 * SUCCESSORS);
    assert!([1, 2, 29, 30, 500].into_iter().all(linked), "its neighbours and servers");
}

#[test]
fn a_beacon_shortens_the_wait_after_failures_but_not_after_a_refusal() {
    let mut book = Book::new(id("a"), false, 3);
    put(&mut book, 0, known(5, false));
    let mut now_ms = 0;
    for _ in 0..30 {
        put(&mut book, now_ms, Input::DialFailed { addr: addr(5), was_refused: false });
        let next_ms = book.next_wakeup_ms().expect("it tries again");
        assert!(next_ms - now_ms <= 30_000);
        if next_ms - now_ms > 10_000 {
            put(&mut book, now_ms + 1, known(5, false));
            assert!(book.next_wakeup_ms().expect("it tries again") <= now_ms + 201);
        }
        now_ms = next_ms.max(now_ms + 10_000);
        put(&mut book, now_ms, Input::Wake);
    }
    put(&mut book, now_ms, Input::DialFailed { addr: addr(5), was_refused: true });
    put(&mut book, now_ms + 10_000, known(5, false));
    assert_eq!(book.next_wakeup_ms(), Some(now_ms + 60_000));
}

#[test]
fn a_split_that_heals_shortens_the_wait_for_whoever_could_not_be_reached() {
    let mut book = Book::new(id("n000"), false, 3);
    put(&mut book, 0, known(1, true));
    put(&mut book, 0, Input::Static { addr: addr(9) });
    let mut now_ms = 0;
    // Until both wait for long.
    loop {
        for addr in [addr(1), addr(9)] {
            put(&mut book, now_ms, Input::DialFailed { addr, was_refused: false });
        }
        let next_ms = book.next_wakeup_ms().expect("it tries again");
        if (now_ms + 5_000..now_ms + 30_000).contains(&next_ms) {
            break;
        }
        now_ms += 60_000;
        put(&mut book, now_ms, Input::Wake);
    }
    put(&mut book, now_ms, Input::Healing);
    let mut dialled = dials(&put(&mut book, now_ms + 200, Input::Wake));
    dialled.sort_unstable();
    assert_eq!(dialled, [1, 9]);
}

#[test]
fn a_revoked_node_is_dropped_and_stays_out() {
    let mut book = Book::new(id("a"), false, 1);
    put(&mut book, 0, known(5, false));
    put(&mut book, 0, opened(1, "n005", true, 5));
    assert_eq!(put(&mut book, 1, Input::Revoked(id("n005"))), [drop_of(1, DropReason::Revoked)]);
    assert_eq!(put(&mut book, 2, known(5, false)), []);
    assert_eq!(put(&mut book, 3, opened(2, "n005", false, 9)), [drop_of(2, DropReason::Revoked)]);
    assert_eq!(book.next_wakeup_ms(), None);
}

#[test]
fn an_address_without_a_name_is_dialled_until_somebody_there_is_linked() {
    let mut book = Book::new(id("m"), false, 1);
    assert_eq!(
        put(&mut book, 0, Input::Static { addr: addr(7) }),
        [Output::Dial { addr: addr(7), node_id: None }]
    );
    assert_eq!(put(&mut book, 9, opened(1, "a", true, 7)), []);
    assert_eq!(book.next_wakeup_ms(), None);
    // It dials us as well: its link is kept, and the address is satisfied by that one too.
    assert_eq!(put(&mut book, 10, opened(2, "a", false, 9)), [drop_of(1, DropReason::Duplicate)]);
    assert_eq!(book.next_wakeup_ms(), None);
    put(&mut book, 50_000, Input::Closed { link: LinkId(2), was_refused: false });
    let at_ms = book.next_wakeup_ms().expect("it is dialled again");
    assert_eq!(dials(&put(&mut book, at_ms, Input::Wake)), [7]);
}

#[test]
fn a_stranger_or_ourselves_behind_an_address_are_not_dialled_over_and_over() {
    let mut book = Book::new(id("m"), false, 1);
    put(&mut book, 0, Input::Static { addr: addr(7) });
    let stranger = Input::Opened { link: LinkId(1), node_id: None, is_dialled: true, addr: addr(7) };
    assert_eq!(put(&mut book, 1, stranger), []);
    assert_eq!(book.next_wakeup_ms(), None);
    put(&mut book, 2, Input::Closed { link: LinkId(1), was_refused: true });
    assert_eq!(book.next_wakeup_ms(), Some(60_002));
    put(&mut book, 3, Input::Static { addr: addr(8) });
    assert_eq!(put(&mut book, 4, opened(2, "m", true, 8)), [drop_of(2, DropReason::Myself)]);
    assert_eq!(book.next_wakeup_ms(), Some(60_002));
    assert_eq!(dials(&put(&mut book, 60_004, Input::Wake)), [7, 8]);
}

#[test]
fn a_dial_that_nobody_reports_on_is_given_up() {
    let mut book = Book::new(id("a"), false, 1);
    put(&mut book, 0, known(5, false));
    assert_eq!(book.next_wakeup_ms(), Some(DIAL_MAX_MS));
    put(&mut book, DIAL_MAX_MS, Input::Wake);
    let at_ms = book.next_wakeup_ms().expect("again");
    assert_eq!(dials(&put(&mut book, at_ms, Input::Wake)), [5]);
}

#[test]
fn memory_is_bounded_and_linked_nodes_stay() {
    let mut book = Book::new(id("a"), true, 1);
    put(&mut book, 0, opened(1, "x", false, 9));
    for n in 0..NODES_MAX as u64 + 50 {
        let node_id = id(&format!("z{n}"));
        book.known(0, node_id, addr(1), false);
    }
    assert_eq!(book.nodes.len(), NODES_MAX);
    assert!(book.link_to(&id("x")).is_some());
}

/// Two books and the network between them. What one side does reaches the other in any order, but for one
/// link at one side it opens before it closes.
struct Pair {
    books: [Book; 2],
    /// Waiting news by side and link.
    news: [BTreeMap<LinkId, VecDeque<Input>>; 2],
    made: u64,
    now_ms: i64,
}

impl Pair {
    fn perform(&mut self, side: usize, out: Vec<Output>) {
        for one in out {
            match one {
                Output::Dial { addr: to, .. } => {
                    self.made += 1;
                    let link = LinkId(self.made);
                    for (end, is_dialled) in [(side, true), (1 - side, false)] {
                        let other = id(["a", "b"][1 - end]);
                        let from = if is_dialled { to } else { addr(40_000) };
                        let input = Input::Opened { link, node_id: Some(other), is_dialled, addr: from };
                        self.news[end].entry(link).or_default().push_back(input);
                    }
                }
                Output::Drop { link, .. } => {
                    for end in [0, 1] {
                        let closed = Input::Closed { link, was_refused: false };
                        self.news[end].entry(link).or_default().push_back(closed);
                    }
                }
            }
        }
    }

    fn put(&mut self, side: usize, input: Input) {
        let mut out = Vec::new();
        self.books[side].handle(at(self.now_ms), input, &mut out);
        self.perform(side, out);
    }

    /// Delivers one piece of news; false where there is none.
    fn deliver(&mut self, choice: usize) -> bool {
        let waiting: Vec<(usize, LinkId)> = [0, 1]
            .into_iter()
            .flat_map(|side| self.news[side].keys().map(move |link| (side, *link)))
            .collect();
        if waiting.is_empty() {
            return false;
        }
        let (side, link) = waiting[choice % waiting.len()];
        let queue = self.news[side].get_mut(&link).expect("it is waiting");
        let input = queue.pop_front().expect("no queue is kept empty");
        if queue.is_empty() {
            self.news[side].remove(&link);
        }
        self.put(side, input);
        true
    }
}

proptest! {
    #[test]
    fn any_order_of_simultaneous_dials_leaves_one_link(
        seed in any::<u64>(), choices in proptest::collection::vec((any::<usize>(), 0..200_i64), 1..60),
    ) {
        let mut pair = Pair {
            books: [Book::new(id("a"), false, seed), Book::new(id("b"), false, !seed)],
            news: Default::default(),
            made: 0,
            now_ms: 0,
        };
        pair.put(0, Input::Known { node_id: id("b"), addr: addr(2), is_server: false });
        pair.put(1, Input::Known { node_id: id("a"), addr: addr(1), is_server: false });
        for (choice, step_ms) in choices {
            pair.now_ms += step_ms;
            for side in [0, 1] {
                pair.put(side, Input::Wake);
            }
            pair.deliver(choice);
        }
        // The network calms down: everything arrives, and time passes.
        for _ in 0..50 {
            while pair.deliver(0) {}
            pair.now_ms += 500;
            for side in [0, 1] {
                pair.put(side, Input::Wake);
            }
        }
        let kept = pair.books[0].link_to(&id("b"));
        prop_assert!(kept.is_some());
        prop_assert_eq!(kept, pair.books[1].link_to(&id("a")));
        prop_assert!(pair.made < 40, "{} links were made", pair.made);
    }
}
