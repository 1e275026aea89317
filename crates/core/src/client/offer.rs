//! Offering again: decides which changes a replica sends back to a server that lost part of its
//! history.
//!
//! A server that was restored from a backup, emptied or failed over lacks changes that a replica
//! received. [`Shared`] is the part of the history that both have. [`decide`] compares the
//! replica's confirmed state with the server's present one. It returns the operations and contents
//! to send, in order, and separately the changes that cannot be offered, with the reasons.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::access::{AccessLevel, Principal, PrincipalType};
use crate::content::{Attachment, Sha256Digest};
use crate::cursor::{Cursor, Epoch, Position};
use crate::entry::ItemView;
use crate::id::{BlobId, ItemId, RefId, ReplicaId, StagingId, UserId};
use crate::item::Metadata;
use crate::operation::{Action, Upsert};
use crate::time::Timestamp;

/// The greatest number of registers that are read at a time.
pub const PAGE: usize = 500;
/// The longest path that is stored with a lost change, in bytes.
const MAX_PATH_BYTES: usize = 4_096;
/// The greatest number of former epochs that a replica remembers.
const MAX_TRAIL: usize = 256;

/// A register as the replica holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Held<T> {
    /// The value of the register.
    pub value: T,
    /// The time of the item's greatest stamp.
    pub authored_at: Timestamp,
    /// The feed position that delivered the value; `None` if it is not known.
    pub at: Option<Position>,
}

/// A link: its container and its child.
pub type HeldLink = Held<(ItemId, ItemId)>;
/// A grant: the item, the principal and the level.
pub type HeldGrant = (ItemId, Principal, Held<AccessLevel>);

/// A register that was present and is removed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Removal {
    /// The item was deleted.
    Item(ItemId),
    /// The link was removed.
    Link {
        /// The container of the link.
        parent: ItemId,
        /// The item that hung under the container.
        child: ItemId,
    },
    /// The grant was removed.
    Grant {
        /// The item that the grant was on.
        item: ItemId,
        /// The principal that had the grant.
        principal: Principal,
    },
}

/// The part of a feed's history that a replica and a server both have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    through: Through,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Through {
    Nothing,
    Position(Position, Timestamp),
    Everything,
}

impl Shared {
    /// Shares nothing: the server has none of the changes that the replica received.
    #[must_use]
    pub fn nothing() -> Self {
        Self { through: Through::Nothing }
    }

    /// Shares everything: the server has all that the replica received.
    #[must_use]
    pub fn everything() -> Self {
        Self { through: Through::Everything }
    }

    /// Shares everything up to `position`, which the server assigned at `changed_at` or later.
    #[must_use]
    pub fn through(position: Position, changed_at: Timestamp) -> Self {
        Self { through: Through::Position(position, changed_at) }
    }

    /// The last shared position, with its time; `None` if it is not known.
    #[must_use]
    pub fn last(&self) -> Option<Cursor> {
        match self.through {
            Through::Position(position, changed_at) => Some(position.at(changed_at)),
            Through::Nothing | Through::Everything => None,
        }
    }

    /// Returns whether the server has everything that the replica received.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.through == Through::Everything
    }

    /// The greatest position whose registers need not be compared.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self.through {
            Through::Position(position, _) => Some(position),
            Through::Nothing | Through::Everything => None,
        }
    }

    /// Returns whether the shared part includes a register received at `at`. It excludes a register
    /// of unknown position: the register's time says when it was written, not when the server
    /// received it.
    #[must_use]
    pub fn has(&self, at: Option<Position>) -> bool {
        match &self.through {
            Through::Nothing => false,
            Through::Everything => true,
            Through::Position(last, _) => at.is_some_and(|at| at <= *last),
        }
    }
}

/// The epochs that a replica followed, each with the last position that it applied in it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Trail(Vec<Cursor>);

impl Trail {
    /// Records that the replica advanced from `cursor` to `next`. Only the last position of an
    /// epoch is kept.
    pub fn step(&mut self, cursor: Option<&Cursor>, next: &Cursor) {
        let epoch = |cursor: &Cursor| Position::parse(&cursor.change_id).map(|at| at.epoch);
        let Some(cursor) = cursor else { return };
        let Some(left) = epoch(cursor) else { return };
        if epoch(next) == Some(left) {
            return;
        }
        self.0.retain(|one| epoch(one) != Some(left));
        self.0.push(cursor.clone());
        if self.0.len() > MAX_TRAIL {
            self.0.remove(0);
        }
    }

