//! The place at which a simulator takes hold of the engine: before each operation of the disk it may let
//! something else happen, fail the operation, or end the process; and it gives the time and new names.
//!
//! Without the feature `simulation` all of this is the real thing, at no cost. With it, a thread that has a
//! `Simulator` does all work of the engine by itself, so that a run can be repeated.

use std::io;
use std::time::{Instant, SystemTime};

/// An operation of the disk that is about to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "simulation"), allow(dead_code, reason = "nobody is told"))]
pub enum Operation {
    /// Reads the names in a folder, or the next of them.
    List,
    /// Reads the attributes of an entry.
    Stat,
    /// Opens a file or folder that exists.
    Open,
    /// Reads bytes of a file.
    Read,
    /// Reads the target of a link.
    Target,
    /// Creates a file, a folder or a link.
    Create,
    /// Writes bytes to a file.
    Write,
    /// Sets permission bits or times.
    Attributes,
    /// Renames an entry, or exchanges two.
    Rename,
    /// Removes a file or folder.
    Remove,
    /// Waits until something is durable.
    Sync,
    /// Commits rows or operations to the replica.
    Commit,
}

/// The simulator of a thread.
#[cfg(feature = "simulation")]
pub trait Simulator {
    /// Acts right before an operation. It may unwind, as a process that is killed does nothing more.
    ///
    /// # Errors
    /// If the operation fails.
    fn before(&self, operation: Operation) -> io::Result<()>;

    /// Returns 128 bits that were never used before.
    fn unique(&self) -> u128;

    /// Returns the time of the system's clock.
    fn now(&self) -> SystemTime;

    /// Returns whether another process has the file open for writing, by device and inode.
    fn is_open(&self, id: (u64, u64)) -> bool;
}

#[cfg(feature = "simulation")]
mod simulated {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::Simulator;

    thread_local! {
        static SIMULATOR: RefCell<Option<Rc<dyn Simulator>>> = const { RefCell::new(None) };
    }

    /// Gives this thread a simulator, or takes it away.
    pub fn simulate(simulator: Option<Rc<dyn Simulator>>) {
        SIMULATOR.with(|own| *own.borrow_mut() = simulator);
    }

    pub(super) fn simulator() -> Option<Rc<dyn Simulator>> {
        SIMULATOR.with(|own| own.borrow().clone())
    }
}

#[cfg(feature = "simulation")]
pub use simulated::simulate;

/// Returns whether this thread has a simulator: no other thread may work for it.
pub(crate) fn is_simulated() -> bool {
    #[cfg(feature = "simulation")]
    return simulated::simulator().is_some();
    #[cfg(not(feature = "simulation"))]
    false
}

/// Lets the simulator act before an operation.
#[inline]
#[cfg_attr(not(feature = "simulation"), allow(unused_variables, reason = "nobody is told"))]
pub(crate) fn before(operation: Operation) -> io::Result<()> {
    #[cfg(feature = "simulation")]
    if let Some(simulator) = simulated::simulator() {
        return simulator.before(operation);
    }
    Ok(())
}

/// Returns bits that were never used before, for a name.
pub(crate) fn unique() -> uuid::Uuid {
    #[cfg(feature = "simulation")]
    if let Some(simulator) = simulated::simulator() {
        return uuid::Uuid::from_u128(simulator.unique());
    }
    uuid::Uuid::now_v7()
}

/// Returns the time of the system's clock.
pub(crate) fn now() -> SystemTime {
    #[cfg(feature = "simulation")]
    if let Some(simulator) = simulated::simulator() {
        return simulator.now();
    }
    SystemTime::now()
}

/// Returns the present moment of a clock that only moves forward.
pub(crate) fn instant() -> Instant {
    #[cfg(feature = "simulation")]
    if is_simulated() {
        return tokio::time::Instant::now().into_std();
    }
    Instant::now()
}

/// Returns whether another process has a file open for writing; `None` if the system has to be asked.
#[cfg_attr(not(feature = "simulation"), allow(unused_variables, reason = "nobody is asked"))]
pub(crate) fn is_open(id: (u64, u64)) -> Option<bool> {
    #[cfg(feature = "simulation")]
    return simulated::simulator().map(|simulator| simulator.is_open(id));
    #[cfg(not(feature = "simulation"))]
    None
}
