//! Access levels and the principals that a grant can name.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{PrincipalId, UserId};

/// A user's level of access to an item: `read < write < admin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[derive(strum::Display, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum AccessLevel {
    /// May see the item and its content.
    Read,
    /// May change fields, content and children.
    Write,
    /// May delete the item and decide who sees it.
    Admin,
}

impl AccessLevel {
    /// Returns the level's name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The kind of a principal that a grant names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[derive(strum::Display, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum PrincipalType {
    /// A single user, by id.
    User,
    /// The members of a group.
    Group,
    /// The members of an organization.
    Organization,
}

impl PrincipalType {
    /// Returns the kind's name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The principal that a grant names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Principal {
    /// The kind of the principal.
    pub kind: PrincipalType,
    /// The id within the kind.
    pub id: PrincipalId,
}

impl Principal {
    /// Returns the principal for a user.
    #[must_use]
    pub fn of_user(user: &UserId) -> Option<Self> {
        let id = PrincipalId::new(user.as_str()).ok()?;
        Some(Self { kind: PrincipalType::User, id })
    }

    /// Returns the user, if the principal is a single user.
    #[must_use]
    pub fn user(&self) -> Option<UserId> {
        (self.kind == PrincipalType::User).then(|| UserId::new(self.id.as_str()).ok()).flatten()
    }
}

/// The users other than the owner who see an item, each with their level.
pub type Audience = BTreeMap<UserId, AccessLevel>;
/// The readable form, such as `group:eng`.
impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.id)
    }
}
