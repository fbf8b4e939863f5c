//! The checker of histories is itself checked: histories with an order and without, made by hand,
//! and small random ones against a search that tries every order there is.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use common::Rng;
use common::history::names::{Entry, Names, Op, Seen};
use common::history::{Call, End, Fault, Model, check, own};
use common::seeds::seeds;
use proptest::prelude::*;

const X: usize = 0;
const Y: usize = 1;
const D: usize = 2;
/// A directory and the one name in it; another.
const A: usize = 3;
const A_F: usize = 4;
const B: usize = 5;
const B_F: usize = 6;
const FOREVER: End = End::Unknown { until: u64::MAX };

fn model() -> Names {
    Names::new(["x", "y", "d", "a/", "a/f", "b/", "b/f"])
}

fn put(name: usize, value: u64) -> Op {
    Op::Put { name, value, size: 10 * value }
}
fn sees(name: usize, value: u64) -> Op {
    Op::Look { name, seen: Seen::Value(value) }
}
fn none(name: usize) -> Op {
    Op::Look { name, seen: Seen::Absent }
}
fn moves(from: usize, to: usize) -> Op {
    Op::Move { from, to, replace: true }
}

/// Into the directory `a`.
fn put_in_a(value: u64) -> Op {
    Op::Within { dir: A, op: Box::new(put(A_F, value)) }
}
fn a_to_b() -> Op {
    Op::MoveTree { names: vec![(A, B), (A_F, B_F)] }
}
/// How a server deletes `a` with all that is in it: one after the other.
fn delete_a() -> [Op; 2] {
    [Op::Clear { name: A_F }, Op::Rmdir { name: A, names: vec![A_F] }]
}

fn call(site: &'static str, called: u64, end: End, op: Op) -> Call<Op> {
    Call { site, client: 0, called, end, op, exempt: false }
}
/// A call of hq, answered.
fn hq(called: u64, answered: u64, op: Op) -> Call<Op> {
    call("hq", called, End::Answered(answered), op)
}
fn lyon(called: u64, answered: u64, op: Op) -> Call<Op> {
    call("lyon", called, End::Answered(answered), op)
}

#[track_caller]
fn good(calls: &[Call<Op>]) {
    if let Err(fault) = check(&model(), calls) {
        panic!("{fault}");
    }
}
/// What is shown of a history without an order.
#[track_caller]
fn bad(calls: &[Call<Op>]) -> String {
    match check(&model(), calls) {
        Err(fault @ Fault::Impossible(_)) => fault.to_string(),
        Err(fault) => panic!("{fault}"),
        Ok(()) => panic!("an order was found"),
    }
}

#[test]
fn one_after_the_other() {
    good(&[]);
    good(&[hq(0, 1, none(X)), hq(2, 3, put(X, 1)), lyon(4, 5, sees(X, 1)), hq(6, 7, put(X, 2))]);
    good(&[hq(0, 1, put(X, 1)), hq(2, 3, Op::Delete { name: X }), lyon(4, 5, none(X))]);
    bad(&[hq(0, 1, sees(X, 1))]);
    bad(&[hq(0, 1, Op::Delete { name: X })]);
    bad(&[hq(0, 1, put(X, 1)), hq(2, 3, Op::Delete { name: X }), hq(4, 5, Op::Delete { name: X })]);
}

#[test]
fn a_stale_read_after_an_answered_write() {
    let text = bad(&[
        hq(0, 10, put(X, 1)),
        hq(20, 30, put(X, 2)),
        lyon(12, 15, sees(X, 1)),
        lyon(40, 50, sees(X, 1)),
    ]);
    assert!(text.contains("until then possible, before calls still open: x = v2"), "{text}");
    let marked = text.lines().find(|line| line.starts_with(">>")).unwrap();
    assert!(marked.contains("lyon/0") && marked.contains("sees x = v1"), "{text}");
    // While the write has no answer, either is right.
    good(&[hq(0, 10, put(X, 1)), hq(20, 60, put(X, 2)), lyon(30, 50, sees(X, 1))]);
    good(&[hq(0, 10, put(X, 1)), hq(20, 60, put(X, 2)), lyon(30, 50, sees(X, 2))]);
    // At the same moment is not after.
    good(&[hq(0, 10, put(X, 1)), hq(20, 40, put(X, 2)), lyon(40, 50, sees(X, 1))]);
}

