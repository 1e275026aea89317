//! The measurements, each compared with its budget or with the raw engine.

pub(crate) mod apply;
pub(crate) mod contents;
pub(crate) mod folder;
pub(crate) mod large;
pub(crate) mod live;
pub(crate) mod operator;
mod peers;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod sharing;