    /// The last position that the replica, now at `cursor`, shares with a feed whose epochs end
    /// where `history` says. The time is `None` if the replica applied later positions of that
    /// epoch and does not know the time of this one.
    #[must_use]
    pub fn fork(
        &self,
        cursor: &Cursor,
        history: impl Fn(Epoch) -> Option<u64>,
    ) -> Option<(Position, Option<Timestamp>)> {
        let held = self.0.iter().chain([cursor]);
        let held = held.filter_map(|one| Some((Position::parse(&one.change_id)?, one.changed_at)));
        held.filter_map(|(held, changed_at)| {
            let last = history(held.epoch)?;
            let counter = held.counter.min(last);
            let known = (counter == held.counter).then_some(changed_at);
            (counter > 0).then_some((Position { epoch: held.epoch, counter }, known))
        })
        .max_by_key(|(position, _)| *position)
    }
}

/// An offer, in the order in which it is to be sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Offer {
    /// An operation of the replica.
    Operation {
        /// The item that the operation changes.
        item: ItemId,
        /// The register that the operation sets.
        action: Action,
        /// The time of the lost change.
        occurred_at: Timestamp,
    },
    /// A content to upload.
    Content {
        /// The item that the content belongs to.
        item: ItemId,
        /// The attachment in the lost history.
        attachment: Box<Attachment>,
        /// The content that the shared history had.
        expected: Option<BlobId>,
        /// The time of the lost attach.
        occurred_at: Timestamp,
    },
}

/// A change that the server lost and that this replica cannot offer again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lost {
    /// The item that the change belongs to.
    pub item: ItemId,
    /// The former path of the item in the tree.
    pub path: String,
    /// The change that was lost.
    pub change: LostChange,
    /// The reason why the change was not offered.
    pub reason: LostReason,
    /// The time of the change.
    pub authored_at: Timestamp,
}

/// The kinds of change that can be lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum LostChange {
    /// The item with everything under it.
    Item,
    /// Fields of an item.
    Fields,
    /// The deletion of an item.
    Deletion,
    /// A link that was added.
    #[serde(rename_all = "camelCase")]
    Link {
        /// The container of the link.
        parent_id: ItemId,
    },
    /// The removal of a link.
    #[serde(rename_all = "camelCase")]
    LinkRemoval {
        /// The container of the link.
        parent_id: ItemId,
    },
    /// A grant that was added or raised.
    #[serde(rename_all = "camelCase")]
    Grant {
        /// The kind of principal.
        principal_type: PrincipalType,
        /// The principal of the grant.
        principal_id: crate::id::PrincipalId,
        /// The level of the grant.
        access_level: AccessLevel,
    },
    /// The removal of a grant.
    #[serde(rename_all = "camelCase")]
    Revocation {
        /// The kind of principal.
        principal_type: PrincipalType,
        /// The principal of the grant.
        principal_id: crate::id::PrincipalId,
    },
    /// A content of the item.
    #[serde(rename_all = "camelCase")]
    Content {
        /// The blob with the bytes.
        blob_id: BlobId,
        /// The size of the content in bytes.
        size: u64,
        /// The digest of the bytes.
        digest: Sha256Digest,
        /// The media type that the author stated.
        content_type: Option<Arc<str>>,
        /// The time of the content's bytes.
        modified_at: Option<Timestamp>,
        /// True if the bytes are on this device.
        here: bool,
    },
    /// An attachment that is not the item's content.
    #[serde(rename_all = "camelCase")]
    Attachment {
        /// The id of the attachment.
        ref_id: RefId,
        /// The blob with the bytes.
        blob_id: BlobId,
    },
}

/// The reasons for which a lost change is not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::VariantArray)]
#[serde(rename_all = "camelCase")]
pub enum LostReason {
    /// A lost grant is only given again with the user's consent.
    NeedsConsent,
    /// The item is in another owner's tree, in a folder that the server does not show to the user.
    NotShown,
    /// The user's level does not permit the change.
    NotPermitted,
    /// The bytes are not on this device.
    NoBytes,
    /// The client does not upload this kind of attachment.
    NotCarried,
}

impl LostReason {
    /// The reason in words, with advice for the user.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::NeedsConsent => "a grant is only given again by `recover --grants`",
            Self::NotShown => "its folder is not shared with you any more: ask its owner",
            Self::NotPermitted => "your level does not allow it: ask its owner",
            Self::NoBytes => "the bytes are not on this device: sync another device that has them",
            Self::NotCarried => "attachments of this kind are not uploaded by this client",
        }
    }
}

impl Lost {
    /// Returns the key of the lost change in the list: one for each register.
    #[must_use]
    pub fn key(&self) -> String {
        self.change.key(&self.item)
    }
}

impl LostChange {
    /// The lost content whose bytes stay on this device.
    #[must_use]
    pub fn kept(&self) -> Option<&BlobId> {
        match self {
            Self::Content { blob_id, here: true, .. } => Some(blob_id),
            _ => None,
        }
    }

