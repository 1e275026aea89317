//! Stamps: the total order by which registers merge.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{ReplicaId, UserId, WriteId};
use crate::time::Timestamp;

/// The time and author of a write to a register. Stamps are compared field by field, in this order.
/// The order is total, so the outcome of a merge does not depend on the order of arrival.
///
/// Comparing one replica's writes by write id and others by time would not be transitive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// The time of the write, limited to the server's time plus the accepted lead.
    pub authored_at: Timestamp,
    /// The author: user, replica and write id.
    pub author: Arc<Author>,
}

/// The part of a [`Stamp`] that names its operation. All stamps of one operation share it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Author {
    /// The user who wrote.
    pub user: UserId,
    /// The replica of the user.
    pub replica: ReplicaId,
    /// The number of the write in its replica.
    pub write_id: WriteId,
}

impl Author {
    /// Returns the author under another user's name, with a replica that names nothing.
    #[must_use]
    pub fn renamed(&self, to: &UserId) -> Self {
        Self { user: to.clone(), replica: ReplicaId::nameless(), write_id: self.write_id }
    }
}
