//! Sharing: who may access an item, and granting and revoking that access.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use vfs_sync_core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_core::id::{ItemId, PrincipalId, UserId};

use crate::api::node::{Child, Grant, Reader};
use crate::client::SyncClient;
use crate::error::{ClientError, Result};

/// Returns a user as a principal.
fn of_user(user: &UserId) -> Principal {
    let id = PrincipalId::new(user.as_str()).expect("a user's id is an id");
    Principal { kind: PrincipalType::User, id }
}

/// The calls about grants on items, and about items that others share with the user.
#[derive(Clone, Copy)]
pub struct Sharing<'a> {
    client: &'a SyncClient,
}

impl SyncClient {
    /// Returns the calls that share items and list shares.
    #[must_use]
    pub fn sharing(&self) -> Sharing<'_> {
        Sharing { client: self }
    }
}

impl Sharing<'_> {
    /// Grants `principal` a level on an item and everything under it in its owner's tree, replacing
    /// an earlier grant to the principal. Any principal may be named: the server does not disclose
    /// who exists ([`HttpTransport::knows`](crate::HttpTransport::knows) asks for that explicitly).
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`], [`ClientError::NotPermitted`] without `admin`, and
    /// [`ClientError::Invalid`] if the principal owns the item.
    pub fn share(self, item: &ItemId, principal: Principal, level: AccessLevel) -> Result<()> {
        let node = self.client.node(item)?.ok_or_else(|| ClientError::UnknownItem(item.clone()))?;
        if principal == of_user(&node.owner) {
            return Err(ClientError::Invalid(format!("{} owns it already", node.owner)));
        }
        let mut batch = self.client.batch();
        batch.grant(item, principal, level);
        batch.commit().map(drop)
    }

    /// Returns true if this user may delete an item, as far as this replica knows: with `admin` on
    /// it; or with `write`, if it is in folders of its owner and the user may write all of them.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`].
    pub fn may_delete(self, item: &ItemId) -> Result<bool> {
        let mut store = self.client.store();
        let node = store.node(item)?.ok_or_else(|| ClientError::UnknownItem(item.clone()))?;
        if node.access_level != AccessLevel::Write {
            return Ok(node.access_level == AccessLevel::Admin);
        }
        let mut hangs = false;
        for parent in store.parents(item)? {
            let Some(parent) = store.node(&parent)? else { continue };
            if parent.owner == node.owner {
                if parent.access_level < AccessLevel::Write {
                    return Ok(false);
                }
                hangs = true;
            }
        }
        Ok(hangs)
    }

    /// Removes the grant to `principal` on this item; returns whether this replica knew of one.
    /// Access by other grants (on a container, or to a group) stays.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`], and [`ClientError::NotPermitted`] without `admin`, unless the
    /// grant is the user's own.
    pub fn unshare(self, item: &ItemId, principal: Principal) -> Result<bool> {
        let known = self.grants(item)?.iter().any(|grant| grant.principal == principal);
        let mut batch = self.client.batch();
        batch.revoke(item, principal);
        batch.commit()?;
        Ok(known)
    }

    /// Works as [`Self::share`] for the item at a path.
    ///
    /// # Errors
    /// [`ClientError::UnknownPath`], and as [`Self::share`].
    pub fn share_path(self, path: &str, principal: Principal, level: AccessLevel) -> Result<()> {
        self.share(&self.client.resolve(path)?.id, principal, level)
    }

    /// Works as [`Self::unshare`] for the item at a path.
    ///
    /// # Errors
    /// [`ClientError::UnknownPath`], and as [`Self::unshare`].
    pub fn unshare_path(self, path: &str, principal: Principal) -> Result<bool> {
        self.unshare(&self.client.resolve(path)?.id, principal)
    }

    /// Lists the grants on an item itself, by principal.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`].
    pub fn grants(self, item: &ItemId) -> Result<Vec<Grant>> {
        let mut store = self.client.store();
        store.node(item)?.ok_or_else(|| ClientError::UnknownItem(item.clone()))?;
        store.grants(item)
    }

    /// Lists every item with its own grants, by id.
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn list(self) -> Result<Vec<(ItemId, Vec<Grant>)>> {
        let mut store = self.client.store();
        let mut shares = Vec::new();
        for item in store.granted_items()? {
            let grants = store.grants(&item)?;
            if !grants.is_empty() && store.node(&item)?.is_some() {
                shares.push((item, grants));
            }
        }
        Ok(shares)
    }

    /// Lists who may read an item, and by which grant: its owner first, then each principal with
    /// its highest level among the grants on the item and on the containers above it in its owner's
    /// tree. Grants on containers that this user cannot see are missing.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`].
    pub fn audience(self, item: &ItemId) -> Result<Vec<Reader>> {
        let mut store = self.client.store();
        let node = store.node(item)?.ok_or_else(|| ClientError::UnknownItem(item.clone()))?;
        let mut readers: BTreeMap<Principal, Reader> = BTreeMap::new();
        let mut seen = HashSet::from([item.clone()]);
        // Nearest first, so that of two equal grants the nearer is listed.
        let mut level = BTreeSet::from([item.clone()]);
        while !level.is_empty() {
            let mut above = BTreeSet::new();
            for at in &level {
                for grant in store.grants(at)? {
                    let reader = Reader {
                        principal: grant.principal.clone(),
                        level: grant.level,
                        through: at.clone(),
                    };
                    let known = readers.entry(grant.principal).or_insert_with(|| reader.clone());
                    if known.level < reader.level {
                        *known = reader;
                    }
                }
                for parent in store.parents(at)? {
                    let of_tree = store.node(&parent)?.is_some_and(|one| one.owner == node.owner);
                    if of_tree && seen.insert(parent.clone()) {
                        above.insert(parent);
                    }
                }
            }
            level = above;
        }
        let owner = of_user(&node.owner);
        readers.remove(&owner);
        let owner = Reader { principal: owner, level: AccessLevel::Admin, through: item.clone() };
        Ok(std::iter::once(owner).chain(readers.into_values()).collect())
    }

    /// Lists the items that others share with this user, by owner, then by name; names are unique
    /// for each owner. The list joins the results of [`SyncClient::shared_by`] for all
    /// [`SyncClient::shared_owners`].
    ///
    /// # Errors
    /// Only if the replica cannot be read.
    pub fn with_me(self) -> Result<Vec<Child>> {
        let mut shared = Vec::new();
        for owner in self.client.shared_owners()? {
            shared.extend(self.client.shared_by(&owner)?);
        }
        Ok(shared)
    }

    /// Declines a share: removes the grant to this user on the item itself.
    ///
    /// # Errors
    /// [`ClientError::UnknownItem`]; [`ClientError::Invalid`] if the item is the user's own;
    /// [`ClientError::NotDeclined`] if no grant on it names the user, whose access then comes from
    /// a group or a container above.
    pub fn decline(self, item: &ItemId) -> Result<()> {
        let user = self.client.user();
        let node = self.client.node(item)?.ok_or_else(|| ClientError::UnknownItem(item.clone()))?;
        if node.owner == user {
            return Err(ClientError::Invalid(format!("{item} is {user}'s own: nobody shares it")));
        }
        let principal = of_user(&user);
        if !self.grants(item)?.iter().any(|grant| grant.principal == principal) {
            let mut through = self.audience(item)?;
            through.retain(|reader| {
                reader.principal == principal || reader.principal.kind != PrincipalType::User
            });
            return Err(ClientError::NotDeclined { item: item.clone(), through });
        }
        self.unshare(item, principal).map(drop)
    }
}
