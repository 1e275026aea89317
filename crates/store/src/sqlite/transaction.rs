//! A transaction's rows and batches in SQLite. There is one writer, so nothing needs a lock; the
//! methods never wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};
use vfs_sync_core::access::Principal;
use vfs_sync_core::content::{Attachment, Sha256Digest};
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::entry::EntryKey;
use vfs_sync_core::id::{BlobId, ItemId, RefId, ReplicaId, StagingId, UserId, WriteId};
use vfs_sync_core::server::attach::{AttachChanges, MadeAttach};
use vfs_sync_core::server::feed_window::EpochStart;
use vfs_sync_core::server::push::{Accepted, Changes, Head, Map, Mark, Needs, Rows, Told};
use vfs_sync_core::stamp::{Author, Stamp};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{ReconcileState, StageStatus};

use super::history::{Lock, Locks};
use super::rows::Columns;
use super::{access, blobs, feed, members, trash, uploads, versions, write};
use crate::codes;
use crate::transaction::{FeedWrite, PushWrite, ReplicaRow, Stored, StoredStage, Transaction};
use crate::trash::{TrashCursor, TrashOf, TrashRow, TrashState};
use crate::{NewStage, StoreError, UploadRow, Usage};

/// An open transaction, with the numbers that its rows use for users and replicas.
pub(super) struct SqliteTransaction<'c> {
    pub(super) connection: &'c Connection,
    numbers: HashMap<UserId, i64>,
    users: HashMap<i64, UserId>,
    replicas: HashMap<i64, (UserId, ReplicaId)>,
    last_author: Option<(Arc<Author>, i64)>,
    writers: HashMap<i64, ReplicaId>,
    last_writer: Option<(i64, ReplicaId, i64)>,
    pub(super) locks: Locks,
    /// Rows that it may load yet; `None` once that were too many.
    rows_left: Option<usize>,
    /// On a snapshot nothing can be written: the change of members that is decided as if it were.
    member: Option<Member>,
    /// The same of a block: by whom, of which owner, and whether it is there.
    block: Option<(UserId, UserId, bool)>,
    is_snapshot: bool,
}

/// A change of members: of which group, who, and whether they are in it.
type Member = (Principal, UserId, bool);

