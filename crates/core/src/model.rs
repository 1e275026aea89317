//! The data model: operations and the registers they set, how registers merge, the entries of a
//! feed, and the tree that a user sees.

pub mod entry;
pub mod item;
pub mod operation;
pub mod register;
pub mod shown;
pub mod stamp;
pub mod tree;