    /// The key in the list of a lost change of `item`.
    #[must_use]
    pub fn key(&self, item: &ItemId) -> String {
        let (kind, more): (&str, &[&str]) = match self {
            Self::Item => ("item", &[]),
            Self::Fields => ("fields", &[]),
            Self::Deletion => ("deletion", &[]),
            Self::Link { parent_id } => ("link", &[parent_id.as_str()]),
            Self::LinkRemoval { parent_id } => ("linkRemoval", &[parent_id.as_str()]),
            Self::Grant { principal_type, principal_id, .. } => {
                ("grant", &[principal_type.as_str(), principal_id.as_str()])
            }
            Self::Revocation { principal_type, principal_id } => {
                ("revocation", &[principal_type.as_str(), principal_id.as_str()])
            }
            Self::Content { .. } => return Self::content_key(item),
            Self::Attachment { ref_id, .. } => ("attachment", &[ref_id.as_str()]),
        };
        key(kind, item, more)
    }

    /// The key of the lost content of `item`.
    #[must_use]
    pub fn content_key(item: &ItemId) -> String {
        key("content", item, &[])
    }
}

fn key(kind: &str, item: &ItemId, more: &[&str]) -> String {
    serde_json::to_string(&(kind, item.as_str(), more)).expect("strings serialize")
}

/// The replica's own deletion of an item, after the state that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// The server has it.
    Told,
    /// It is queued behind the offers.
    Queued,
}

/// Counts of the changes that were offered, and of the changes that could not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offered {
    /// The number of grants that were removed or lowered.
    pub revocations: u64,
    /// The number of deleted items and removed links.
    pub deletions: u64,
    /// The number of items that were created again or updated.
    pub items: u64,
    /// The number of links and moves.
    pub links: u64,
    /// The number of contents.
    pub contents: u64,
    /// The number of changes that could not be offered and are now in the list of lost changes.
    pub listed: u64,
}

impl Offered {
    /// The number of changes that are sent again.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.revocations + self.deletions + self.items + self.links + self.contents
    }

    /// Adds another set of counts to this one.
    pub fn add(&mut self, other: Self) {
        self.revocations += other.revocations;
        self.deletions += other.deletions;
        self.items += other.items;
        self.links += other.links;
        self.contents += other.contents;
        self.listed += other.listed;
    }
}

/// The two sides of the comparison, and the receiver of the decision. *Old* is the replica's
/// confirmed state, *new* the server's present one. A page has at most [`PAGE`] registers; an empty
/// page ends the list.
pub trait Sides {
    /// The error of reading or writing.
    type Error;

    /// Returns the old side's removals with a number above `after`, each with its number, in the
    /// order of their positions.
    fn removals(&mut self, after: i64) -> Result<Vec<(i64, Held<Removal>)>, Self::Error>;
    /// Returns all grants of the old side.
    fn grants(&mut self) -> Result<Vec<HeldGrant>, Self::Error>;
    /// The items of the old side after `after`, by id. Those that both sides share may be left
    /// out.
    fn items(&mut self, after: Option<&ItemId>) -> Result<Vec<Held<ItemView>>, Self::Error>;
    /// The links of the old side after `after`, by parent and child. Those that both sides share
    /// may be left out.
    fn links(&mut self, after: Option<&(ItemId, ItemId)>) -> Result<Vec<HeldLink>, Self::Error>;
    /// The current contents of the old side after `after`, by item.
    fn contents(&mut self, after: Option<&ItemId>) -> Result<Vec<Held<Attachment>>, Self::Error>;

    /// An item of the old side.
    fn old_item(&mut self, id: &ItemId) -> Result<Option<Held<ItemView>>, Self::Error>;
    /// The containers that an item of the old side hangs under, by id.
    fn old_parents(&mut self, id: &ItemId) -> Result<Vec<Held<ItemId>>, Self::Error>;
    /// The level that the old side granted.
    fn old_grant(
        &mut self,
        item: &ItemId,
        principal: &Principal,
    ) -> Result<Option<AccessLevel>, Self::Error>;

    /// An item of the new side.
    fn new_item(&mut self, id: &ItemId) -> Result<Option<ItemView>, Self::Error>;
    /// The containers that an item of the new side hangs under.
    fn new_parents(&mut self, id: &ItemId) -> Result<Vec<Held<ItemId>>, Self::Error>;
    /// The content of an item of the new side.
    fn new_content(&mut self, id: &ItemId) -> Result<Option<Held<Attachment>>, Self::Error>;
    /// The level that the new side grants.
    fn new_grant(
        &mut self,
        item: &ItemId,
        principal: &Principal,
    ) -> Result<Option<AccessLevel>, Self::Error>;

