//! Reads for an operator's doctor: pages of rows that are compared with what they are derived from,
//! and facts about the database as a whole.

mod walk;

use vfs_sync_core::id::{BlobId, ItemId, StagingId, UserId};
use vfs_sync_core::server::push::{DerivedFault, MetadataUsage};
use vfs_sync_core::server::stage::Usage;
use vfs_sync_core::time::Timestamp;

use crate::error::{Result, StoreError};

pub use self::walk::{Extent, Findings, examine};

/// The items that are examined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemsOf {
    /// The items of all users, with everybody's levels and feeds.
    All,
    /// The items that a user owns, with the user's own feed.
    Owner(UserId),
    /// Those of them that the feed does not show: the others are examined with its entries.
    Unshown(UserId),
    /// The items of others that a user sees, and what hangs under them, with the user's levels and
    /// feed.
    Reader(UserId),
    /// The items that are granted to a user or to a group of the user's, with the user's levels and
    /// feed.
    Grantee(UserId),
}

/// A row that is not of the form that this version writes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MalformedRow {
    /// The name of the table.
    pub table: String,
    /// The key of the row.
    pub key: String,
    /// The column, and its problem.
    pub reason: String,
}

impl MalformedRow {
    /// Returns the row that an error names; the error, if it names none.
    ///
    /// # Errors
    /// The given error, if it is another one.
    pub fn of(error: StoreError) -> Result<Self> {
        match error {
            StoreError::MalformedRow { table, key, reason } => {
                Ok(Self { table: table.to_owned(), key, reason })
            }
            other => Err(other),
        }
    }
}

/// Names a reconcile state, by the key of its row.
pub(crate) fn state_row(user: &UserId, client: &str, reason: String) -> MalformedRow {
    let key = format!("{client} of {user}");
    MalformedRow { table: "reconcile_state".to_owned(), key, reason }
}

/// A page of examined items.
#[derive(Debug, Clone, Default)]
pub struct ItemsExamined {
    /// The rows that cannot be read; what needs them was not compared.
    pub malformed: Vec<MalformedRow>,
    /// The derived rows that differ from what they are derived from.
    pub faults: Vec<DerivedFault>,
    /// The number of items.
    pub items: u64,
    /// The item after which the next page begins; `None` after the last one.
    pub next: Option<ItemId>,
}

/// A page of an examined feed.
#[derive(Debug, Clone, Default)]
pub struct FeedExamined {
    /// The rows that cannot be read; what needs them was not compared.
    pub malformed: Vec<MalformedRow>,
    /// The entries that differ from what they show.
    pub faults: Vec<DerivedFault>,
    /// The number of entries.
    pub entries: u64,
    /// The counter after which the next page begins; `None` after the last one.
    pub next: Option<u64>,
}

/// The registers of a realm: a part of them as they are counted, beside the stored numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeldCounts {
    /// The items, links and grants of the page; the bytes are not counted.
    pub counted: MetadataUsage,
    /// The stored numbers of the whole realm.
    pub stored: MetadataUsage,
}

/// The place after which a page of charged blobs begins: first those that the user staged, then
/// those that count against the user otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChargePlace {
    /// After a stage of the user's.
    Stage(StagingId),
    /// After a blob that counts against the user since it was attached.
    Blob(BlobId),
}

/// The blobs that count against a user: a part of them as they are counted, beside the stored sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChargeCounts {
    /// The sums of the page.
    pub counted: Usage,
    /// The stored sums of all blobs.
    pub stored: Usage,
}

/// The times of the oldest rows that background work removes; `None` where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OldestRows {
    /// The time at which the oldest open stage expires.
    pub stage: Option<Timestamp>,
    /// The time at which the sweeper is to look at the first blob.
    pub reclaim: Option<Timestamp>,
    /// The time up to which no object is removed, for the sake of a backup.
    pub held_until: Option<Timestamp>,
    /// The time since when the oldest version is beyond those that are always kept.
    pub version: Option<Timestamp>,
    /// The time of the oldest deletion in the trash.
    pub trashed: Option<Timestamp>,
    /// The time at which the oldest tombstone was made that still has other rows.
    pub purging: Option<Timestamp>,
    /// The time of the oldest removal in a feed.
    pub removal: Option<Timestamp>,
    /// The time of the oldest result of an operation.
    pub result: Option<Timestamp>,
    /// The time at which the next step of a user's deletion is due.
    pub deletion: Option<Timestamp>,
    /// The time of the last noted call of a device.
    pub last_call: Option<Timestamp>,
}