impl<'c> SqliteTransaction<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        let (numbers, users, replicas) = Default::default();
        Self {
            connection,
            numbers,
            users,
            replicas,
            last_author: None,
            writers: HashMap::new(),
            last_writer: None,
            locks: Locks::default(),
            rows_left: Some(usize::MAX),
            member: None,
            block: None,
            is_snapshot: false,
        }
    }

    /// On a snapshot, where things are decided that are written later.
    pub(super) fn on_snapshot(connection: &'c Connection) -> Self {
        Self { is_snapshot: true, ..Self::new(connection) }
    }

    /// It fails once it has loaded more than so many rows.
    pub(super) fn load_at_most(&mut self, rows: usize) {
        self.rows_left = Some(rows);
    }

    /// Whether it failed because it would have loaded too many rows.
    pub(super) fn is_large(&self) -> bool {
        self.rows_left.is_none()
    }

    fn count(&mut self, rows: usize) -> Result<(), StoreError> {
        self.rows_left = self.rows_left.and_then(|left| left.checked_sub(rows));
        if self.is_large() {
            return Err(StoreError::Failed("the transaction loads too many rows".into()));
        }
        Ok(())
    }

    /// The members of `group` with the change that is decided on.
    pub(super) fn with_change(&self, group: &Principal, members: &mut BTreeSet<UserId>) {
        if let Some((changed, user, present)) = &self.member
            && changed == group
        {
            if *present {
                members.insert(user.clone());
            } else {
                members.remove(user);
            }
        }
    }

    /// Those who block `owner` with the change that is decided on.
    pub(super) fn with_block(&self, owner: &UserId, users: &mut BTreeSet<UserId>) {
        if let Some((user, changed, blocked)) = &self.block
            && changed == owner
        {
            if *blocked {
                users.insert(user.clone());
            } else {
                users.remove(user);
            }
        }
    }

    pub(super) fn prepare(&self, sql: &str) -> Result<CachedStatement<'c>, StoreError> {
        #[cfg(all(feature = "testing", unix))]
        crate::testing::note_statement("sqlite", sql);
        Ok(self.connection.prepare_cached(sql)?)
    }

    /// The user's number; `None` for one that was never seen.
    pub(super) fn uid(&mut self, user: &UserId) -> Result<Option<i64>, StoreError> {
        if let Some(uid) = self.numbers.get(user) {
            return Ok(Some(*uid));
        }
        let mut select = self.prepare("SELECT uid FROM realms WHERE user_id = ?1")?;
        let uid = select.query_row([user.as_str()], |row| row.get(0)).optional()?;
        if let Some(uid) = uid {
            self.numbers.insert(user.clone(), uid);
        }
        Ok(uid)
    }

    /// The user's number, given now if need be.
    pub(super) fn make_uid(&mut self, user: &UserId) -> Result<i64, StoreError> {
        if let Some(uid) = self.uid(user)? {
            return Ok(uid);
        }
        let mut insert = self.prepare("INSERT INTO realms (user_id) VALUES (?1)")?;
        let uid = insert.insert([user.as_str()])?;
        self.numbers.insert(user.clone(), uid);
        Ok(uid)
    }

    pub(super) fn user(
        &mut self,
        uid: i64,
        table: &'static str,
        key: &dyn std::fmt::Display,
    ) -> Result<UserId, StoreError> {
        if let Some(user) = self.users.get(&uid) {
            return Ok(user.clone());
        }
        let mut select = self.prepare("SELECT user_id FROM realms WHERE uid = ?1")?;
        let mut rows = select.query([uid])?;
        let Some(row) = rows.next()? else {
            return Err(codes::malformed(table, key, format_args!("there is no user {uid}")));
        };
        let user: UserId = Columns { row, table: "realms", key: uid }.parse(0)?;
        self.users.insert(uid, user.clone());
        Ok(user)
    }

    /// The number of a stamp's author. Every author has a row: it had one when it pushed.
    pub(super) fn author(&mut self, author: &Arc<Author>) -> Result<i64, StoreError> {
        match &self.last_author {
            Some((last, rid)) if last.user == author.user && last.replica == author.replica => {
                return Ok(*rid);
            }
            _ => {}
        }
        let rid = self.rid(&author.user, &author.replica)?.ok_or_else(|| {
            codes::malformed("replicas", &author.replica, "is missing, though it has written")
        })?;
        self.last_author = Some((author.clone(), rid));
        Ok(rid)
    }

    /// The number under which feeds name a replica of their user's, given now if need be.
    pub(super) fn writer(
        &mut self,
        uid: i64,
        replica: Option<&ReplicaId>,
    ) -> Result<Option<i64>, StoreError> {
        let Some(replica) = replica else { return Ok(None) };
        match &self.last_writer {
            Some((of, name, wid)) if *of == uid && name == replica => return Ok(Some(*wid)),
            _ => {}
        }
        let key = params![uid, replica.as_str()];
        let mut select =
            self.prepare("SELECT wid FROM writers WHERE uid = ?1 AND replica_id = ?2")?;
        let wid = match select.query_row(key, |row| row.get(0)).optional()? {
            Some(wid) => wid,
            None => self
                .prepare("INSERT INTO writers (uid, replica_id) VALUES (?1, ?2)")?
                .insert(key)?,
        };
        self.last_writer = Some((uid, replica.clone(), wid));
        Ok(Some(wid))
    }

    /// The replica that feeds name by a number.
    pub(super) fn writer_name<K: std::fmt::Display>(
        &mut self,
        wid: i64,
        of: &Columns<'_, '_, K>,
    ) -> Result<ReplicaId, StoreError> {
        if let Some(name) = self.writers.get(&wid) {
            return Ok(name.clone());
        }
        let mut select = self.prepare("SELECT replica_id FROM writers WHERE wid = ?1")?;
        let mut rows = select.query([wid])?;
        let Some(row) = rows.next()? else {
            return Err(of.malformed(format_args!("there is no writer {wid}")));
        };
        let name: ReplicaId = Columns { row, table: "writers", key: wid }.parse(0)?;
        self.writers.insert(wid, name.clone());
        Ok(name)
    }

    fn rid(&mut self, user: &UserId, replica: &ReplicaId) -> Result<Option<i64>, StoreError> {
        let Some(uid) = self.uid(user)? else { return Ok(None) };
        let mut select =
            self.prepare("SELECT rid FROM replicas WHERE uid = ?1 AND replica_id = ?2")?;
        Ok(select.query_row(params![uid, replica.as_str()], |row| row.get(0)).optional()?)
    }

    /// The stamp in the columns `authored_at`, `author` and `write_id`, beginning at `first`.
    pub(super) fn stamp<K: std::fmt::Display>(
        &mut self,
        columns: &Columns<'_, '_, K>,
        first: usize,
    ) -> Result<Stamp, StoreError> {
        let (user, replica) = self.replica(columns.integer(first + 1)?, columns)?;
        let write_id = columns.unsigned(first + 2)?;
        let write_id =
            WriteId::new(write_id).ok_or_else(|| columns.malformed("write_id is out of range"))?;
        let author = Arc::new(Author { user, replica, write_id });
        Ok(Stamp { authored_at: columns.time(first)?, author })
    }

    fn replica<K: std::fmt::Display>(
        &mut self,
        rid: i64,
        of: &Columns<'_, '_, K>,
    ) -> Result<(UserId, ReplicaId), StoreError> {
        if let Some(found) = self.replicas.get(&rid) {
            return Ok(found.clone());
        }
        let mut select = self.prepare(
            "SELECT user_id, replica_id FROM replicas JOIN realms USING (uid) WHERE rid = ?1",
        )?;
        let mut rows = select.query([rid])?;
        let Some(row) = rows.next()? else {
            return Err(of.malformed(format_args!("there is no replica {rid}")));
        };
        let columns = Columns { row, table: "replicas", key: rid };
        let found: (UserId, ReplicaId) = (columns.parse(0)?, columns.parse(1)?);
        self.replicas.insert(rid, found.clone());
        Ok(found)
    }
}