#[test]
fn a_read_may_not_go_back_between_two_clients() {
    let write = [hq(0, 10, put(X, 1)), hq(20, 90, put(X, 2))];
    bad(&[&write[..], &[lyon(30, 40, sees(X, 2)), hq(50, 60, sees(X, 1))]].concat());
    good(&[&write[..], &[lyon(30, 40, sees(X, 1)), hq(50, 60, sees(X, 2))]].concat());
    good(&[&write[..], &[lyon(30, 55, sees(X, 2)), hq(50, 60, sees(X, 1))]].concat());
}

/// A primary is gone for good, and another goes on with what it had.
#[test]
fn what_is_lost_at_once_is_lost_and_nothing_else() {
    let file = |value| Entry::File { value, size: 10 * value };
    let restored = |x, y| {
        let mut entries = vec![Entry::Absent; 7];
        (entries[X], entries[Y]) = (x, y);
        hq(60, 61, Op::Restore { entries })
    };
    let before = [hq(0, 10, put(X, 1)), hq(20, 30, put(X, 2)), hq(40, 50, put(Y, 3))];
    let then = |x, y, after: &[Call<Op>]| [&before[..], &[restored(x, y)], after].concat();
    good(&then(file(1), Entry::Absent, &[lyon(70, 80, sees(X, 1)), lyon(70, 80, none(Y))]));
    bad(&then(file(1), Entry::Absent, &[lyon(70, 80, sees(X, 2))]));
    bad(&then(file(2), Entry::Absent, &[lyon(70, 80, sees(Y, 3))]));
    good(&[&then(file(2), Entry::Absent, &[])[..], &[lyon(45, 55, sees(Y, 3))]].concat());
    assert!(own::check(&then(file(2), Entry::Absent, &[lyon(70, 80, none(Y))])).is_ok());
}

#[test]
fn a_lost_write() {
    bad(&[hq(0, 10, put(X, 1)), lyon(20, 30, none(X))]);
    bad(&[hq(0, 10, put(X, 1)), lyon(20, 30, put(X, 2)), hq(40, 50, sees(X, 1))]);
}

#[test]
fn a_write_seen_before_it_was_sent() {
    bad(&[lyon(0, 10, sees(X, 1)), hq(20, 30, put(X, 1))]);
}

#[test]
fn two_writes_at_once_have_one_order_for_all() {
    let writes = [hq(0, 100, put(X, 1)), lyon(0, 100, put(X, 2))];
    good(&[&writes[..], &[hq(110, 120, sees(X, 1)), lyon(110, 120, sees(X, 1))]].concat());
    bad(&[&writes[..], &[hq(110, 120, sees(X, 1)), lyon(110, 120, sees(X, 2))]].concat());
    bad(&[&writes[..], &[hq(10, 20, sees(X, 1)), hq(30, 40, sees(X, 2)), hq(50, 60, sees(X, 1))]]
        .concat());
}

#[test]
fn an_unknown_outcome() {
    let lost = call("hq", 20, FOREVER, put(X, 2));
    let first = hq(0, 10, put(X, 1));
    // Never, at once, or late; but only once, and not before it was sent.
    good(&[first.clone(), lost.clone(), lyon(30, 40, sees(X, 1)), lyon(900, 910, sees(X, 1))]);
    good(&[first.clone(), lost.clone(), lyon(30, 40, sees(X, 2)), lyon(50, 60, sees(X, 2))]);
    good(&[first.clone(), lost.clone(), lyon(30, 40, sees(X, 1)), lyon(900, 910, sees(X, 2))]);
    bad(&[first.clone(), lost.clone(), lyon(30, 40, sees(X, 2)), lyon(50, 60, sees(X, 1))]);
    bad(&[lost.clone(), lyon(5, 10, sees(X, 2))]);
    let again = [lyon(30, 40, sees(X, 2)), hq(50, 60, put(X, 3)), lyon(70, 80, sees(X, 2))];
    bad(&[&[first.clone(), lost.clone()], &again[..]].concat());
    // One whose time is over has happened by then, or never does.
    let until = call("hq", 20, End::Unknown { until: 100 }, put(X, 2));
    good(&[first.clone(), until.clone(), lyon(100, 110, sees(X, 2))]);
    good(&[first.clone(), until.clone(), lyon(110, 120, sees(X, 1)), lyon(130, 140, sees(X, 1))]);
    good(&[first.clone(), until.clone(), lyon(110, 120, sees(X, 2))]);
    bad(&[first, until, lyon(110, 120, sees(X, 1)), lyon(130, 140, sees(X, 2))]);
}

