//! Shrinks a failing history: leaves out steps while the history still fails in the same way.

use std::collections::BTreeSet;

use crate::{Failure, Simulation};

/// A short history that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shrunk {
    /// The failure of the reduced history.
    pub failure: Failure,
    /// The steps that the failure needs, by their numbers.
    pub steps: BTreeSet<usize>,
    /// The number of histories that were played to find it.
    pub played: usize,
}

/// The greatest number of histories to play.
const PATIENCE: usize = 600;

pub(crate) fn shrink(simulation: &Simulation, seed: u64) -> Option<Shrunk> {
    let failure = simulation.play(seed, false).failure?;
    // Nothing after the step at which it was found can matter.
    let steps: Vec<usize> = (0..simulation.steps.min(failure.step + 1)).collect();
    let mut shrunk = Shrunk { steps: steps.iter().copied().collect(), failure, played: 1 };
    let mut size = shrunk.steps.len().div_ceil(2).max(1);
    loop {
        let mut progress = false;
        let all: Vec<usize> = shrunk.steps.iter().copied().collect();
        // From the end, because late steps depend on early ones.
        for part in all.chunks(size).rev() {
            if shrunk.played == PATIENCE {
                return Some(shrunk);
            }
            let mut fewer = shrunk.steps.clone();
            fewer.retain(|step| !part.contains(step));
            shrunk.played += 1;
            let found = simulation.play_only(seed, &fewer, false).failure;
            if let Some(found) = found.filter(|found| found.kind == shrunk.failure.kind) {
                (shrunk.steps, shrunk.failure, progress) = (fewer, found, true);
            }
        }
        if size == 1 && !progress {
            return Some(shrunk);
        }
        size = if progress { size.min(shrunk.steps.len().max(1)) } else { size.div_ceil(2) };
    }
}
