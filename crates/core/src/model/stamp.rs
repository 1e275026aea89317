//! Stamps: the total order by which registers merge.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{ReplicaId, UserId, WriteId};
use crate::time::Timestamp;

/// When and by whom a register was written. Compared field by field, in this order: a total
/// order, so that the outcome of a merge does not depend on who arrives first.
///
/// Comparing one replica by write id and others by time would not be transitive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// When it was written, as far as the server believes the author's clock.
    pub authored_at: Timestamp,
    /// Who wrote it, on which replica, and the replica's counter.
    pub author: Arc<Author>,
}

/// The part of a [`Stamp`] that names its operation. Two stamps of one operation share it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Author {
    /// The user.
    pub user: UserId,
    /// The user's replica.
    pub replica: ReplicaId,
    /// The replica's counter.
    pub write_id: WriteId,
}
