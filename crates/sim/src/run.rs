//! Plays seeds on several threads, and reports the results.

pub(crate) mod args;
mod report;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use vfs_sync_sim::{Coverage, Failure, FailureKind, Simulation};

use args::{ReplayArgs, RunArgs, ShrinkArgs};

/// The findings of a run over many seeds.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) failures: BTreeMap<u64, Failure>,
    pub(crate) coverage: Coverage,
    pub(crate) played: u64,
    pub(crate) seconds: f64,
    pub(crate) interrupted: bool,
}

const NOTHING_OCCURRED: u8 = 3;
/// The exit code of a program that Ctrl-C ended, as shells report it.
const INTERRUPTED: i32 = 130;

pub(crate) fn run(args: &RunArgs) -> ExitCode {
    let found = play_all(args);
    report::found(args, &found);
    ExitCode::from(code_of_run(args, &found))
}

fn code_of_run(args: &RunArgs, found: &Found) -> u8 {
    match found.failures.values().next() {
        Some(first) => first.kind.exit_code(),
        None if args.require_coverage && !found.coverage.missing().is_empty() => NOTHING_OCCURRED,
        None => 0,
    }
}

fn play_all(args: &RunArgs) -> Found {
    let simulation = args.world.simulation();
    let began = Instant::now();
    let next = AtomicU64::new(args.seeds.start);
    let failed = AtomicUsize::new(0);
    let stop = stop_on_interrupt();
    let found = Mutex::new(Found::default());
    let bar = progress(args);
    let playing = Playing::default();
    let (working, idle) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(|| watch(args, idle, &playing, &found));
        for _ in 0..args.jobs {
            let working = working.clone();
            let (next, failed, stop, found) = (&next, &failed, &stop, &found);
            let (simulation, playing, bar) = (&simulation, &playing, &bar);
            scope.spawn(move || {
                let _working = working;
                let mut coverage = Coverage::default();
                while !stop.load(Ordering::Relaxed)
                    && failed.load(Ordering::Relaxed) < args.max_failures
                {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= args.seeds.end {
                        break;
                    }
                    playing.begin(seed);
                    let failure = play(simulation, seed, args.twice, &mut coverage);
                    playing.end(seed);
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.played += 1;
                    if let Some(failure) = failure {
                        failed.fetch_add(1, Ordering::Relaxed);
                        bar.println(format!("seed {seed}: {}", first_line(&failure)));
                        found.failures.insert(seed, failure);
                    }
                    drop(found);
                    bar.inc(1);
                }
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.coverage.absorb(&coverage);
            });
        }
        drop(working);
    });
    bar.finish_and_clear();
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.seconds = began.elapsed().as_secs_f64();
    found.interrupted = stop.load(Ordering::Relaxed);
    found
}

/// The seeds that are being played, with their start times.
#[derive(Default)]
struct Playing(Mutex<BTreeMap<u64, Instant>>);

impl Playing {
    fn begin(&self, seed: u64) {
        let mut seeds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seeds.insert(seed, Instant::now());
    }

    fn end(&self, seed: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&seed);
    }

    fn longer_than(&self, limit: Duration) -> Option<u64> {
        let seeds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seeds.iter().find(|(_, since)| since.elapsed() > limit).map(|(seed, _)| *seed)
    }
}

/// Ends the program if a seed does not end by itself, because its thread cannot be stopped.
fn watch(args: &RunArgs, idle: mpsc::Receiver<()>, playing: &Playing, found: &Mutex<Found>) {
    while idle.recv_timeout(Duration::from_millis(500)) == Err(RecvTimeoutError::Timeout) {
        let limit = Duration::from_secs(args.patience);
        let Some(seed) = playing.longer_than(limit) else { continue };
        let message = format!("it has not ended after {} s", args.patience);
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = Failure { kind: FailureKind::Endless, message, step: 0, at_millis: 0 };
        found.failures.insert(seed, failure);
        report::found(args, &found);
        std::process::exit(code_of_run(args, &found).into());
    }
}

fn first_line(failure: &Failure) -> String {
    failure.to_string().lines().next().unwrap_or_default().to_owned()
}

fn play(
    simulation: &Simulation,
    seed: u64,
    twice: bool,
    coverage: &mut Coverage,
) -> Option<Failure> {
    let outcome = simulation.play(seed, twice);
    coverage.absorb(&outcome.coverage);
    if outcome.failure.is_some() || !twice {
        return outcome.failure;
    }
    let again = simulation.play(seed, true);
    if again.digest == outcome.digest {
        return None;
    }
    let same = outcome.trace.iter().zip(&again.trace).take_while(|(one, other)| one == other);
    let line = same.count();
    let of = |trace: &[String]| trace.get(line).cloned().unwrap_or_else(|| "its end".into());
    let message = format!("line {line} is {:?} and {:?}", of(&outcome.trace), of(&again.trace));
    Some(Failure { kind: FailureKind::Determinism, message, step: 0, at_millis: 0 })
}

/// Handles Ctrl-C: the first one ends the run with the findings so far, the second one exits at
/// once.
fn stop_on_interrupt() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime
            && runtime.block_on(tokio::signal::ctrl_c()).is_ok()
        {
            told.store(true, Ordering::Relaxed);
            if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
                std::process::exit(INTERRUPTED);
            }
        }
    });
    stop
}

fn progress(args: &RunArgs) -> ProgressBar {
    if args.json {
        return ProgressBar::hidden();
    }
    let form = "{bar:30} {pos} of {len} seeds, {per_sec}, {eta} left";
    let style = ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(args.seeds.end - args.seeds.start).with_style(style)
}

pub(crate) fn replay(args: &ReplayArgs) -> ExitCode {
    let simulation = args.world.simulation();
    let outcome = match args.only() {
        Some(only) => simulation.play_only(args.seed, &only, true),
        None => simulation.play(args.seed, true),
    };
    report::history(args.seed, &outcome, args.json);
    code_of(outcome.failure.as_ref())
}

pub(crate) fn shrink(args: &ShrinkArgs) -> ExitCode {
    let simulation = args.world.simulation();
    let Some(shrunk) = simulation.shrink(args.seed) else {
        report::nothing_to_shrink(args.seed, args.json);
        return ExitCode::SUCCESS;
    };
    let outcome = simulation.play_only(args.seed, &shrunk.steps, true);
    report::shrunk(&simulation, args.seed, &shrunk, &outcome, args.json);
    code_of(Some(&shrunk.failure))
}

fn code_of(failure: Option<&Failure>) -> ExitCode {
    failure.map_or(ExitCode::SUCCESS, |failure| ExitCode::from(failure.kind.exit_code()))
}
