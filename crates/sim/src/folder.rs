//! Worlds of live folders: devices whose directories the product's own engine keeps in step, while programs
//! save in them, operations of the disk fail, and processes are killed.
//!
//! The directories are real, in memory where the machine has such a place. Before each operation of the engine
//! on a disk (`vfs_sync_folder::seam`) a program may take its next step, so every order of the two occurs.

mod device;
mod disk;
mod plan;
mod program;
mod saved;
mod world;

pub(crate) use self::plan::{Plan, Step};
pub(crate) use self::world::play;