impl Transaction for SqliteTransaction<'_> {
    async fn lock_replica(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        _now: Timestamp,
    ) -> Result<Option<WriteId>, StoreError> {
        self.locks.own.push(Lock::Replica(user.clone(), replica.clone()));
        let found = self.replicas(user, &BTreeSet::from([replica.clone()])).await?;
        Ok(found.get(replica).map(|row| row.last_write_id))
    }

    async fn accepted(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        write_ids: &BTreeSet<WriteId>,
    ) -> Result<HashMap<WriteId, Accepted>, StoreError> {
        let rid = self.rid(user, replica)?;
        let mut select = self.prepare(
            "SELECT op_id, digest, outcome, authored_at FROM accepted_ops \
             WHERE rid = ?1 AND write_id = ?2",
        )?;
        let mut accepted = HashMap::new();
        for write_id in write_ids {
            let mut rows = select.query(params![rid, write_id.get() as i64])?;
            let Some(row) = rows.next()? else { continue };
            let key = format_args!("{replica} {write_id}");
            let columns = Columns { row, table: "accepted_ops", key };
            let digest = columns.bytes(1)?.try_into();
            let authored_at = columns.optional_integer(3)?;
            let one = Accepted {
                op_id: columns.parse(0)?,
                digest: digest.map_err(|_| columns.malformed("digest is not 32 bytes"))?,
                outcome: columns.code(2, |code| codes::outcome(code, authored_at))?,
            };
            accepted.insert(*write_id, one);
        }
        Ok(accepted)
    }

    async fn share_groups(&mut self, groups: &BTreeSet<Principal>) -> Result<(), StoreError> {
        self.locks.shared.extend(groups.iter().cloned().map(Lock::Group));
        Ok(())
    }

    async fn granted_to(&mut self, group: &Principal) -> Result<BTreeSet<ItemId>, StoreError> {
        members::granted_to(self, group)
    }

    async fn all_grants(&mut self) -> Result<(BTreeSet<UserId>, BTreeSet<ItemId>), StoreError> {
        members::all_grants(self)
    }

    async fn lock_group(&mut self, group: &Principal) -> Result<(), StoreError> {
        self.locks.own.push(Lock::Group(group.clone()));
        Ok(())
    }

    async fn write_member(
        &mut self,
        group: &Principal,
        user: &UserId,
        present: bool,
    ) -> Result<bool, StoreError> {
        if !self.is_snapshot {
            return members::write_member(self, group, user, present);
        }
        let changes = members::is_member(self, group, user)? != present;
        self.member = Some((group.clone(), user.clone(), present));
        Ok(changes)
    }

    async fn write_block(
        &mut self,
        user: &UserId,
        owner: &UserId,
        blocked: bool,
    ) -> Result<bool, StoreError> {
        if !self.is_snapshot {
            return members::write_block(self, user, owner, blocked);
        }
        let changes = members::is_blocked(self, user, owner)? != blocked;
        self.block = Some((user.clone(), owner.clone(), blocked));
        Ok(changes)
    }

    async fn lock_realms(
        &mut self,
        user: Option<&UserId>,
        named: &BTreeSet<ItemId>,
        rows: &mut Rows,
    ) -> Result<(), StoreError> {
        self.load_items(named, &mut rows.items)?;
        let mut owners: BTreeSet<UserId> =
            rows.items.values().flatten().map(|item| item.owner.clone()).collect();
        owners.extend(user.cloned());
        for owner in &owners {
            if let Some(head) = feed::head(self, owner)? {
                rows.last_changed.insert(owner.clone(), head.changed_at);
                if user == Some(owner) {
                    rows.tail = feed::tail(self, owner, &head)?;
                }
            }
        }
        self.locks.own.extend(owners.iter().cloned().map(Lock::Realm));
        rows.realms = owners;
        Ok(())
    }

    async fn load(&mut self, needs: &Needs, found: &mut Rows) -> Result<(), StoreError> {
        self.count(needs.items.len() + needs.around.len())?;
        self.load_items(&needs.items, &mut found.items)?;
        self.load_links(&needs.links, &mut found.links)?;
        self.load_grants(needs, found)?;
        self.load_moves(needs, found)?;
        self.load_around(&needs.around, found)?;
        self.load_ancestors(&needs.ancestors, found)?;
        self.count(found.links.len())?;
        access::load(self, needs, found)
    }

    async fn marks(
        &mut self,
        user: &UserId,
        keys: &BTreeSet<EntryKey>,
    ) -> Result<Map<EntryKey, Option<Mark>>, StoreError> {
        feed::marks(self, user, keys)
    }

    async fn told(&mut self, keys: &BTreeMap<UserId, Vec<Vec<u8>>>) -> Result<Told, StoreError> {
        access::told(self, keys)
    }

    async fn write_access(&mut self, changes: &Changes) -> Result<(), StoreError> {
        access::write(self, changes)
    }

    async fn lock_heads(
        &mut self,
        users: &BTreeSet<UserId>,
        now: Timestamp,
    ) -> Result<BTreeMap<UserId, Head>, StoreError> {
        self.locks.own.extend(users.iter().cloned().map(Lock::Head));
        let mut heads = BTreeMap::new();
        for user in users {
            let head = match feed::head(self, user)? {
                Some(head) => head,
                None => {
                    Head { epoch: feed::epoch(self)?, counter: 0, changed_at: now, pruned: None }
                }
            };
            heads.insert(user.clone(), head);
        }
        Ok(heads)
    }

    async fn write_push(&mut self, write: &PushWrite<'_>) -> Result<(), StoreError> {
        write::push(self, write)
    }

    async fn write_changes(
        &mut self,
        changes: &Changes,
        feeds: &[FeedWrite],
    ) -> Result<(), StoreError> {
        write::changes(self, changes, feeds)
    }

    async fn head(&mut self, user: &UserId) -> Result<Option<Head>, StoreError> {
        feed::head(self, user)
    }

    async fn epoch(&mut self) -> Result<Epoch, StoreError> {
        feed::epoch(self)
    }

    async fn epoch_starts(&mut self, user: &UserId) -> Result<Vec<EpochStart>, StoreError> {
        feed::epoch_starts(self, user)
    }

    async fn replicas(
        &mut self,
        user: &UserId,
        replicas: &BTreeSet<ReplicaId>,
    ) -> Result<HashMap<ReplicaId, ReplicaRow>, StoreError> {
        let mut found = HashMap::with_capacity(replicas.len());
        let Some(uid) = self.uid(user)? else { return Ok(found) };
        let mut select = self.prepare(
            "SELECT last_write_id, last_seen FROM replicas WHERE uid = ?1 AND replica_id = ?2",
        )?;
        for replica in replicas {
            let mut rows = select.query(params![uid, replica.as_str()])?;
            let Some(row) = rows.next()? else { continue };
            let columns = Columns { row, table: "replicas", key: replica };
            let row =
                ReplicaRow { last_write_id: write_id(&columns, 0)?, last_seen: columns.time(1)? };
            found.insert(replica.clone(), row);
        }
        Ok(found)
    }

    async fn active_replicas(
        &mut self,
        user: &UserId,
        limit: usize,
    ) -> Result<Vec<(ReplicaId, WriteId)>, StoreError> {
        let Some(uid) = self.uid(user)? else { return Ok(Vec::new()) };
        let mut select = self.prepare(
            "SELECT replica_id, last_write_id FROM replicas \
             WHERE uid = ?1 ORDER BY last_seen DESC LIMIT ?2",
        )?;
        let mut rows = select.query(params![uid, limit as i64])?;
        let mut active = Vec::new();
        while let Some(row) = rows.next()? {
            let columns = Columns { row, table: "replicas", key: user };
            active.push((columns.parse(0)?, write_id(&columns, 1)?));
        }
        Ok(active)
    }

    async fn touch_replica(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Some(uid) = self.uid(user)? else { return Ok(()) };
        self.prepare(
            "UPDATE replicas SET last_seen = max(last_seen, ?3) WHERE uid = ?1 AND replica_id = ?2",
        )?
        .execute(params![uid, replica.as_str(), now.as_millis()])?;
        Ok(())
    }

    async fn reconcile_state(
        &mut self,
        user: &UserId,
        client: &ReplicaId,
    ) -> Result<Stored<ReconcileState>, StoreError> {
        let Some(uid) = self.uid(user)? else { return Ok(None) };
        let key = codes::client_key(client);
        let mut select = self.prepare(
            "SELECT changed_at, change_id, write_ids FROM reconcile_state \
             WHERE uid = ?1 AND client = ?2",
        )?;
        let mut rows = select.query(params![uid, key])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let columns = Columns { row, table: "reconcile_state", key: &key };
        let parse = || {
            codes::reconcile_state(&key, columns.integer(0)?, columns.text(1)?, columns.text(2)?)
        };
        Ok(Some(parse()))
    }

    async fn write_reconcile_state(
        &mut self,
        user: &UserId,
        client: &ReplicaId,
        state: &ReconcileState,
        _new: bool,
    ) -> Result<(), StoreError> {
        let uid = self.make_uid(user)?;
        self.prepare(
            "INSERT INTO reconcile_state (uid, client, changed_at, change_id, write_ids) \
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (uid, client) DO UPDATE SET \
             changed_at = excluded.changed_at, change_id = excluded.change_id, \
             write_ids = excluded.write_ids",
        )?
        .execute(params![
            uid,
            codes::client_key(client),
            state.cursor.changed_at.as_millis(),
            state.cursor.change_id.as_str(),
            codes::write_ids_json(&state.last_reconciled_write_ids)?,
        ])?;
        Ok(())
    }

    async fn stage(&mut self, staging_id: &StagingId) -> Result<Stored<StoredStage>, StoreError> {
        blobs::stage(self, staging_id)
    }

    async fn insert_stage(
        &mut self,
        user: &UserId,
        stage: &NewStage,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        blobs::insert_stage(self, user, stage, now)
    }

    async fn set_uploaded(
        &mut self,
        blob_id: &BlobId,
        size: u64,
        digest: Sha256Digest,
    ) -> Result<(), StoreError> {
        blobs::set_uploaded(self, blob_id, size, digest)
    }

    async fn set_stage_status(
        &mut self,
        staging_id: &StagingId,
        status: StageStatus,
    ) -> Result<(), StoreError> {
        blobs::set_stage_status(self, staging_id, status)
    }

    async fn delete_stage(
        &mut self,
        staging_id: &StagingId,
        blob_id: &BlobId,
    ) -> Result<(), StoreError> {
        blobs::delete_stage(self, staging_id, blob_id)
    }

    async fn discard_blob(&mut self, blob_id: &BlobId, now: Timestamp) -> Result<(), StoreError> {
        blobs::discard(self, blob_id, now)
    }

    async fn set_reclaim(&mut self, blob_id: &BlobId, at: Timestamp) -> Result<(), StoreError> {
        blobs::set_reclaim(self, blob_id, at)
    }

    async fn clear_reclaim(&mut self, blob_id: &BlobId, now: Timestamp) -> Result<(), StoreError> {
        blobs::clear_reclaim(self, blob_id, now)
    }

    async fn move_reclaim(
        &mut self,
        blob_id: &BlobId,
        now: Timestamp,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        blobs::move_reclaim(self, blob_id, now, at)
    }

    async fn set_deleted(&mut self, blob_id: &BlobId, again: Timestamp) -> Result<(), StoreError> {
        blobs::set_deleted(self, blob_id, again)
    }

    async fn delete_version(&mut self, ref_id: &RefId) -> Result<bool, StoreError> {
        versions::delete(self, ref_id)
    }

    async fn stage_of(&mut self, blob_id: &BlobId) -> Result<Option<StagingId>, StoreError> {
        uploads::stage_of(self, blob_id)
    }

    async fn upload(&mut self, staging_id: &StagingId) -> Result<Option<UploadRow>, StoreError> {
        uploads::upload(self, staging_id)
    }

    async fn write_upload(
        &mut self,
        staging_id: &StagingId,
        upload: &UploadRow,
    ) -> Result<(), StoreError> {
        uploads::write_upload(self, staging_id, upload)
    }

    async fn delete_upload(&mut self, staging_id: &StagingId) -> Result<(), StoreError> {
        uploads::delete_upload(self, staging_id)
    }

    async fn add_parts(
        &mut self,
        staging_id: &StagingId,
        from: u32,
        tags: &[String],
    ) -> Result<(), StoreError> {
        uploads::add_parts(self, staging_id, from, tags)
    }

    async fn delete_parts(&mut self, staging_id: &StagingId) -> Result<(), StoreError> {
        uploads::delete_parts(self, staging_id)
    }

    async fn usage(&mut self, owner: &UserId) -> Result<Usage, StoreError> {
        uploads::usage(self, owner)
    }

    async fn set_usage(&mut self, owner: &UserId, usage: Usage) -> Result<(), StoreError> {
        uploads::set_usage(self, owner, usage)
    }

    async fn set_reserved(&mut self, blob_id: &BlobId, bytes: u64) -> Result<(), StoreError> {
        uploads::set_reserved(self, blob_id, bytes)
    }

    async fn attachments_of(&mut self, item: &ItemId) -> Result<Vec<Attachment>, StoreError> {
        blobs::attachments_of(self, item)
    }

    async fn attachments_with(&mut self, blob: &BlobId) -> Result<Vec<MadeAttach>, StoreError> {
        blobs::attachments_with(self, blob)
    }

    async fn insert_attachment(&mut self, changes: &AttachChanges) -> Result<(), StoreError> {
        blobs::insert_attachment(self, changes)
    }

    async fn trash_rows(
        &mut self,
        items: &BTreeSet<ItemId>,
    ) -> Result<BTreeMap<ItemId, TrashRow>, StoreError> {
        trash::rows(self, items)
    }

    async fn trash_page(
        &mut self,
        user: &UserId,
        of: TrashOf,
        after: Option<&TrashCursor>,
        limit: usize,
    ) -> Result<Vec<TrashRow>, StoreError> {
        trash::page(self, user, of, after, limit)
    }

    async fn trash_before(
        &mut self,
        state: TrashState,
        before: Timestamp,
        at_most: u32,
    ) -> Result<Vec<TrashRow>, StoreError> {
        trash::before(self, state, before, at_most)
    }

    async fn put_trash(&mut self, rows: &[TrashRow]) -> Result<(), StoreError> {
        trash::put(self, rows)
    }

    async fn purging_refs(&mut self, at_most: u32) -> Result<Vec<(RefId, BlobId)>, StoreError> {
        trash::purging_refs(self, at_most)
    }

    async fn delete_ref(&mut self, ref_id: &RefId) -> Result<bool, StoreError> {
        trash::delete_ref(self, ref_id)
    }

    async fn has_refs(&mut self, item: &ItemId) -> Result<bool, StoreError> {
        trash::has_refs(self, item)
    }

    async fn clear_item(&mut self, item: &ItemId, at_most: u64) -> Result<u64, StoreError> {
        trash::clear_item(self, item, at_most)
    }

    async fn delete_items(&mut self, items: &BTreeSet<ItemId>) -> Result<(), StoreError> {
        trash::delete_items(self, items)
    }

    async fn set_charged(&mut self, blob_id: &BlobId, user: &UserId) -> Result<(), StoreError> {
        trash::set_charged(self, blob_id, user)
    }

    async fn write_feeds(&mut self, feeds: &[FeedWrite]) -> Result<(), StoreError> {
        write::feeds(self, feeds)
    }
}

fn write_id<K: std::fmt::Display>(
    columns: &Columns<'_, '_, K>,
    column: usize,
) -> Result<WriteId, StoreError> {
    WriteId::new(columns.unsigned(column)?)
        .ok_or_else(|| columns.malformed("last_write_id is out of range"))
}
