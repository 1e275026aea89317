//! A transaction's rows, locks and batches in PostgreSQL.
//!
//! Locks, in this order, each set by its bytes: a push's replica, or an attach's stage, blob and
//! reconcile state; realms; feed heads. A lock row that is missing is inserted at its place in
//! the order: `INSERT … ON CONFLICT DO UPDATE` takes the rows one by one, as they are sorted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use deadpool_postgres::Transaction as Connection;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};
use vfs_sync_core::access::Principal;
use vfs_sync_core::content::{Attachment, Sha256Digest};
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::entry::EntryKey;
use vfs_sync_core::id::{BlobId, ItemId, RefId, ReplicaId, StagingId, UserId, WriteId};
use vfs_sync_core::server::attach::{AttachChanges, MadeAttach};
use vfs_sync_core::server::feed_window::EpochStart;
use vfs_sync_core::server::push::{Accepted, Changes, Head, Map, Mark, Needs, Rows, Tail, Told};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{ReconcileState, StageStatus};

use super::rows::Columns;
use super::{CONFLICT, access, blobs, feed, load, members, trash, uploads, versions, write};
use crate::served::Served;
use crate::transaction::{FeedWrite, PushWrite, ReplicaRow, Stored, StoredStage, Transaction};
use crate::trash::{TrashCursor, TrashOf, TrashRow, TrashState};
use crate::{NewStage, StoreError, UploadRow, Usage, codes};

/// Rows from which on the work on them is long: some milliseconds.
const LONG_WORK: usize = 2_000;

pub(super) struct PostgresTransaction<'c> {
    connection: &'c Connection<'c>,
    /// Realms to lock besides those that are known before any lock.
    pub(super) realms: BTreeSet<UserId>,
    /// Whether to begin again, since what was reckoned before the locks did not hold.
    pub(super) restart: bool,
    /// A snapshot locks nothing.
    pub(super) only_reads: bool,
    /// What was seen before, and when it began.
    served: Option<(&'c Served, u64)>,
    /// The heads that it wrote, with the epoch.
    pub(super) written: Vec<(UserId, u64, Epoch)>,
    /// The database's epoch, once it was read with the heads.
    epoch: Option<Epoch>,
}

/// Ids as the array that a statement takes.
pub(super) fn texts<T: AsRef<str>>(ids: impl IntoIterator<Item = T>) -> Vec<String> {
    ids.into_iter().map(|id| id.as_ref().to_owned()).collect()
}

impl<'c> PostgresTransaction<'c> {
    pub(super) fn new(connection: &'c Connection<'c>, realms: BTreeSet<UserId>) -> Self {
        Self {
            connection,
            realms,
            restart: false,
            only_reads: false,
            served: None,
            written: Vec::new(),
            epoch: None,
        }
    }

    /// Holds what it finds to what was seen before.
    pub(super) fn held_to(self, served: &'c Served) -> Self {
        Self { served: Some((served, served.now())), ..self }
    }

    fn note_written(&mut self, feeds: &[FeedWrite]) {
        let Some(present) = self.epoch else { return };
        let heads = feeds.iter().map(|feed| (feed.user.clone(), feed.head.counter, present));
        self.written.extend(heads);
    }

    async fn prepare(&self, sql: &str) -> Result<Statement, StoreError> {
        #[cfg(all(feature = "testing", unix))]
        crate::testing::note_statement("postgres", sql);
        Ok(self.connection.prepare_cached(sql).await?)
    }

    pub(super) async fn query(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let statement = self.prepare(sql).await?;
        Ok(self.connection.query(&statement, parameters).await?)
    }

    pub(super) async fn query_opt(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.query(sql, parameters).await?.into_iter().next())
    }

    pub(super) async fn execute(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, StoreError> {
        let statement = self.prepare(sql).await?;
        Ok(self.connection.execute(&statement, parameters).await?)
    }

    /// The error that makes whoever runs the transaction begin again.
    pub(super) fn begin_again(&mut self) -> StoreError {
        self.restart = true;
        StoreError::Unavailable(CONFLICT.into())
    }
}

