//! Access levels and the principals that a grant can name.

use serde::{Deserialize, Serialize};

use crate::id::PrincipalId;

/// What a user may do with an item: `read < write < admin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLevel {
    /// See the item and its content.
    Read,
    /// Change fields, content and what hangs under it.
    Write,
    /// Delete it and decide who sees it.
    Admin,
}

/// What kind of principal a grant names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrincipalType {
    /// One user.
    User,
    /// The members of a group.
    Group,
    /// The members of an organization.
    Organization,
}

/// Whom a grant names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Principal {
    /// The kind.
    pub kind: PrincipalType,
    /// The id within the kind.
    pub id: PrincipalId,
}
