//! The rules of vfs-sync, with no clock, randomness, runtime or I/O.
//!
//! What both sides of the wire share is here, once: the values ([`id`], [`time`], [`cursor`],
//! [`op`], [`entry`]), how registers merge ([`register`]), how the server decides a push
//! ([`push`]) and an attach ([`attach`]), and the machines that a client runs ([`pull`],
//! [`flush`], [`reconcile`], [`offer`], [`state`]) with every guardrail ([`guardrail`]).
//! Time and entropy come in as values; effects go out as values.

pub mod access;
pub mod attach;
pub mod clock;
pub mod content;
pub mod cursor;
pub mod entry;
pub mod flush;
pub mod guardrail;
pub mod history;
pub mod id;
pub mod item;
pub mod limits;
pub mod offer;
pub mod op;
pub mod pull;
pub mod push;
pub mod reconcile;
pub mod register;
pub mod shown;
pub mod stamp;
pub mod state;
pub mod time;
pub mod trash;
pub mod tree;
pub mod wire;
