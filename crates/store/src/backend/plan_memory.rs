//! The memory in which a change is planned.

/// The memory from which a chunk is written: that of some thousand items.
const CHUNK: usize = 2 << 20;

/// The bytes of memory that planning one change takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlanMemory {
    /// The most that it may take.
    pub(crate) most: usize,
    /// The memory from which a change that narrows views is written in chunks.
    pub(crate) chunk: usize,
}

impl PlanMemory {
    /// Memory without a bound, and chunks of the usual size.
    pub(crate) const UNBOUNDED: Self = Self { most: usize::MAX, chunk: CHUNK };

    /// Creates a bound, within which several chunks have room.
    pub(crate) fn within(most: usize) -> Self {
        Self { most, chunk: CHUNK.min(most / 8) }
    }
}
