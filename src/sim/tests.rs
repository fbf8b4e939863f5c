//! What the simulation is run for.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::plant::{Bug, plant};
use crate::seeds::{Again, picked, seeds};

/// Seeds of a run that may meet anything: some three a second on two processors.
const SEEDS: u64 = 1000;
/// In which each planted bug must show; three times what the slowest takes.
const PLANT_SEEDS: u64 = 100;

/// With one seed, what the rooms log is shown as well (`RUST_LOG` as ever).
fn log() {
    if picked().is_some() && std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        // Another test may have set it.
        let _ = tracing_subscriber::fmt().with_env_filter(filter).without_time().try_init();
    }
}

fn must_hold(seed: u64, plan: impl Fn() -> Plan) -> Ended {
    log();
    let ended = run(seed, &plan, false);
    if let Some(why) = &ended.failure {
        let again = run(seed, &plan, true);
        let lines = again.lines.join("\n");
        println!("{lines}");
        panic!("seed {seed}: {why}");
    }
    ended
}

#[test]
fn without_faults_everything_holds() {
    for seed in seeds(20) {
        must_hold(seed, || Plan { faults: Vec::new(), ..Plan::of(seed) });
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in seeds(8) {
        let (one, two) = (run(seed, || Plan::of(seed), true), run(seed, || Plan::of(seed), true));
        let differ = one.lines.iter().zip(&two.lines).find(|(one, two)| one != two);
        assert_eq!(one.hash, two.hash, "seed {seed}: {differ:?}");
    }
}

#[test]
fn whatever_happens_everything_holds() {
    let begun = std::time::Instant::now();
    let seeds: Vec<u64> = seeds(SEEDS).collect();
    let (next, calls) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failed = std::sync::OnceLock::new();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let ended = run(*seed, || Plan::of(*seed), false);
                    calls.fetch_add(ended.calls, Ordering::SeqCst);
                    if ended.failure.is_some() {
                        failed.get_or_init(|| *seed);
                    }
                    if failed.get().is_some() {
                        return;
                    }
                }
            });
        }
    });
    println!("{} seeds, {calls:?} calls, {:?}", seeds.len(), begun.elapsed());
    if let Some(seed) = failed.get() {
        let _again = Again(*seed);
        must_hold(*seed, || Plan::of(*seed));
    }
}

/// One client, and nothing happens.
fn narrow() -> Plan {
    Plan {
        rules: Rules { sites: 3, strict: true, serve: false, durable: 1, degrade: false, remote: None },
        faults: Vec::new(),
        clients: 1,
        calls: 20,
        narrow: true,
        copies: false,
        prompt: false,
        silence: SILENCE,
    }
}