#[test]
fn many_unknown_outcomes_stay_cheap() {
    let mut calls = vec![hq(0, 1, put(X, 1))];
    for i in 0..40 {
        calls.push(call("hq", 10 * i + 2, FOREVER, put(X, 100 + i)));
        calls.push(lyon(10 * i + 3, 10 * i + 6, sees(X, if i % 7 == 0 { 100 + i } else { 1 })));
        calls.push(lyon(10 * i + 7, 10 * i + 9, put(X, 1)));
    }
    good(&calls);
}

#[test]
fn a_stale_read_marked_so_is_exempt() {
    let mut stale = lyon(40, 50, sees(X, 1));
    let writes = [hq(0, 10, put(X, 1)), hq(20, 30, put(X, 2))];
    bad(&[&writes[..], &[stale.clone()]].concat());
    stale.exempt = true;
    good(&[&writes[..], &[stale]].concat());
}

#[test]
fn a_move_is_one_thing() {
    let start = [hq(0, 10, put(X, 1)), hq(20, 60, moves(X, Y))];
    let list = |x, y| Op::List { seen: vec![(X, x), (Y, y)] };
    good(&[&start[..], &[lyon(30, 40, list(Seen::Size(10), Seen::Absent))]].concat());
    good(&[&start[..], &[lyon(30, 40, list(Seen::Absent, Seen::Size(10)))]].concat());
    bad(&[&start[..], &[lyon(30, 40, list(Seen::Absent, Seen::Absent))]].concat());
    bad(&[&start[..], &[lyon(30, 40, list(Seen::Present, Seen::Present))]].concat());
    bad(&[&start[..], &[lyon(22, 24, none(X)), lyon(30, 40, none(Y))]].concat());
    bad(&[&start[..], &[lyon(70, 80, sees(X, 1))]].concat());
    // It carries what was written at the other name, also when that is not known to have happened.
    let unknown = call("hq", 12, FOREVER, put(X, 2));
    good(&[&start[..], &[unknown.clone(), lyon(70, 80, sees(Y, 2))]].concat());
    bad(&[&start[..], &[unknown, lyon(70, 80, sees(Y, 1)), lyon(90, 95, sees(Y, 2))]].concat());
}

#[test]
fn directories() {
    let mkcol = || Op::Mkcol { name: D };
    good(&[hq(0, 1, mkcol()), lyon(2, 3, Op::Look { name: D, seen: Seen::Directory })]);
    bad(&[hq(0, 1, mkcol()), lyon(2, 3, mkcol())]);
    bad(&[hq(0, 1, mkcol()), lyon(2, 3, Op::Move { from: X, to: D, replace: false })]);
    good(&[hq(0, 1, mkcol()), hq(2, 3, Op::Delete { name: D }), lyon(4, 5, mkcol())]);
}

#[test]
fn what_is_in_a_directory_moves_with_it() {
    let mkcol = |name| Op::Mkcol { name };
    let start = [hq(0, 1, mkcol(A)), hq(2, 3, put_in_a(1)), hq(10, 20, a_to_b())];
    good(&[&start[..], &[lyon(30, 31, sees(B_F, 1)), lyon(32, 33, none(A_F))]].concat());
    bad(&[&start[..], &[lyon(30, 31, sees(A_F, 1))]].concat());
    bad(&[&start[..], &[lyon(30, 31, none(B_F))]].concat());
    bad(&[&start[..], &[lyon(12, 13, none(A_F)), lyon(14, 15, none(B_F))]].concat());
    good(&[&start[..], &[lyon(12, 13, none(A_F)), lyon(14, 15, sees(B_F, 1))]].concat());
    // Nothing is put into a directory that is not there, and none takes another's place.
    bad(&[&start[..], &[lyon(30, 31, put_in_a(2))]].concat());
    good(&[&start[..], &[lyon(15, 31, put_in_a(2)), lyon(40, 41, sees(B_F, 2))]].concat());
    bad(&[&start[..], &[lyon(15, 31, put_in_a(2)), lyon(40, 41, sees(B_F, 1))]].concat());
    bad(&[&[hq(4, 5, mkcol(B))], &start[..]].concat());
}