/// The facts about a database as a whole.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DatabaseFacts {
    /// The name and version of the product.
    pub product: String,
    /// The clock of the database's machine, where it has one of its own.
    pub clock: Option<Timestamp>,
    /// The size in bytes.
    pub bytes: u64,
    /// The part of the size that holds nothing, in bytes, as far as it is known.
    pub unused_bytes: u64,
    /// Settings with which acknowledged writes may be lost, as `name = value`.
    pub unsafe_settings: Vec<String>,
    /// The facts of a database server; `None` for a file.
    pub server: Option<ServerFacts>,
}

/// The facts about a database server.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ServerFacts {
    /// The connections that are open, and that may be.
    pub connections: (u64, u64),
    /// True if it takes no writes.
    pub is_standby: bool,
    /// False if the database is not where its present epoch began: it was restored or failed over.
    pub is_in_place: bool,
    /// The value of the setting `synchronous_commit`.
    pub synchronous_commit: String,
    /// The value of the setting `synchronous_standby_names`.
    pub synchronous_standbys: String,
    /// The standbys that are connected.
    pub standbys: Vec<Standby>,
    /// The age of the oldest open transaction, in seconds.
    pub oldest_transaction: f64,
    /// The age of the oldest transaction id, in transactions.
    pub id_age: u64,
}

/// A standby of a database server.
#[derive(Debug, Clone, PartialEq)]
pub struct Standby {
    /// The name that it gives itself.
    pub name: String,
    /// The state of its connection, such as `streaming`.
    pub state: String,
    /// `sync`, `quorum`, `potential` or `async`.
    pub sync_state: String,
    /// The seconds by which it is behind, if that is known.
    pub lag: Option<f64>,
}

/// Rows for the doctor. Every method reads a bounded number of rows.
pub(crate) trait Examine {
    /// Returns items of an owner after `after`, in the order of their ids.
    async fn owned_after(
        &mut self,
        owner: &UserId,
        after: Option<&ItemId>,
        at_most: u32,
    ) -> Result<Vec<ItemId>>;

    /// Returns users after `after`, ascending: those with a realm, a feed, or both.
    async fn known_after(&mut self, after: Option<&UserId>, at_most: u32) -> Result<Vec<UserId>>;

    /// Returns items of others that a user sees, of those after `after` in the order of their ids,
    /// and the item after which to go on; `None` after the last one. A page may be empty.
    async fn read_after(
        &mut self,
        reader: &UserId,
        after: Option<&ItemId>,
        at_most: u32,
    ) -> Result<(Vec<ItemId>, Option<ItemId>)>;

    /// Returns the number of links from these items, and of grants on them, removed ones included.
    async fn count_registers(&mut self, items: &[ItemId]) -> Result<(u64, u64)>;

    /// Returns what a realm holds, by its stored numbers; `None` for an unknown user.
    async fn held(&mut self, owner: &UserId) -> Result<Option<MetadataUsage>>;

    /// Returns those of `users` who are being deleted.
    async fn leaving(&mut self, users: &[UserId]) -> Result<Vec<UserId>>;

    /// Sums up blobs that count against a user, of those after `after`; returns the place after
    /// which to go on.
    async fn count_charges(
        &mut self,
        user: &UserId,
        after: Option<&ChargePlace>,
        at_most: u32,
    ) -> Result<(Usage, Option<ChargePlace>)>;

    /// Returns the malformed ones among the user's reconcile states after the client `after`, and the
    /// client after which to go on.
    async fn malformed_states(
        &mut self,
        user: &UserId,
        after: &str,
        at_most: u32,
    ) -> Result<(Vec<MalformedRow>, Option<String>)>;

    /// Returns the times of the oldest rows that background work removes, before `before`.
    async fn oldest_rows(&mut self, before: Timestamp) -> Result<OldestRows>;

    /// Returns facts about the database.
    async fn database_facts(&mut self) -> Result<DatabaseFacts>;
}
