//! A few seeds, the same twice, and each checker finding what it is there for.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

use vfs_sync_sim::{Coverage, Failure, FailureKind, Sabotage, Simulation, StoreKind};

/// As many seeds as `VFS_SYNC_TEST_SEEDS` says, or 16.
#[test]
fn worlds_with_faults_end_as_the_rules_say() {
    let count = std::env::var("VFS_SYNC_TEST_SEEDS").ok().and_then(|text| text.parse().ok());
    for seed in 0..count.unwrap_or(16) {
        let failure = Simulation::default().play(seed, false).failure;
        assert_eq!(failure, None, "sim replay {seed}");
    }
}

/// Plays the steps of histories that ended otherwise once.
fn end_as_the_rules_say(histories: &[(u64, &[usize])]) {
    for (seed, steps) in histories {
        let steps = steps.iter().copied().collect();
        let failure = Simulation::default().play_only(*seed, &steps, false).failure;
        assert_eq!(failure, None, "sim replay {seed} --only {steps:?}");
    }
}

#[test]
fn what_is_written_by_an_own_path_stays_ones_own_where_somebody_guessed_its_id() {
    end_as_the_rules_say(&[
        (2_110, &[0, 3, 5, 10, 11, 14, 15, 17, 18, 26]),
        (2_147, &[0, 4, 21, 24, 31, 33, 49, 50, 51, 59, 66, 72, 73, 77, 78, 86, 99]),
        (8_053, &[0, 4, 6, 16, 19, 20, 23, 29, 39, 42, 45, 62, 69, 74]),
        (11_445, &[2, 8, 23, 41, 42, 43, 46, 49, 50, 52, 55, 57, 61]),
    ]);
}

#[test]
fn worlds_on_disks_that_fail_end_as_the_rules_say() {
    let simulation = Simulation { store: StoreKind::Sqlite, ..Simulation::default() };
    let mut coverage = Coverage::default();
    for seed in 0..16 {
        let outcome = simulation.play(seed, false);
        assert_eq!(outcome.failure, None, "sim replay {seed} --store sqlite");
        coverage.absorb(&outcome.coverage);
    }
    let missing = coverage.missing();
    let of_disks: Vec<_> = missing.iter().filter(|(_, name)| name.contains("disk")).collect();
    assert!(of_disks.is_empty(), "{of_disks:?}");
}

fn folders() -> Simulation {
    Simulation { steps: 60, folders: true, ..Simulation::default() }
}

/// As many seeds as `VFS_SYNC_TEST_SEEDS` says, or 30.
#[test]
fn live_folders_end_as_their_contract_says() {
    let count = std::env::var("VFS_SYNC_TEST_SEEDS").ok().and_then(|text| text.parse().ok());
    for seed in 0..count.unwrap_or(30) {
        let failure = folders().play(seed, false).failure;
        assert_eq!(failure, None, "sim replay --folders {seed}");
    }
}

/// Histories in which something was refused, lost, or left behind once.
#[test]
fn live_folders_end_as_their_contract_says_in_histories_that_did_not() {
    let histories: [(u64, &[usize]); 5] = [
        // An edit of a file that another device edited and deleted.
        (10, &[4, 16, 19, 20, 24, 43, 45, 55]),
        // A hard link to a file that was replaced and removed.
        (3289, &[27, 37, 38, 40, 42, 45, 49]),
        // A deletion that did not apply, of a file whose content had not been sent.
        (2140, &[4, 5, 7, 12, 17, 21, 22, 24, 32, 36, 37, 42, 44, 53]),
        // A file of a cut export, in a folder that the tree deleted.
        (2468, &[18, 19, 23, 25, 41, 43, 46, 48, 52, 53, 55, 56]),
        // A cut export that gave the place of a folder to another one of its name.
        (2358, &[0, 6, 10, 16, 17, 18, 19, 20, 21, 22, 23, 32, 33, 35, 37, 40, 41, 42, 43, 44, 56]),
    ];
    for (seed, steps) in histories {
        let failure = folders().play_only(seed, &steps.iter().copied().collect(), false).failure;
        assert_eq!(failure, None, "sim replay --folders {seed} --only {steps:?}");
    }
}

#[test]
fn live_folders_whose_replica_is_opened_again_end_as_their_contract_says() {
    for seed in 40..46 {
        let simulation = Simulation { store: StoreKind::Sqlite, ..folders() };
        let failure = simulation.play(seed, false).failure;
        assert_eq!(failure, None, "sim replay --folders --store sqlite {seed}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    same_twice(folders(), 500..504);
    same_twice(Simulation::default(), 500..508);
    same_twice(Simulation { store: StoreKind::Sqlite, ..Simulation::default() }, 508..512);
}

fn same_twice(simulation: Simulation, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let [one, other] = [0, 1].map(|_| simulation.play(seed, true));
        for (line, (one, other)) in one.trace.iter().zip(&other.trace).enumerate() {
            assert_eq!(one, other, "line {line} of seed {seed}");
        }
        assert_eq!((one.trace.len(), one.digest), (other.trace.len(), other.digest), "seed {seed}");
    }
}

fn found(sabotage: Sabotage) -> (u64, Failure) {
    let simulation = Simulation { sabotage: Some(sabotage), ..Simulation::default() };
    let failures = (0..20).filter_map(|seed| Some((seed, simulation.play(seed, false).failure?)));
    failures.into_iter().next().unwrap_or_else(|| panic!("nobody finds {sabotage:?}"))
}

#[test]
fn a_push_that_was_thrown_away_is_found() {
    let kind = found(Sabotage::LostPush).1.kind;
    assert!(
        matches!(kind, FailureKind::Lost | FailureKind::Drain | FailureKind::Session),
        "{kind}"
    );
}

#[test]
fn an_entry_that_a_page_lacks_is_found() {
    assert_eq!(found(Sabotage::LostEntry).1.kind, FailureKind::Convergence);
}

#[test]
fn bytes_that_were_not_kept_are_found() {
    assert_eq!(found(Sabotage::LostBytes).1.kind, FailureKind::Content);
}

#[test]
fn a_sum_that_does_not_follow_from_its_rows_is_found() {
    assert_eq!(found(Sabotage::WrongSum).1.kind, FailureKind::Derived);
}

#[test]
fn a_world_that_does_not_heal_is_found() {
    assert_eq!(found(Sabotage::Silence).1.kind, FailureKind::FalseAlarm);
}

#[test]
fn a_failing_history_is_made_short_and_fails_the_same_way() {
    let simulation = Simulation { sabotage: Some(Sabotage::LostBytes), ..Simulation::default() };
    let (seed, failure) = found(Sabotage::LostBytes);
    let shrunk = simulation.shrink(seed).unwrap();
    assert!(shrunk.steps.len() <= 6, "{:?}", shrunk.steps);
    let again = simulation.play_only(seed, &shrunk.steps, false).failure.unwrap();
    assert_eq!(again, shrunk.failure);
    assert_eq!(again.kind, failure.kind);
    let none = simulation.play_only(seed, &BTreeSet::new(), false);
    assert_eq!(none.failure, None);
}
