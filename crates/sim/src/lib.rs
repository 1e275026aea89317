//! A deterministic simulator of vfs-sync.
//!
//! A seed determines a world: users with devices, servers over one database and one object store,
//! and a history of work and faults. Clients and servers are the product's own; the network between
//! them, the clocks, the object store, and the deaths of processes are simulated. Everything runs
//! on one thread in simulated time, so a seed gives the same run each time, byte for byte.
//!
//! Checkers compare each commit with a model of the protocol's rules, and each replica with the
//! view that its user must have according to the model.
//!
//! ```
//! use vfs_sync_sim::Simulation;
//!
//! let simulation = Simulation { steps: 50, ..Simulation::default() };
//! assert_eq!(simulation.play(7, false).failure, None);
//! ```

mod actor;
mod folder;
mod infra;
mod oracle;
mod plan;
mod world;

use std::collections::BTreeSet;

pub use infra::database::StoreKind;
pub use infra::disk;
pub use infra::sabotage::Sabotage;
pub use oracle::coverage::{Coverage, Kind};
pub use oracle::failure::{Failure, FailureKind};
pub use plan::shrink::Shrunk;
pub use world::Outcome;

use infra::database::Database;
use plan::Plan;

/// The settings of a simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Simulation {
    /// The number of steps in a history.
    pub steps: usize,
    /// The back end for the servers' metadata.
    pub store: StoreKind,
    /// True for worlds of live folders, whose `store` is that of the replicas.
    pub folders: bool,
    /// A deliberate silent fault, which verifies that the checkers find it.
    pub sabotage: Option<Sabotage>,
}

impl Default for Simulation {
    fn default() -> Self {
        Self { steps: 200, store: StoreKind::default(), folders: false, sabotage: None }
    }
}

impl Simulation {
    /// Plays the history of a seed. With `tracing` the outcome contains every line of the trace.
    #[must_use]
    pub fn play(&self, seed: u64, tracing: bool) -> Outcome {
        self.play_some(seed, tracing, &|_| true)
    }

    /// Plays only some steps of a seed's history, by their numbers.
    #[must_use]
    pub fn play_only(&self, seed: u64, steps: &BTreeSet<usize>, tracing: bool) -> Outcome {
        self.play_some(seed, tracing, &|step| steps.contains(&step))
    }

    fn play_some(&self, seed: u64, tracing: bool, keep: &dyn Fn(usize) -> bool) -> Outcome {
        if self.folders {
            return folder::play(&self.folder_plan(seed), tracing, keep);
        }
        let plan = self.plan(seed);
        let database = Database::new(self.store, plan.random(300));
        world::play(plan, database, self.sabotage, tracing, keep)
    }

    /// Finds the fewest steps of a failing seed that still fail in the same way; `None` if it does
    /// not fail. It plays some hundreds of histories.
    #[must_use]
    pub fn shrink(&self, seed: u64) -> Option<Shrunk> {
        plan::shrink::shrink(self, seed)
    }

    /// Describes the steps of a seed's history, one line for each.
    #[must_use]
    pub fn describe(&self, seed: u64) -> Vec<String> {
        if self.folders {
            let line = |step: &folder::Step| format!("{:?}", step.what);
            return self.folder_plan(seed).steps.iter().map(line).collect();
        }
        let line = |step: &plan::Step| match step.disk {
            None => format!("{:?}", step.what),
            Some(trouble) => format!("{trouble:?}, {:?}", step.what),
        };
        self.plan(seed).steps.iter().map(line).collect()
    }

    fn folder_plan(&self, seed: u64) -> folder::Plan {
        folder::Plan::of_seed(seed, self.steps, self.store == StoreKind::Sqlite)
    }

    fn plan(&self, seed: u64) -> Plan {
        let plan = Plan::of_seed(seed, self.steps);
        match self.store {
            StoreKind::Memory => plan,
            StoreKind::Sqlite => plan.on_disks(),
        }
    }
}