#[test]
fn a_tree_is_deleted_from_below() {
    let start = [hq(0, 1, Op::Mkcol { name: A }), hq(2, 3, put_in_a(1))];
    let deleted = delete_a().map(|op| hq(10, 20, op));
    let directory = || Op::Look { name: A, seen: Seen::Directory };
    good(&[&start[..], &deleted, &[lyon(12, 13, none(A_F)), lyon(14, 15, directory())]].concat());
    bad(&[&start[..], &deleted, &[lyon(12, 13, none(A)), lyon(14, 15, sees(A_F, 1))]].concat());
    bad(&[&start[..], &deleted, &[lyon(30, 31, directory())]].concat());
    // One whose end nobody knows may have done half of it.
    let half = delete_a().map(|op| call("hq", 10, FOREVER, op));
    good(&[&start[..], &half, &[lyon(30, 31, none(A_F)), lyon(32, 33, directory())]].concat());
    bad(&[&start[..], &half, &[lyon(30, 31, none(A_F)), lyon(32, 33, sees(A_F, 1))]].concat());
}

/// What each rule rules out, as a history: a checker that misses one of these proves nothing.
#[test]
fn what_goes_wrong_without_a_rule_is_found() {
    let before = [hq(0, 1, put(X, 1)), lyon(2, 3, sees(X, 1))];
    let found = |more: &[Call<Op>]| bad(&[&before[..], more].concat());
    // A write that waits for nobody; and one that is held, but whose hold is let go too soon.
    found(&[hq(10, 11, put(X, 2)), lyon(12, 13, sees(X, 1))]);
    found(&[hq(10, 11, put(X, 2)), hq(12, 13, put(X, 3)), lyon(14, 15, sees(X, 2))]);
    // A site that does not see what it wrote itself, after it came back.
    found(&[lyon(10, 11, put(X, 2)), lyon(900, 910, sees(X, 1))]);
    // Answered, and lost in a crash: also if it was seen, and also if it is only the name.
    found(&[hq(10, 11, put(X, 2)), lyon(12, 13, sees(X, 2)), hq(900, 901, sees(X, 1))]);
    found(&[hq(10, 11, put(Y, 2)), hq(900, 901, none(Y))]);
    found(&[hq(10, 11, Op::Delete { name: X }), hq(900, 901, sees(X, 1))]);
    // Seen by one and then not by another, though nobody was told that it is done.
    let lost = call("hq", 10, FOREVER, put(X, 2));
    found(&[lost.clone(), hq(12, 13, sees(X, 2)), lyon(14, 15, sees(X, 1))]);
    // Done twice: sent again after its answer was lost, over what came between.
    found(&[lyon(10, 14, put(X, 2)), hq(20, 21, put(X, 3)), lyon(22, 23, sees(X, 2))]);
    // A move that is seen as a delete, and a listing of one name of before and one of after.
    let moved = hq(10, 20, moves(X, Y));
    found(&[moved.clone(), lyon(12, 13, none(X)), lyon(14, 15, none(Y))]);
    found(&[moved, lyon(30, 31, Op::List { seen: vec![(X, Seen::Present), (Y, Seen::Present)] })]);
}

#[test]
fn what_is_shown_is_small() {
    let mut calls = Vec::new();
    for i in 0..300 {
        calls.push(hq(100 * i, 100 * i + 10, put((i % 2) as usize, i)));
        calls.push(lyon(100 * i + 20, 100 * i + 30, sees((i % 2) as usize, i)));
    }
    calls.push(lyon(30_000, 30_010, sees(X, 296)));
    let text = bad(&calls);
    assert!(text.lines().count() < 32, "{text}");
    assert_eq!(text.lines().filter(|line| line.contains("sees")).count(), 1, "{text}");
}

#[test]
fn a_site_of_a_relaxed_share_sees_its_own_writes() {
    let good = |calls: &[Call<Op>]| own::check(calls).unwrap();
    let bad = |calls: &[Call<Op>]| own::check(calls).unwrap_err();
    let writes = [hq(0, 10, put(X, 1)), lyon(20, 30, put(X, 2))];
    // Another site may be behind; the writer's own may not.
    good(&[&writes[..], &[hq(40, 50, sees(X, 1))]].concat());
    bad(&[&writes[..], &[lyon(40, 50, sees(X, 1))]].concat());
    bad(&[&writes[..], &[lyon(40, 50, none(X))]].concat());
    // What came after the own write, or with it, may be seen instead.
    good(&[&writes[..], &[hq(32, 35, put(X, 3)), lyon(40, 50, sees(X, 3))]].concat());
    good(&[&writes[..], &[hq(25, 35, put(X, 3)), lyon(40, 50, sees(X, 3))]].concat());
    good(&[&writes[..], &[call("hq", 5, FOREVER, put(X, 3)), lyon(40, 50, sees(X, 3))]].concat());
    good(&[&writes[..], &[hq(32, 35, moves(Y, X)), lyon(40, 50, sees(X, 9))]].concat());
    // Nothing comes from nowhere, or from the future.
    bad(&[hq(0, 10, sees(X, 1))]);
    bad(&[lyon(0, 10, sees(X, 1)), hq(20, 30, put(X, 1))]);
    bad(&[lyon(0, 10, put(X, 1)), lyon(20, 30, Op::List { seen: vec![(X, Seen::Size(11))] })]);
}