    /// Returns whether an offer creates the item.
    fn is_offered(&mut self, id: &ItemId) -> Result<bool, Self::Error>;
    /// Returns the replica's own deletion of the item, which the old side does not show.
    fn deleted(&mut self, id: &ItemId) -> Result<Option<Deleted>, Self::Error>;
    /// Returns whether the bytes of a content are on this device.
    fn has_bytes(&mut self, attachment: &Attachment) -> Result<bool, Self::Error>;
    /// Takes an offer, to send after the earlier ones.
    fn offer(&mut self, offer: Offer) -> Result<(), Self::Error>;
    /// Adds a lost change to the list.
    fn list(&mut self, lost: Lost) -> Result<(), Self::Error>;
    /// Returns whether the list contains the item itself as lost.
    fn is_listed(&mut self, id: &ItemId) -> Result<bool, Self::Error>;
}

/// The id under which an item of `user` is created again when the server has given the original id
/// to another user's item. It is the same on all of the user's devices.
#[must_use]
pub fn derived_id(id: &ItemId, lost: Option<Epoch>, user: &UserId) -> ItemId {
    let epoch = lost.map_or(u64::MAX, Epoch::as_u64).to_le_bytes();
    derived("vfs-sync 2026 item offered again", [id.as_str(), user.as_str()], &epoch)
}

/// The id of the conflicted copy that holds a content offered again, if the item has another
/// content by then. It is the same on all of the user's devices.
#[must_use]
pub fn copy_id(id: &ItemId, digest: Sha256Digest, user: &UserId) -> ItemId {
    derived("vfs-sync 2026 copy offered again", [id.as_str(), user.as_str()], &digest.0)
}

/// The staging id under which a replica offers again a content that it kept with its list of lost
/// changes.
#[must_use]
pub fn staging_id(blob_id: &BlobId, replica_id: &ReplicaId) -> StagingId {
    let text =
        derive("vfs-sync 2026 content staged again", [blob_id.as_str(), replica_id.as_str()], &[]);
    StagingId::new(text).expect("hex digits make an id")
}

fn derived(context: &str, parts: [&str; 2], last: &[u8]) -> ItemId {
    ItemId::new(derive(context, parts, last)).expect("hex digits make an id")
}

fn derive(context: &str, parts: [&str; 2], last: &[u8]) -> String {
    let mut hash = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.update(last);
    hash.finalize().to_hex().as_str()[..32].to_owned()
}

/// Compares both sides and passes offers and lost changes to `sides`, in the order of sending.
///
/// # Errors
/// The error of a read or write that failed.
pub fn decide<S: Sides>(
    sides: &mut S,
    user: &UserId,
    shared: &Shared,
    lost_epoch: Option<Epoch>,
) -> Result<Offered, S::Error> {
    if shared.is_everything() {
        return Ok(Offered::default());
    }
    let mut decider =
        Decider { sides, user, shared, lost_epoch, offered: Offered::default(), later: Vec::new() };
    decider.revocations()?;
    decider.deletions()?;
    decider.tree()?;
    decider.contents()?;
    decider.grants()?;
    Ok(decider.offered)
}

struct Decider<'a, S> {
    sides: &'a mut S,
    user: &'a UserId,
    shared: &'a Shared,
    lost_epoch: Option<Epoch>,
    offered: Offered,
    /// Further links of items that are created again, besides the link under which each is created.
    later: Vec<(ItemId, Held<ItemId>)>,
}

type Result<T, E> = std::result::Result<T, E>;

