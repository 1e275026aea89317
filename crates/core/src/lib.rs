//! The rules of vfs-sync, with no clock, randomness, runtime or I/O.
//!
//! Each rule that both sides of the wire share is here, once: the values ([`id`], [`time`],
//! [`cursor`], …), the model (operations, registers and how they merge, feed entries, the tree),
//! the wire format ([`wire`]), every guardrail ([`guardrail`]), and what an operator does about each
//! ([`runbook`]). [`server`] decides a push and
//! an attach; [`client`] has the machines that a replica runs.
//! Time and entropy come in as values; effects go out as values.

pub mod client;
pub mod guardrail;
mod model;
pub mod runbook;
pub mod server;
mod value;
pub mod wire;

pub use model::{entry, item, operation, register, shown, stamp, tree};
pub use value::{access, content, cursor, id, limits, problem, time};