/// Twelve names, moved among each other by nine clients, as they come out of a storm: each call takes
/// effect at some time before its answer, and one change in 25 is never answered, of which half happen.
/// A silence in which everything is looked at ends every 400 calls.
fn stormy(seed: u64, count: u64) -> Vec<Call<Op>> {
    let model = storm_names();
    let mut rng = Rng::new(seed);
    let mut state = model.start();
    let mut calls: Vec<Call<Op>> = Vec::new();
    let mut free = [0_u64; 9];
    let mut unknown = Vec::new();
    let mut at = 0;
    for step in 1..=count {
        let client = (0..9).min_by_key(|client| free[*client]).unwrap();
        at = free[client].max(at + 1000);
        let called = free[client].max(at.saturating_sub(rng.below(6000)));
        let answered = at + rng.below(6000);
        let op = loop {
            let (name, other) = (rng.below(12) as usize, rng.below(12) as usize);
            let looks = match state[name] {
                Entry::Absent => Seen::Absent,
                Entry::Directory => Seen::Directory,
                Entry::File { value, .. } => Seen::Value(value),
            };
            let op = match rng.below(12) {
                0..3 => put(name, step),
                3 => Op::Delete { name },
                4..6 if name != other => moves(name, other),
                _ => Op::Look { name, seen: looks },
            };
            if model.apply(&state, &op).is_some() {
                break op;
            }
        };
        let lost = !model.is_read(&op) && rng.below(25) == 0;
        if !lost || rng.below(2) == 0 {
            state = model.apply(&state, &op).unwrap();
        }
        if lost {
            unknown.push(calls.len());
        }
        let end = if lost { FOREVER } else { End::Answered(answered) };
        free[client] = answered + 1;
        calls.push(Call { client: client as u32, ..call("hq", called, end, op) });
        if step % 400 == 0 {
            let silence = at + 7000;
            for (name, entry) in state.iter().enumerate() {
                let seen = match entry {
                    Entry::File { value, .. } => Seen::Value(*value),
                    _ => Seen::Absent,
                };
                calls.push(hq(silence, silence + 1, Op::Look { name, seen }));
            }
            for index in unknown.drain(..) {
                calls[index].end = End::Unknown { until: silence + 2 };
            }
            at = silence + 3;
            free = [at; 9];
        }
    }
    calls
}

fn storm_names() -> Names {
    Names::new((0..12).map(|name| format!("n{name}")))
}

#[test]
fn a_storm_is_judged_in_time() {
    for seed in seeds(3) {
        let mut calls = stormy(seed, 1600);
        if let Err(fault) = check(&storm_names(), &calls) {
            panic!("seed {seed}: {fault}");
        }
        // The same with one read, near the end, of what nobody wrote.
        let late = calls.iter_mut().rev().skip(100).find_map(|call| match &mut call.op {
            Op::Look { seen: Seen::Value(value), .. } => Some(value),
            _ => None,
        });
        *late.unwrap() = u64::MAX;
        let fault = check(&storm_names(), &calls);
        assert!(matches!(fault, Err(Fault::Impossible(_))), "seed {seed}: {fault:?}");
    }
}

/// Tries all orders: exactly what linearizable means, and far too slow for anything else.
fn by_force(model: &Names, state: &[Entry], left: &[Call<Op>], latest: u64) -> bool {
    let answered = |call: &Call<Op>| match call.end {
        End::Answered(at) => Some(at),
        End::Unknown { .. } => None,
    };
    if left.iter().all(|call| answered(call).is_none()) {
        return true;
    }
    (0..left.len()).any(|index| {
        let call = &left[index];
        let too_early = left.iter().filter_map(answered).any(|end| end < call.called);
        let too_late = matches!(call.end, End::Unknown { until } if until < latest);
        if too_early || too_late {
            return false;
        }
        let Some(next) = model.apply(&state.to_vec(), &call.op) else { return false };
        let mut rest = left.to_vec();
        rest.remove(index);
        by_force(model, &next, &rest, latest.max(call.called))
    })
}