impl<S: Sides> Decider<'_, S> {
    fn lost<T>(&self, held: &Held<T>) -> bool {
        !self.shared.has(held.at)
    }

    fn operation(
        &mut self,
        item: &ItemId,
        action: Action,
        occurred_at: Timestamp,
    ) -> Result<(), S::Error> {
        self.sides.offer(Offer::Operation { item: item.clone(), action, occurred_at })
    }

    fn list(
        &mut self,
        item: &ItemId,
        change: LostChange,
        reason: LostReason,
        authored_at: Timestamp,
    ) -> Result<(), S::Error> {
        let path = self.path(item)?;
        self.offered.listed += 1;
        self.sides.list(Lost { item: item.clone(), path, change, reason, authored_at })
    }

    /// The path of an item on the old side, or on the new side if the old side lacks the item.
    fn path(&mut self, id: &ItemId) -> Result<String, S::Error> {
        let (mut names, mut owner, mut bytes) = (Vec::new(), None, 0);
        let (mut at, mut seen) = (id.clone(), HashSet::new());
        while bytes < MAX_PATH_BYTES && seen.insert(at.clone()) {
            let old = self.sides.old_item(&at)?.map(|held| held.value);
            let (item, parents) = match old {
                Some(item) => (item, self.sides.old_parents(&at)?),
                None => match self.sides.new_item(&at)? {
                    Some(item) => (item, self.sides.new_parents(&at)?),
                    None => break,
                },
            };
            if owner.as_ref().is_some_and(|owner| *owner != item.owner_id) {
                break;
            }
            let name = item.name.as_ref().map_or(item.item_id.as_str(), |name| name.as_str());
            bytes += name.len() + 1;
            names.push(name.to_owned());
            owner = Some(item.owner_id);
            let Some(parent) = parents.into_iter().next() else { break };
            at = parent.value;
        }
        if names.is_empty() {
            return Ok(id.to_string());
        }
        names.reverse();
        let own = owner.as_ref().is_none_or(|owner| owner == self.user);
        let owner = owner.map(|owner| owner.to_string()).unwrap_or_default();
        let prefix = if own { "/".to_owned() } else { format!("shared:{owner}/") };
        Ok(format!("{prefix}{}", names.join("/")))
    }

    fn removals(
        &mut self,
        mut each: impl FnMut(&mut Self, Held<Removal>) -> Result<(), S::Error>,
    ) -> Result<(), S::Error> {
        let mut after = i64::MIN;
        loop {
            let page = self.sides.removals(after)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = *last;
            for (_, held) in page {
                if self.lost(&held) {
                    each(self, held)?;
                }
            }
        }
    }

    // Changes that narrow access are offered first.

    fn revocations(&mut self) -> Result<(), S::Error> {
        self.removals(|this, held| {
            let Removal::Grant { item, principal } = held.value else { return Ok(()) };
            if this.sides.old_grant(&item, &principal)?.is_some()
                || this.sides.new_grant(&item, &principal)?.is_none()
            {
                return Ok(());
            }
            let itself = principal.kind == PrincipalType::User
                && principal.id.as_str() == this.user.as_str();
            if !itself && this.level(&item)? < Some(AccessLevel::Admin) {
                let (principal_type, principal_id) = (principal.kind, principal.id);
                let change = LostChange::Revocation { principal_type, principal_id };
                return this.list(&item, change, LostReason::NotPermitted, held.authored_at);
            }
            this.offered.revocations += 1;
            this.operation(&item, Action::GrantRemove { principal }, held.authored_at)
        })?;
        for (item, principal, held) in self.sides.grants()? {
            let wider = self.sides.new_grant(&item, &principal)? > Some(held.value);
            if self.lost(&held) && wider && self.level(&item)? == Some(AccessLevel::Admin) {
                self.offered.revocations += 1;
                let action = Action::GrantAdd { principal, level: held.value };
                self.operation(&item, action, held.authored_at)?;
            }
        }
        Ok(())
    }

    /// The user's level on an item of the new side.
    fn level(&mut self, id: &ItemId) -> Result<Option<AccessLevel>, S::Error> {
        Ok(self.sides.new_item(id)?.map(|item| item.access_level))
    }

    fn deletions(&mut self) -> Result<(), S::Error> {
        self.removals(|this, held| match held.value {
            Removal::Grant { .. } => Ok(()),
            Removal::Item(item) => {
                if this.sides.old_item(&item)?.is_some() {
                    return Ok(());
                }
                match this.level(&item)? {
                    None => Ok(()),
                    Some(AccessLevel::Read) => {
                        let reason = LostReason::NotPermitted;
                        this.list(&item, LostChange::Deletion, reason, held.authored_at)
                    }
                    Some(_) => {
                        this.offered.deletions += 1;
                        this.operation(&item, Action::Delete, held.authored_at)
                    }
                }
            }
            Removal::Link { parent, child } => this.link_removal(parent, &child, held.authored_at),
        })
    }

    fn link_removal(
        &mut self,
        parent: ItemId,
        child: &ItemId,
        authored_at: Timestamp,
    ) -> Result<(), S::Error> {
        let old_parents = self.sides.old_parents(child)?;
        // A link also ends with the deletion of an end, which reports it.
        if old_parents.iter().any(|one| one.value == parent)
            || self.sides.old_item(child)?.is_none()
            || self.sides.old_item(&parent)?.is_none()
            || !self.sides.new_parents(child)?.iter().any(|one| one.value == parent)
            || self.sides.new_item(child)?.is_none()
        {
            return Ok(());
        }
        let Some(container) = self.sides.new_item(&parent)? else { return Ok(()) };
        if self.moved_within(child, &container.owner_id)?.is_some() {
            return Ok(());
        }
        if container.access_level < AccessLevel::Write {
            let change = LostChange::LinkRemoval { parent_id: parent };
            return self.list(child, change, LostReason::NotPermitted, authored_at);
        }
        self.offered.deletions += 1;
        self.operation(child, Action::LinkRemove { parent }, authored_at)
    }

    /// The container in `realm` that an item was moved to, if the new side lacks that link but has
    /// the item in another container of the realm that the replica knows it left.
    fn moved_within(&mut self, child: &ItemId, realm: &UserId) -> Result<Option<ItemId>, S::Error> {
        let mut here = None;
        let old_parents = self.sides.old_parents(child)?;
        for parent in &old_parents {
            let owner = self.sides.old_item(&parent.value)?.map(|item| item.value.owner_id);
            if owner.as_ref() != Some(realm) {
                continue;
            }
            if here.is_some() {
                return Ok(None);
            }
            here = Some(parent);
        }
        let Some(here) = here.filter(|here| self.lost(here)) else { return Ok(None) };
        let mut left = false;
        for parent in self.sides.new_parents(child)? {
            if parent.value == here.value {
                return Ok(None);
            }
            let owner = self.sides.new_item(&parent.value)?.map(|item| item.owner_id);
            let known = !old_parents.iter().any(|one| one.value == parent.value);
            left |= known && owner.as_ref() == Some(realm) && !self.lost(&parent);
        }
        Ok(left.then(|| here.value.clone()))
    }

    // The tree, from the top.

    fn tree(&mut self) -> Result<(), S::Error> {
        let mut after: Option<ItemId> = None;
        loop {
            let page = self.sides.items(after.as_ref())?;
            let Some(last) = page.last() else { break };
            after = Some(last.value.item_id.clone());
            for held in page {
                if self.lost(&held) && !self.went(&held.value.item_id)? {
                    self.item(held)?;
                }
            }
        }
        // A content that was put into a deleted item, or an item that was moved into one, after the
        // shared history brings it back.
        let mut after: Option<ItemId> = None;
        loop {
            let page = self.sides.contents(after.as_ref())?;
            let Some(last) = page.last() else { break };
            after = Some(last.value.item_id.clone());
            for held in page {
                if self.lost(&held) && !self.went(&held.value.item_id)? {
                    self.ensure(&held.value.item_id)?;
                }
            }
        }
        let mut placed = HashSet::new();
        let mut after: Option<(ItemId, ItemId)> = None;
        loop {
            let page = self.sides.links(after.as_ref())?;
            let Some(last) = page.last() else { break };
            after = Some(last.value.clone());
            for held in page {
                if self.lost(&held) {
                    self.link(held, &mut placed)?;
                }
            }
        }
        while let Some((child, parent)) = self.later.pop() {
            if self.ensure(&parent.value)? {
                self.add_link(&parent.value, &child, parent.authored_at)?;
            }
        }
        Ok(())
    }

    /// Returns whether the item is gone because this replica has deleted it since: its own earlier
    /// changes do not bring it back.
    fn went(&mut self, id: &ItemId) -> Result<bool, S::Error> {
        let told = self.sides.deleted(id)? == Some(Deleted::Told);
        Ok(told && self.sides.new_item(id)?.is_none())
    }

    fn item(&mut self, held: Held<ItemView>) -> Result<(), S::Error> {
        let old = &held.value;
        let new = self.sides.new_item(&old.item_id)?;
        let Some(new) = new.filter(|new| new.owner_id == old.owner_id) else {
            return self.ensure(&old.item_id).map(drop);
        };
        let Some(changed) = differing(old, &new) else { return Ok(()) };
        if new.access_level < AccessLevel::Write {
            let reason = LostReason::NotPermitted;
            return self.list(&old.item_id, LostChange::Fields, reason, held.authored_at);
        }
        self.offered.items += 1;
        self.operation(&old.item_id, Action::Upsert(Box::new(changed)), held.authored_at)
    }

    /// The id on the new side of an item of the old side.
    fn target(&mut self, old: &Held<ItemView>) -> Result<ItemId, S::Error> {
        let id = &old.value.item_id;
        let taken = self.sides.new_item(id)?.is_some_and(|new| new.owner_id != old.value.owner_id);
        if !taken || old.value.owner_id != *self.user {
            return Ok(id.clone());
        }
        let epoch = old.at.map(|at| at.epoch).or(self.lost_epoch);
        Ok(derived_id(id, epoch, self.user))
    }

    /// Returns the item on the new side that corresponds to one on the old side, with the user's
    /// level, if it is present or offered.
    fn there(&mut self, id: &ItemId) -> Result<Option<(ItemId, AccessLevel)>, S::Error> {
        let Some(old) = self.sides.old_item(id)? else {
            return Ok(self.level(id)?.map(|level| (id.clone(), level)));
        };
        let target = self.target(&old)?;
        if let Some(new) = self.sides.new_item(&target)?
            && new.owner_id == old.value.owner_id
        {
            return Ok(Some((target, new.access_level)));
        }
        let offered = self.sides.is_offered(&target)?;
        let level =
            if old.value.owner_id == *self.user { AccessLevel::Admin } else { AccessLevel::Write };
        Ok(offered.then_some((target, level)))
    }

    /// Creates an item again if it does not exist, with its containers of the same owner. Returns
    /// whether it exists afterwards.
    fn ensure(&mut self, id: &ItemId) -> Result<bool, S::Error> {
        let (mut chain, mut seen) = (Vec::new(), HashSet::new());
        let mut at = id.clone();
        while self.there(&at)?.is_none() && !self.sides.is_listed(&at)? && seen.insert(at.clone()) {
            let Some(old) = self.sides.old_item(&at)? else { break };
            let mut above = None;
            for parent in self.sides.old_parents(&at)? {
                let container = self.sides.old_item(&parent.value)?;
                if container.is_some_and(|one| one.value.owner_id == old.value.owner_id) {
                    above = Some(parent.value);
                    break;
                }
            }
            chain.push((old, above.clone()));
            let Some(above) = above else { break };
            at = above;
        }
        while let Some((old, above)) = chain.pop() {
            self.create(old, above)?;
        }
        Ok(self.there(id)?.is_some())
    }

    fn create(&mut self, old: Held<ItemView>, above: Option<ItemId>) -> Result<(), S::Error> {
        let id = old.value.item_id.clone();
        let container = match &above {
            Some(above) => self.there(above)?,
            None => None,
        };
        let own = old.value.owner_id == *self.user;
        if !own && container.as_ref().is_none_or(|(_, level)| *level < AccessLevel::Write) {
            // A listed container represents the items under it.
            if let Some(above) = &above
                && container.is_none()
                && self.sides.is_listed(above)?
            {
                return Ok(());
            }
            let reason = match container {
                Some(_) => LostReason::NotPermitted,
                None => LostReason::NotShown,
            };
            return self.list(&id, LostChange::Item, reason, old.authored_at);
        }
        for parent in self.sides.old_parents(&id)? {
            if container.is_none() || above.as_ref() != Some(&parent.value) {
                self.later.push((id.clone(), parent));
            }
        }
        let target = self.target(&old)?;
        let parent = container.map(|(container, _)| container);
        let view = old.value;
        let metadata = view.metadata.into_iter().map(|(key, value)| (key, Some(value)));
        let encrypted = view.encrypted;
        let upsert = Upsert {
            object_type: Some(view.object_type),
            name: if encrypted.is_some() { None } else { view.name },
            metadata: if encrypted.is_some() { Default::default() } else { metadata.collect() },
            encrypted,
            parent,
        };
        self.offered.items += 1;
        self.operation(&target, Action::Upsert(Box::new(upsert)), old.authored_at)
    }

    /// Offers a lost link after the links above it: a move into a moved container comes after the
    /// container's own move.
    fn link(
        &mut self,
        held: Held<(ItemId, ItemId)>,
        placed: &mut HashSet<(ItemId, ItemId)>,
    ) -> Result<(), S::Error> {
        let mut chain = vec![held];
        let mut at = 0;
        while at < chain.len() {
            let (parent, child) = chain[at].value.clone();
            if !placed.insert((parent.clone(), child)) {
                chain.remove(at);
                continue;
            }
            at += 1;
            for above in self.sides.old_parents(&parent)? {
                if self.lost(&above) {
                    let Held { value, authored_at, at } = above;
                    chain.push(Held { value: (value, parent.clone()), authored_at, at });
                }
            }
        }
        while let Some(Held { value: (parent, child), authored_at, .. }) = chain.pop() {
            if self.went(&child)? || !self.ensure(&child)? {
                continue;
            }
            let created = self.sides.old_item(&child)?;
            let Some(old) = created else { continue };
            let target = self.target(&old)?;
            if self.sides.is_offered(&target)? {
                // Its links go with it.
                continue;
            }
            if self.ensure(&parent)? {
                self.add_link(&parent, &child, authored_at)?;
            }
        }
        Ok(())
    }

    fn add_link(
        &mut self,
        parent: &ItemId,
        child: &ItemId,
        authored_at: Timestamp,
    ) -> Result<(), S::Error> {
        let (Some((to, level)), Some((target, own))) = (self.there(parent)?, self.there(child)?)
        else {
            return Ok(());
        };
        if self.sides.new_parents(&target)?.iter().any(|one| one.value == to) {
            return Ok(());
        }
        let realm = self.sides.old_item(parent)?.map(|item| item.value.owner_id);
        let home = self.sides.old_item(child)?.map(|item| item.value.owner_id);
        let allowed = level >= AccessLevel::Write && (realm != home || own >= AccessLevel::Write);
        if !allowed {
            let change = LostChange::Link { parent_id: parent.clone() };
            return self.list(child, change, LostReason::NotPermitted, authored_at);
        }
        let moved = match &realm {
            Some(realm) => self.moved_within(child, realm)?.as_ref() == Some(parent),
            None => false,
        };
        self.offered.links += 1;
        let action = match moved {
            true => Action::LinkReassign { parent: to },
            false => Action::LinkAdd { parent: to },
        };
        self.operation(&target, action, authored_at)
    }

    // Contents, once their items are there.

    fn contents(&mut self) -> Result<(), S::Error> {
        let mut after: Option<ItemId> = None;
        loop {
            let page = self.sides.contents(after.as_ref())?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.value.item_id.clone());
            for held in page {
                self.content(held)?;
            }
        }
    }

    fn content(&mut self, held: Held<Attachment>) -> Result<(), S::Error> {
        let id = held.value.item_id.clone();
        let Some(old) = self.sides.old_item(&id)? else { return Ok(()) };
        let target = self.target(&old)?;
        if !self.lost(&held) && !self.sides.is_offered(&target)? && !self.lost(&old) {
            return Ok(());
        }
        let there = self.there(&id)?;
        let new = match &there {
            Some((target, _)) => self.sides.new_content(target)?,
            None => None,
        };
        if new.as_ref().is_some_and(|new| new.value.digest == held.value.digest) {
            return Ok(());
        }
        if there.is_some() && !self.lost(&held) && !self.sides.is_offered(&target)? {
            // Only the item's fields were lost.
            return Ok(());
        }
        if self.sides.deleted(&target)?.is_some() {
            return Ok(());
        }
        let here = self.sides.has_bytes(&held.value)?;
        let Attachment { blob_id, size, digest, content_type, modified_at, .. } =
            held.value.clone();
        let change = LostChange::Content { blob_id, size, digest, content_type, modified_at, here };
        let Some((target, level)) = there else {
            // The bytes stay with the list, if they may be the user's work.
            if here && old.value.access_level >= AccessLevel::Write {
                return self.list(&id, change, LostReason::NotShown, held.authored_at);
            }
            return Ok(());
        };
        if level < AccessLevel::Write {
            return self.list(&id, change, LostReason::NotPermitted, held.authored_at);
        }
        if !here {
            return self.list(&id, change, LostReason::NoBytes, held.authored_at);
        }
        // A content that came after the shared history is one that this one's author never saw.
        let expected = match &new {
            None => None,
            Some(new) if !self.lost(new) => Some(new.value.blob_id.clone()),
            Some(_) => Some(held.value.blob_id.clone()),
        };
        self.offered.contents += 1;
        let (attachment, occurred_at) = (Box::new(held.value), held.authored_at);
        self.sides.offer(Offer::Content { item: target, attachment, expected, occurred_at })
    }

    // Changes that widen access need the user's decision.

    fn grants(&mut self) -> Result<(), S::Error> {
        for (item, principal, held) in self.sides.grants()? {
            let present = self.sides.new_grant(&item, &principal)?;
            let Some((target, level)) = self.there(&item)? else { continue };
            let lost = self.lost(&held) || self.sides.is_offered(&target)?;
            if !lost || level < AccessLevel::Admin || present >= Some(held.value) {
                continue;
            }
            let (principal_type, principal_id) = (principal.kind, principal.id);
            let access_level = held.value;
            let change = LostChange::Grant { principal_type, principal_id, access_level };
            self.list(&item, change, LostReason::NeedsConsent, held.authored_at)?;
        }
        Ok(())
    }
}

/// Returns the fields in which an item's old form differs from its new one.
fn differing(old: &ItemView, new: &ItemView) -> Option<Upsert> {
    let mut changed = Upsert::default();
    if old.object_type != new.object_type {
        changed.object_type = Some(old.object_type);
    }
    if old.encrypted.is_some() {
        if old.encrypted != new.encrypted {
            changed.encrypted.clone_from(&old.encrypted);
        }
    } else {
        if old.name != new.name {
            changed.name.clone_from(&old.name);
        }
        changed.metadata = differing_metadata(&old.metadata, &new.metadata);
    }
    (changed != Upsert::default()).then_some(changed)
}

fn differing_metadata(
    old: &Metadata,
    new: &Metadata,
) -> BTreeMap<Arc<str>, Option<serde_json::Value>> {
    let set = old.iter().filter(|(key, value)| new.get(*key) != Some(*value));
    let set = set.map(|(key, value)| (key.clone(), Some(value.clone())));
    let removed = new.keys().filter(|key| !old.contains_key(*key));
    set.chain(removed.map(|key| (key.clone(), None))).collect()
}