/// What each planted bug needs to show.
fn ground(bug: Bug) -> Plan {
    let narrow = narrow();
    let rules = narrow.rules.clone();
    match bug {
        Bug::ReleaseLeanedOn => Plan { clients: 2, ..narrow },
        Bug::ListBlindly | Bug::ForgetBelow => Plan { narrow: false, clients: 2, calls: 60, ..narrow },
        Bug::ShowBeforeKept | Bug::AnswerBeforeKept => {
            Plan { rules: Rules { durable: 2, ..rules }, faults: vec![Fault::Force], ..narrow }
        }
        Bug::FollowOlder => Plan {
            rules: Rules { durable: 2, ..rules },
            faults: vec![Fault::Promote, Fault::Force, Fault::Force],
            ..narrow
        },
        Bug::PromoteBehind => {
            Plan { faults: vec![Fault::Promote], narrow: false, clients: 2, calls: 60, ..narrow }
        }
        Bug::OverwriteForeign => Plan { faults: vec![Fault::Force], ..narrow },
        Bug::ServeOnExpiredLease => {
            Plan { faults: vec![Fault::OneWay, Fault::Partition, Fault::Pause], ..narrow }
        }
        Bug::ForgetLeases => Plan { faults: vec![Fault::Kill, Fault::Partition], ..narrow },
        Bug::GrantWithoutHolds => Plan { faults: vec![Fault::Reset], ..narrow },
        Bug::AnswerBeforeDurable | Bug::ClearMarkUnsynced => {
            Plan { faults: vec![Fault::PowerCut], ..narrow }
        }
        Bug::RenewWhileAsked => {
            let silence = Duration::from_secs(30);
            Plan { faults: vec![Fault::OneWay], prompt: true, silence, ..narrow }
        }
        Bug::IgnoreJump => Plan { faults: vec![Fault::Frozen], ..narrow },
        // A server that takes longer than a mark lingers.
        Bug::ReleaseInFlight | Bug::ForgetDoubt => Plan { faults: vec![Fault::Sloppy], ..narrow },
        Bug::OutOfOrder => Plan { rules: Rules { strict: false, ..rules }, clients: 2, ..narrow },
        Bug::ReuseEpoch => Plan {
            rules: Rules { durable: 2, ..rules },
            faults: vec![Fault::Promote, Fault::Force],
            ..narrow
        },
        Bug::DeleteForMove => Plan { narrow: false, ..narrow },
        Bug::KeepWalks => Plan { narrow: false, clients: 2, calls: 100, ..narrow },
        Bug::CarryOutTwice => {
            Plan { faults: vec![Fault::Reset], narrow: false, clients: 4, calls: 100, ..narrow }
        }
        Bug::ForgetAhead => Plan { rules: Rules { strict: false, ..rules }, ..narrow },
        Bug::CutOffByLeaseAlone => {
            Plan { rules: Rules { serve: true, ..rules }, faults: vec![Fault::Partition], ..narrow }
        }
        // Nothing but load.
        Bug::HoldInWordOnly
        | Bug::SkipHold
        | Bug::ReleaseAnyGeneration
        | Bug::ForgetRelease
        | Bug::MergeLower
        | Bug::LeaveAttributes
        | Bug::LeaveTimes => narrow,
        Bug::NoMargin => panic!("the storm of hold shows {bug:?}"),
        Bug::WaitForQuiet
        | Bug::AskUnread
        | Bug::KeepFirstWalk
        | Bug::ForgetShifts
        | Bug::ResolveInCatalog
        | Bug::HoldBehindDisk
        | Bug::IgnoreMaps
        | Bug::ForgetStrangers
        | Bug::ForgetAheadOverRestart
        | Bug::NoteUnsynced
        | Bug::ShowByRefusal
        | Bug::ServeWhatIsAhead
        | Bug::PromoteAlone
        | Bug::TakeEnded
        | Bug::TrustOldReports
        | Bug::TrustUnknown
        | Bug::TakeLate => panic!("a scene shows {bug:?}"),
        Bug::LetAnswersRun => panic!("the relay's tests show {bug:?}"),
    }
}

/// The first seed that catches a bug.
fn caught(bug: Bug, most: u64) -> Option<(u64, String)> {
    (1..=most).find_map(|seed| {
        plant(Some(bug));
        let ended = run(seed, || ground(bug), false);
        plant(None);
        ended.failure.map(|why| (seed, why))
    })
}

const PLANTED: [Bug; 31] = [
    Bug::ListBlindly,
    Bug::ForgetBelow,
    Bug::ReleaseLeanedOn,
    Bug::HoldInWordOnly,
    Bug::SkipHold,
    Bug::ReleaseAnyGeneration,
    Bug::ReleaseInFlight,
    Bug::ServeOnExpiredLease,
    Bug::IgnoreJump,
    Bug::ForgetLeases,
    Bug::GrantWithoutHolds,
    Bug::AnswerBeforeDurable,
    Bug::ClearMarkUnsynced,
    Bug::ForgetRelease,
    Bug::RenewWhileAsked,
    Bug::ForgetAhead,
    Bug::MergeLower,
    Bug::CutOffByLeaseAlone,
    Bug::ForgetDoubt,
    Bug::OutOfOrder,
    Bug::DeleteForMove,
    Bug::ShowBeforeKept,
    Bug::AnswerBeforeKept,
    Bug::FollowOlder,
    Bug::PromoteBehind,
    Bug::OverwriteForeign,
    Bug::ReuseEpoch,
    Bug::KeepWalks,
    Bug::CarryOutTwice,
    Bug::LeaveAttributes,
    Bug::LeaveTimes,
];

#[test]
fn planted_bugs_are_caught() {
    let most = PLANT_SEEDS;
    let next = AtomicUsize::new(0);
    let missed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(bug) = PLANTED.get(next.fetch_add(1, Ordering::SeqCst)) {
                    match caught(*bug, most) {
                        Some((seed, why)) => println!("{bug:?}: caught by seed {seed}: {why}"),
                        None => {
                            println!("{bug:?}: not caught");
                            missed.lock().unwrap().push(*bug);
                        }
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "no seed of {most} catches {missed:?}");
}

/// What catches nothing that is not planted.
#[test]
fn the_grounds_of_planted_bugs_are_sound() {
    for seed in seeds(10) {
        for bug in PLANTED {
            must_hold(seed, || ground(bug));
        }
    }
}
