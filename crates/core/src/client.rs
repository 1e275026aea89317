//! The machines that a client runs: its clock, pulling, pushing its queue, reconciling, offering
//! again what a server lost, and the exported state.

pub mod clock;
pub mod flush;
pub mod offer;
pub mod pull;
pub mod reconcile;
pub mod state;
