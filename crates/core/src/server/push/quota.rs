//! Quotas of what a user owns besides contents: items, links, grants, and the bytes of their
//! registers. Whatever is written into a realm counts against its owner.

use super::decide::{Decider, Refusal};
use super::rows::Rows;
use crate::id::UserId;
use crate::register::ItemFields;
use crate::server::stage::OverQuota;

/// The bounds on what a user's realm may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetadataQuota {
    /// Items, deleted ones included until they are forgotten.
    pub items: u64,
    /// Links, removed ones included: each is a register.
    pub links: u64,
    /// Grants, removed ones included: each is a register.
    pub grants: u64,
    /// Bytes of the names, metadata and encrypted forms of items.
    pub bytes: u64,
    /// Replicas of the user.
    pub replicas: u64,
    /// Results of a replica's operations that are kept for repetitions, those of the highest write
    /// ids. Beyond it nothing is refused: older ones are forgotten.
    pub results: u64,
}

impl MetadataQuota {
    /// The quota that bounds nothing.
    pub const NONE: Self = Self {
        items: u64::MAX,
        links: u64::MAX,
        grants: u64::MAX,
        bytes: u64::MAX,
        replicas: u64::MAX,
        results: u64::MAX,
    };
}

impl Default for MetadataQuota {
    fn default() -> Self {
        Self {
            items: 10_000_000,
            links: 20_000_000,
            grants: 1_000_000,
            bytes: 16 << 30,
            replicas: 10_000,
            results: 10_000,
        }
    }
}

/// The numbers of rows and bytes that a user's realm holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MetadataUsage {
    /// The number of items.
    pub items: u64,
    /// The number of links.
    pub links: u64,
    /// The number of grants.
    pub grants: u64,
    /// The bytes of the items' registers.
    pub bytes: u64,
}

/// By how much a transaction changes what a realm holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageChange {
    /// The change of the number of items.
    pub items: i64,
    /// The change of the number of links.
    pub links: i64,
    /// The change of the number of grants.
    pub grants: i64,
    /// The change of the bytes of the items' registers.
    pub bytes: i64,
}

impl UsageChange {
    /// Returns the change of an item's bytes from `before` to `after`.
    #[must_use]
    pub fn of_fields(before: Option<&ItemFields>, after: &ItemFields) -> Self {
        let weight = |fields: &ItemFields| i64::try_from(fields.weight()).unwrap_or(i64::MAX);
        Self { bytes: weight(after) - before.map_or(0, weight), ..Self::default() }
    }

    /// Returns the change of both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            items: self.items + other.items,
            links: self.links + other.links,
            grants: self.grants + other.grants,
            bytes: self.bytes + other.bytes,
        }
    }

    /// Returns whether nothing changes.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl MetadataUsage {
    /// Returns the usage after a change. What shrinks is never refused, whatever the bounds are by
    /// now.
    ///
    /// # Errors
    /// [`OverQuota`] names the first bound that is passed.
    pub fn with(self, change: UsageChange, quota: &MetadataQuota) -> Result<Self, OverQuota> {
        let part = |limit, held: u64, change: i64, max: u64| {
            let wanted = held.saturating_add_signed(change);
            if change > 0 && wanted > max {
                Err(OverQuota { limit, max, wanted })
            } else {
                Ok(wanted)
            }
        };
        Ok(Self {
            items: part("maxItems", self.items, change.items, quota.items)?,
            links: part("maxLinks", self.links, change.links, quota.links)?,
            grants: part("maxGrants", self.grants, change.grants, quota.grants)?,
            bytes: part("maxRegisterBytes", self.bytes, change.bytes, quota.bytes)?,
        })
    }
}

impl Rows {
    /// Returns what a locked realm holds.
    fn usage_of(&self, owner: &UserId) -> MetadataUsage {
        self.usage.get(owner).copied().unwrap_or_default()
    }
}

impl Decider<'_> {
    /// Counts a change against the owner of a realm, before anything of it is written.
    ///
    /// # Errors
    /// The refusal of one beyond the owner's quota, which ends the push.
    pub(super) fn charge(&mut self, owner: &UserId, change: UsageChange) -> Result<(), Refusal> {
        if change.is_none() {
            return Ok(());
        }
        let own = self.rows.limits.get(owner).map(|own| own.metadata(&self.batch.quota));
        let quota = own.as_ref().unwrap_or(&self.batch.quota);
        let usage = self.rows.usage_of(owner).with(change, quota);
        let usage = usage.map_err(|over| Refusal::OverQuota(owner.clone(), over))?;
        self.rows.usage.insert(owner.clone(), usage);
        let held = self.changes.usage.entry(owner.clone()).or_default();
        *held = held.and(change);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: MetadataQuota =
        MetadataQuota { items: 3, links: 4, grants: 5, bytes: 100, ..MetadataQuota::NONE };

    #[test]
    fn each_bound_is_reached_and_not_passed() {
        let one = |limit: usize, by: i64| {
            let of = |n| if n == limit { by } else { 0 };
            UsageChange { items: of(0), links: of(1), grants: of(2), bytes: of(3) }
        };
        let bounds =
            [("maxItems", 3), ("maxLinks", 4), ("maxGrants", 5), ("maxRegisterBytes", 100)];
        for (at, (limit, max)) in bounds.into_iter().enumerate() {
            let full = MetadataUsage::default().with(one(at, max), &QUOTA).unwrap();
            let (max, wanted) = (max as u64, max as u64 + 1);
            assert_eq!(full.with(one(at, 1), &QUOTA), Err(OverQuota { limit, max, wanted }));
            full.with(one(at, -1), &QUOTA).unwrap();
            let smaller = MetadataQuota { items: 0, links: 0, grants: 0, bytes: 0, ..QUOTA };
            full.with(one(at, -1), &smaller).unwrap();
        }
    }
}
