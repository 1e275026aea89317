//! The machines that a client runs: its clock, the pull, the push of its queue, the reconcile,
//! offering again, and the exported state.

pub mod clock;
pub mod flush;
pub mod offer;
pub mod pull;
pub mod reconcile;
pub mod state;