impl Transaction for PostgresTransaction<'_> {
    fn served(&self) -> Option<(&Served, u64)> {
        self.served
    }

    fn reckon<R>(&self, rows: usize, work: impl FnOnce() -> R) -> R {
        // Where it runs, the connections of others are served too.
        let others = Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
        if others && rows > LONG_WORK { tokio::task::block_in_place(work) } else { work() }
    }

    async fn lock_replica(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        now: Timestamp,
    ) -> Result<Option<WriteId>, StoreError> {
        let row = self
            .query_opt(
                "INSERT INTO replicas (user_id, replica_id, last_write_id, last_seen) \
                 VALUES ($1, $2, 0, $3) ON CONFLICT (user_id, replica_id) DO UPDATE \
                 SET last_seen = greatest(replicas.last_seen, excluded.last_seen) \
                 RETURNING last_write_id",
                &[&user.as_str(), &replica.as_str(), &now.as_millis()],
            )
            .await?
            .ok_or_else(|| codes::malformed("replicas", replica, "is not there"))?;
        let columns = Columns { row: &row, table: "replicas", key: replica };
        if columns.unsigned(0)? == 0 { Ok(None) } else { columns.write_id(0).map(Some) }
    }

    async fn accepted(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        write_ids: &BTreeSet<WriteId>,
    ) -> Result<HashMap<WriteId, Accepted>, StoreError> {
        let ids: Vec<i64> = write_ids.iter().map(|id| id.get() as i64).collect();
        let rows = self
            .query(
                "SELECT write_id, op_id, digest, outcome, authored_at FROM accepted_ops \
                 WHERE user_id = $1 AND replica_id = $2 AND write_id = ANY($3)",
                &[&user.as_str(), &replica.as_str(), &ids],
            )
            .await?;
        let mut accepted = HashMap::with_capacity(rows.len());
        for row in &rows {
            let key = format!("{replica} {}", row.try_get::<_, i64>(0).unwrap_or(0));
            let columns = Columns { row, table: "accepted_ops", key };
            let authored_at = columns.get(4)?;
            let one = Accepted {
                op_id: columns.parse(1)?,
                digest: columns.digest(2)?,
                outcome: columns.code(3, |code| codes::outcome(code, authored_at))?,
            };
            accepted.insert(columns.write_id(0)?, one);
        }
        Ok(accepted)
    }

    async fn share_groups(&mut self, groups: &BTreeSet<Principal>) -> Result<(), StoreError> {
        members::share_groups(self, groups).await
    }

    async fn granted_to(&mut self, group: &Principal) -> Result<BTreeSet<ItemId>, StoreError> {
        members::granted_to(self, group).await
    }

    async fn all_grants(&mut self) -> Result<(BTreeSet<UserId>, BTreeSet<ItemId>), StoreError> {
        members::all_grants(self).await
    }

    async fn lock_group(&mut self, group: &Principal) -> Result<(), StoreError> {
        members::lock_group(self, group).await
    }

    async fn write_member(
        &mut self,
        group: &Principal,
        user: &UserId,
        present: bool,
    ) -> Result<bool, StoreError> {
        members::write_member(self, group, user, present).await
    }

    async fn write_block(
        &mut self,
        user: &UserId,
        owner: &UserId,
        blocked: bool,
    ) -> Result<bool, StoreError> {
        members::write_block(self, user, owner, blocked).await
    }

    async fn lock_realms(
        &mut self,
        user: Option<&UserId>,
        named: &BTreeSet<ItemId>,
        rows: &mut Rows,
    ) -> Result<(), StoreError> {
        let ids = texts(named);
        let mut realms = std::mem::take(&mut self.realms);
        realms.extend(user.cloned());
        let owners =
            self.query("SELECT DISTINCT owner FROM items WHERE item_id = ANY($1)", &[&ids]).await?;
        for row in &owners {
            realms.insert(Columns { row, table: "items", key: "owner" }.parse(0)?);
        }
        self.query(
            "INSERT INTO realms (user_id) SELECT id FROM unnest($1::text[]) AS id \
             ORDER BY id COLLATE \"C\" \
             ON CONFLICT (user_id) DO UPDATE SET user_id = excluded.user_id",
            &[&texts(&realms)],
        )
        .await?;
        load::items(self, &ids, &mut rows.items).await?;
        for id in named {
            rows.items.entry(id.clone()).or_insert(None);
        }
        let unlocked: Vec<UserId> = rows
            .items
            .values()
            .flatten()
            .filter(|item| !realms.contains(&item.owner))
            .map(|item| item.owner.clone())
            .collect();
        if !unlocked.is_empty() {
            realms.extend(unlocked);
            self.realms = realms;
            return Err(self.begin_again());
        }
        let heads = self
            .query(
                "SELECT user_id, changed_at, epoch, counter, writer, other FROM feed_head \
                 WHERE user_id = ANY($1)",
                &[&texts(&realms)],
            )
            .await?;
        for row in &heads {
            let columns = Columns { row, table: "feed_head", key: "changed_at" };
            let owner: UserId = columns.parse(0)?;
            rows.last_changed.insert(owner.clone(), columns.time(1)?);
            if user == Some(&owner) {
                let (epoch, counter) = (columns.code(2, feed::stored_epoch)?, columns.unsigned(3)?);
                let mark = feed::mark(&columns, 4, counter)?;
                rows.tail = Some(Tail { history: vec![(epoch, counter)], mark });
            }
        }
        rows.realms = realms.clone();
        self.realms = realms;
        Ok(())
    }

    async fn load(&mut self, needs: &Needs, found: &mut Rows) -> Result<(), StoreError> {
        load::needs(self, needs, found).await?;
        access::load(self, needs, found).await
    }

    async fn marks(
        &mut self,
        user: &UserId,
        keys: &BTreeSet<EntryKey>,
    ) -> Result<Map<EntryKey, Option<Mark>>, StoreError> {
        feed::marks(self, user, keys).await
    }

    async fn told(&mut self, keys: &BTreeMap<UserId, Vec<Vec<u8>>>) -> Result<Told, StoreError> {
        access::told(self, keys).await
    }

    async fn write_access(&mut self, changes: &Changes) -> Result<(), StoreError> {
        access::write(self, changes).await
    }

    async fn lock_heads(
        &mut self,
        users: &BTreeSet<UserId>,
        now: Timestamp,
    ) -> Result<BTreeMap<UserId, Head>, StoreError> {
        let (heads, epoch) = feed::lock_heads(self, users, now).await?;
        self.epoch = epoch;
        Ok(heads)
    }

    async fn write_push(&mut self, write: &PushWrite<'_>) -> Result<(), StoreError> {
        self.note_written(write.feeds);
        write::push(self, write).await
    }

    async fn write_changes(
        &mut self,
        changes: &Changes,
        feeds: &[FeedWrite],
    ) -> Result<(), StoreError> {
        write::changes(self, changes, feeds).await
    }

    async fn head(&mut self, user: &UserId) -> Result<Option<Head>, StoreError> {
        let Some((head, epoch)) = feed::head(self, user).await? else { return Ok(None) };
        self.epoch = Some(epoch);
        Ok(Some(head))
    }

    async fn epoch(&mut self) -> Result<Epoch, StoreError> {
        match self.epoch {
            Some(epoch) => Ok(epoch),
            None => feed::epoch(self).await,
        }
    }

    async fn epoch_starts(&mut self, user: &UserId) -> Result<Vec<EpochStart>, StoreError> {
        feed::epoch_starts(self, user).await
    }

    async fn replicas(
        &mut self,
        user: &UserId,
        replicas: &BTreeSet<ReplicaId>,
    ) -> Result<HashMap<ReplicaId, ReplicaRow>, StoreError> {
        if replicas.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = self
            .query(
                "SELECT replica_id, last_write_id, last_seen FROM replicas \
                 WHERE user_id = $1 AND replica_id = ANY($2) AND last_write_id <> 0",
                &[&user.as_str(), &texts(replicas)],
            )
            .await?;
        let mut found = HashMap::with_capacity(rows.len());
        for row in &rows {
            let columns = Columns { row, table: "replicas", key: user };
            let (last_write_id, last_seen) = (columns.write_id(1)?, columns.time(2)?);
            found.insert(columns.parse(0)?, ReplicaRow { last_write_id, last_seen });
        }
        Ok(found)
    }

    async fn active_replicas(
        &mut self,
        user: &UserId,
        limit: usize,
    ) -> Result<Vec<(ReplicaId, WriteId)>, StoreError> {
        let rows = self
            .query(
                "SELECT replica_id, last_write_id FROM replicas \
                 WHERE user_id = $1 AND last_write_id > 0 ORDER BY last_seen DESC LIMIT $2",
                &[&user.as_str(), &(limit as i64)],
            )
            .await?;
        rows.iter()
            .map(|row| {
                let columns = Columns { row, table: "replicas", key: user };
                Ok((columns.parse(0)?, columns.write_id(1)?))
            })
            .collect()
    }

    async fn touch_replica(
        &mut self,
        user: &UserId,
        replica: &ReplicaId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.execute(
            "UPDATE replicas SET last_seen = greatest(last_seen, $3) \
             WHERE user_id = $1 AND replica_id = $2",
            &[&user.as_str(), &replica.as_str(), &now.as_millis()],
        )
        .await?;
        Ok(())
    }

    async fn reconcile_state(
        &mut self,
        user: &UserId,
        client: &ReplicaId,
    ) -> Result<Stored<ReconcileState>, StoreError> {
        let key = codes::client_key(client);
        let sql = if self.only_reads {
            "SELECT changed_at, change_id, write_ids FROM reconcile_state \
             WHERE user_id = $1 AND client = $2"
        } else {
            "SELECT changed_at, change_id, write_ids FROM reconcile_state \
             WHERE user_id = $1 AND client = $2 FOR UPDATE"
        };
        let row = self.query_opt(sql, &[&user.as_str(), &key]).await?;
        Ok(row.map(|row| {
            let columns = Columns { row: &row, table: "reconcile_state", key: &key };
            codes::reconcile_state(&key, columns.get(0)?, columns.get(1)?, columns.get(2)?)
        }))
    }

    async fn write_reconcile_state(
        &mut self,
        user: &UserId,
        client: &ReplicaId,
        state: &ReconcileState,
        new: bool,
    ) -> Result<(), StoreError> {
        let sql = if new {
            "INSERT INTO reconcile_state (user_id, client, changed_at, change_id, write_ids) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (user_id, client) DO NOTHING"
        } else {
            "UPDATE reconcile_state SET changed_at = $3, change_id = $4, write_ids = $5 \
             WHERE user_id = $1 AND client = $2"
        };
        let written = self
            .execute(
                sql,
                &[
                    &user.as_str(),
                    &codes::client_key(client),
                    &state.cursor.changed_at.as_millis(),
                    &state.cursor.change_id.as_str(),
                    &codes::write_ids_json(&state.last_reconciled_write_ids)?,
                ],
            )
            .await?;
        // Another call stored the first state meanwhile: this one has to merge with it.
        if written == 0 { Err(self.begin_again()) } else { Ok(()) }
    }

    async fn stage(&mut self, staging_id: &StagingId) -> Result<Stored<StoredStage>, StoreError> {
        blobs::stage(self, staging_id).await
    }

    async fn insert_stage(
        &mut self,
        user: &UserId,
        stage: &NewStage,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        blobs::insert_stage(self, user, stage, now).await
    }

    async fn set_uploaded(
        &mut self,
        blob_id: &BlobId,
        size: u64,
        digest: Sha256Digest,
    ) -> Result<(), StoreError> {
        self.execute(
            "UPDATE blobs SET size = $2, digest = $3 WHERE blob_id = $1",
            &[&blob_id.as_str(), &codes::size(size)?, &digest.0.as_slice()],
        )
        .await?;
        Ok(())
    }

    async fn set_stage_status(
        &mut self,
        staging_id: &StagingId,
        status: StageStatus,
    ) -> Result<(), StoreError> {
        blobs::set_stage_status(self, staging_id, status).await
    }

    async fn delete_stage(
        &mut self,
        staging_id: &StagingId,
        blob_id: &BlobId,
    ) -> Result<(), StoreError> {
        blobs::delete_stage(self, staging_id, blob_id).await
    }

    async fn discard_blob(&mut self, blob_id: &BlobId, now: Timestamp) -> Result<(), StoreError> {
        blobs::discard(self, blob_id, now).await
    }

    async fn set_reclaim(&mut self, blob_id: &BlobId, at: Timestamp) -> Result<(), StoreError> {
        blobs::set_reclaim(self, blob_id, at).await
    }

    async fn clear_reclaim(&mut self, blob_id: &BlobId, now: Timestamp) -> Result<(), StoreError> {
        blobs::clear_reclaim(self, blob_id, now).await
    }

    async fn move_reclaim(
        &mut self,
        blob_id: &BlobId,
        now: Timestamp,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        blobs::move_reclaim(self, blob_id, now, at).await
    }

    async fn set_deleted(&mut self, blob_id: &BlobId, again: Timestamp) -> Result<(), StoreError> {
        blobs::set_deleted(self, blob_id, again).await
    }

    async fn delete_version(&mut self, ref_id: &RefId) -> Result<bool, StoreError> {
        versions::delete(self, ref_id).await
    }

    async fn stage_of(&mut self, blob_id: &BlobId) -> Result<Option<StagingId>, StoreError> {
        uploads::stage_of(self, blob_id).await
    }

    async fn upload(&mut self, staging_id: &StagingId) -> Result<Option<UploadRow>, StoreError> {
        uploads::upload(self, staging_id).await
    }

    async fn write_upload(
        &mut self,
        staging_id: &StagingId,
        upload: &UploadRow,
    ) -> Result<(), StoreError> {
        uploads::write_upload(self, staging_id, upload).await
    }

    async fn delete_upload(&mut self, staging_id: &StagingId) -> Result<(), StoreError> {
        uploads::delete_upload(self, staging_id).await
    }

    async fn add_parts(
        &mut self,
        staging_id: &StagingId,
        from: u32,
        tags: &[String],
    ) -> Result<(), StoreError> {
        uploads::add_parts(self, staging_id, from, tags).await
    }

    async fn delete_parts(&mut self, staging_id: &StagingId) -> Result<(), StoreError> {
        uploads::delete_parts(self, staging_id).await
    }

    async fn usage(&mut self, owner: &UserId) -> Result<Usage, StoreError> {
        uploads::usage(self, owner).await
    }

    async fn set_usage(&mut self, owner: &UserId, usage: Usage) -> Result<(), StoreError> {
        uploads::set_usage(self, owner, usage).await
    }

    async fn set_reserved(&mut self, blob_id: &BlobId, bytes: u64) -> Result<(), StoreError> {
        uploads::set_reserved(self, blob_id, bytes).await
    }

    async fn attachments_of(&mut self, item: &ItemId) -> Result<Vec<Attachment>, StoreError> {
        blobs::attachments_of(self, &[item.as_str().to_owned()]).await
    }

    async fn attachments_with(&mut self, blob: &BlobId) -> Result<Vec<MadeAttach>, StoreError> {
        blobs::attachments_with(self, blob).await
    }

    async fn insert_attachment(&mut self, changes: &AttachChanges) -> Result<(), StoreError> {
        blobs::insert_attachment(self, changes).await
    }

    async fn trash_rows(
        &mut self,
        items: &BTreeSet<ItemId>,
    ) -> Result<BTreeMap<ItemId, TrashRow>, StoreError> {
        trash::rows(self, items).await
    }

    async fn trash_page(
        &mut self,
        user: &UserId,
        of: TrashOf,
        after: Option<&TrashCursor>,
        limit: usize,
    ) -> Result<Vec<TrashRow>, StoreError> {
        trash::page(self, user, of, after, limit).await
    }

    async fn trash_before(
        &mut self,
        state: TrashState,
        before: Timestamp,
        at_most: u32,
    ) -> Result<Vec<TrashRow>, StoreError> {
        trash::before(self, state, before, at_most).await
    }

    async fn put_trash(&mut self, rows: &[TrashRow]) -> Result<(), StoreError> {
        trash::put(self, rows).await
    }

    async fn purging_refs(&mut self, at_most: u32) -> Result<Vec<(RefId, BlobId)>, StoreError> {
        trash::purging_refs(self, at_most).await
    }

    async fn delete_ref(&mut self, ref_id: &RefId) -> Result<bool, StoreError> {
        trash::delete_ref(self, ref_id).await
    }

    async fn has_refs(&mut self, item: &ItemId) -> Result<bool, StoreError> {
        trash::has_refs(self, item).await
    }

    async fn clear_item(&mut self, item: &ItemId, at_most: u64) -> Result<u64, StoreError> {
        trash::clear_item(self, item, at_most).await
    }

    async fn delete_items(&mut self, items: &BTreeSet<ItemId>) -> Result<(), StoreError> {
        trash::delete_items(self, items).await
    }

    async fn set_charged(&mut self, blob_id: &BlobId, user: &UserId) -> Result<(), StoreError> {
        trash::set_charged(self, blob_id, user).await
    }

    async fn write_feeds(&mut self, feeds: &[FeedWrite]) -> Result<(), StoreError> {
        self.note_written(feeds);
        write::feeds(self, feeds).await
    }
}
