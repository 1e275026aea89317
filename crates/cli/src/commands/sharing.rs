//! Commands on access: grants, blocked owners, groups.

pub(super) mod block;
pub(super) mod group;
pub(super) mod share;
