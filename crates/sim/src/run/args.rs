//! The command line of the simulator.

use std::collections::BTreeSet;
use std::ops::Range;

use clap::{Parser, Subcommand, ValueEnum};
use vfs_sync_sim::{Simulation, StoreKind};

const EXIT_CODES: &str = "\
Exit codes: 0 nothing found · 2 a mistake on the command line · 3 something never occurred, with \
--require-coverage · 10 convergence · 11 answer · 12 lost · 13 applied-twice · 14 session · \
15 causality · 16 cycle · 17 fail-closed · 18 false-alarm · 19 drain · 20 secrecy · 21 content · \
22 panic · 23 determinism · 24 endless · 25 torn · 26 echo · 27 identity · 28 derived (of several \
failures, the code of the lowest seed)

Examples:
  sim run --seeds 0..10000
  sim run --seeds 0..100000 --jobs 2 --require-coverage
  sim replay 4711
  sim shrink 4711
  sim replay 4711 --only 3,17,42";

/// Plays worlds of vfs-sync clients and servers, with faults, and checks what must hold.
#[derive(Debug, Parser)]
#[command(name = "sim", version, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Simulates the history of each seed and reports the ones that broke a promise.
    Run(RunArgs),
    /// Simulates one seed and prints every event.
    Replay(ReplayArgs),
    /// Finds the fewest steps of a failing seed that still fail, and prints their events.
    Shrink(ShrinkArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct WorldArgs {
    /// Steps of a history: 200, or 60 with --folders.
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Live folders: programs that save in directories, under the engine that keeps these in step.
    #[arg(long)]
    folders: bool,
    /// The back end for the servers' metadata; with --folders that of the replicas.
    #[arg(long, value_enum, default_value_t)]
    store: Store,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Store {
    /// A store in memory.
    #[default]
    Memory,
    /// A SQLite file: on a simulated disk, or with --folders one that a killed process opens again.
    Sqlite,
}

impl WorldArgs {
    pub(crate) fn simulation(&self) -> Simulation {
        let store = match self.store {
            Store::Memory => StoreKind::Memory,
            Store::Sqlite => StoreKind::Sqlite,
        };
        let steps = self.steps.unwrap_or(if self.folders { 60 } else { 200 });
        Simulation { steps, store, folders: self.folders, ..Simulation::default() }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The range of seeds: from the first up to, and without, the last.
    #[arg(long, default_value = "0..1000", value_name = "A..B", value_parser = seeds)]
    pub(crate) seeds: Range<u64>,
    /// Threads; each plays one world at a time.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) jobs: u16,
    /// Ends after so many failures.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) max_failures: usize,
    /// Ends with the failure `endless` if a seed takes longer.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub(crate) patience: u64,
    /// Each seed twice: both runs must be the same.
    #[arg(long)]
    pub(crate) twice: bool,
    /// Fails if a fault or a guardrail never occurred.
    #[arg(long)]
    pub(crate) require_coverage: bool,
    /// Prints one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) world: WorldArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    /// The seed of the history.
    pub(crate) seed: u64,
    /// Runs only these steps, by their numbers, as `sim shrink` prints them.
    #[arg(long, value_delimiter = ',', value_name = "STEPS")]
    pub(crate) only: Option<Vec<usize>>,
    /// Prints one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) world: WorldArgs,
}

impl ReplayArgs {
    pub(crate) fn only(&self) -> Option<BTreeSet<usize>> {
        self.only.as_ref().map(|steps| steps.iter().copied().collect())
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShrinkArgs {
    /// The seed of the history.
    pub(crate) seed: u64,
    /// Prints one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) world: WorldArgs,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let form = || "must be like 0..1000, or one seed".to_owned();
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| form());
    match text.split_once("..") {
        Some((first, last)) => {
            let range = number(first)?..number(last)?;
            if range.is_empty() { Err("has no seed in it".into()) } else { Ok(range) }
        }
        None => {
            let seed = number(text)?;
            Ok(seed..seed.checked_add(1).ok_or_else(form)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[test]
    fn seeds_are_a_range_or_one() {
        assert_eq!(seeds("3..7"), Ok(3..7));
        assert_eq!(seeds("3"), Ok(3..4));
        for bad in ["", "7..3", "a..b", "-1", "18446744073709551615"] {
            assert!(seeds(bad).is_err(), "{bad}");
        }
    }
}