fn any_seen() -> impl Strategy<Value = Seen> {
    prop_oneof![
        2 => Just(Seen::Absent),
        1 => Just(Seen::Present),
        4 => (1..3_u64).prop_map(Seen::Value),
        1 => (1..3_u64).prop_map(|value| Seen::Size(10 * value)),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    let name = 0..2_usize;
    prop_oneof![
        4 => (name.clone(), 1..3_u64).prop_map(|(name, value)| put(name, value)),
        1 => name.clone().prop_map(|name| Op::Delete { name }),
        1 => (name.clone(), any::<bool>())
            .prop_map(|(from, replace)| Op::Move { from, to: 1 - from, replace }),
        1 => name.clone().prop_map(|name| Op::Mkcol { name }),
        5 => (name, any_seen()).prop_map(|(name, seen)| Op::Look { name, seen }),
        2 => (any_seen(), any_seen()).prop_map(|(x, y)| Op::List { seen: vec![(X, x), (Y, y)] }),
    ]
}

/// In and of two directories.
fn any_op_of_trees() -> impl Strategy<Value = Op> {
    let either = |a: usize, b: usize| prop_oneof![Just(a), Just(b)];
    let file = || (either(A, B).prop_map(|dir| (dir, dir + 1)), 1..3_u64);
    prop_oneof![
        3 => either(A, B).prop_map(|name| Op::Mkcol { name }),
        3 => file().prop_map(|((dir, name), value)| Op::Within { dir, op: Box::new(put(name, value)) }),
        2 => any::<bool>().prop_map(|back| match (a_to_b(), back) {
            (Op::MoveTree { names }, true) => {
                Op::MoveTree { names: names.into_iter().map(|(from, to)| (to, from)).collect() }
            }
            (op, _) => op,
        }),
        1 => either(A_F, B_F).prop_map(|name| Op::Clear { name }),
        1 => file().prop_map(|((dir, name), _)| Op::Rmdir { name: dir, names: vec![name] }),
        1 => file().prop_map(|((dir, name), value)| Op::Within {
            dir,
            op: Box::new(Op::Look { name, seen: Seen::Value(value) }),
        }),
        3 => (either(A_F, B_F), any_seen()).prop_map(|(name, seen)| Op::Look { name, seen }),
        2 => either(A, B).prop_map(|name| Op::Look { name, seen: Seen::Directory }),
    ]
}

fn any_call(op: impl Strategy<Value = Op>) -> impl Strategy<Value = Call<Op>> {
    (0..24_u64, 0..10_u64, 0..6_u8, op).prop_map(|(called, length, kind, op)| {
        let end = match kind {
            0 => FOREVER,
            1 => End::Unknown { until: called + length },
            _ => End::Answered(called + length),
        };
        call("hq", called, end, op)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn finds_what_trying_every_order_finds(calls in prop::collection::vec(any_call(any_op()), 0..7)) {
        let model = model();
        let expected = by_force(&model, &model.start(), &calls, 0);
        let found = check(&model, &calls);
        prop_assert_eq!(found.is_ok(), expected, "{:?}", found);
    }

    #[test]
    fn finds_the_same_of_trees(calls in prop::collection::vec(any_call(any_op_of_trees()), 0..7)) {
        let model = model();
        let expected = by_force(&model, &model.start(), &calls, 0);
        let found = check(&model, &calls);
        prop_assert_eq!(found.is_ok(), expected, "{:?}", found);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    /// A history that was made by doing things in order always has one.
    #[test]
    fn what_happened_is_possible(
        ops in prop::collection::vec((prop_oneof![any_op(), any_op_of_trees()], 0..40_u64, 0..40_u64, 0..8_u8), 1..120),
    ) {
        let model = model();
        let mut state = model.start();
        let mut calls = Vec::new();
        for (at, (op, before, after, kind)) in ops.into_iter().enumerate() {
            let at = 10 * (at as u64 + 10);
            let (called, answered) = (at - before, at + after);
            let Some(next) = model.apply(&state, &op) else { continue };
            state = next;
            let end = if kind == 0 { FOREVER } else { End::Answered(answered) };
            calls.push(call("hq", called, end, op));
        }
        let found = check(&model, &calls);
        prop_assert!(found.is_ok(), "{}", found.unwrap_err());
        let found = own::check(&calls);
        prop_assert!(found.is_ok(), "{:?}", found);
    }
}
