//! An open transaction in SQLite, and the numbers that stand for users and replicas in its rows.
//! There is one writer, so nothing waits for a lock; the methods of the topics complete at their
//! first poll.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Params, params};
use vfs_sync_core::access::Principal;
use vfs_sync_core::id::{ReplicaId, UserId, WriteId};
use vfs_sync_core::stamp::{Author, Stamp};

use super::conflicts::Locks;
use super::rows::Columns;
use crate::backend::plan_memory::PlanMemory;
use crate::backend::row_limit::RowLimit;
use crate::encoding;
use crate::error::Result;
use crate::moves::MovedHead;

/// An open transaction, with the numbers that stand for users and replicas in its rows.
pub(super) struct SqliteTransaction<'c> {
    pub(super) connection: &'c Connection,
    numbers: HashMap<UserId, i64>,
    users: HashMap<i64, UserId>,
    replicas: HashMap<i64, (UserId, ReplicaId)>,
    last_author: Option<(Arc<Author>, i64)>,
    writers: HashMap<i64, ReplicaId>,
    last_writer: Option<(i64, ReplicaId, i64)>,
    pub(super) locks: Locks,
    /// The feed heads that the transaction moves.
    pub(super) moved: Vec<MovedHead>,
    /// The rows that the transaction may load.
    pub(super) limit: RowLimit,
    /// The bytes of memory that planning a change may take.
    pub(super) plan_memory: PlanMemory,
    /// The changes that a decision on a snapshot assumes.
    pub(super) deferred: Deferred,
    pub(super) is_snapshot: bool,
}

/// Changes that a snapshot cannot write. They are decided as if they were present, and are written
/// with the decision.
#[derive(Default)]
pub(super) struct Deferred {
    /// A change of members: the group, the user, and whether the user is a member.
    pub(super) member: Option<(Principal, UserId, bool)>,
    /// A change of a block: the blocking user, the owner, and whether the block is set.
    pub(super) block: Option<(UserId, UserId, bool)>,
}

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
            moved: Vec::new(),
            limit: RowLimit::NONE,
            plan_memory: PlanMemory::UNBOUNDED,
            deferred: Deferred::default(),
            is_snapshot: false,
        }
    }

    /// Begins a transaction on a snapshot, for a decision that is written later.
    pub(super) fn on_snapshot(connection: &'c Connection) -> Self {
        Self { is_snapshot: true, ..Self::new(connection) }
    }

    /// Applies the deferred change of members to the members of `group`.
    pub(super) fn with_change(&self, group: &Principal, members: &mut BTreeSet<UserId>) {
        if let Some((changed, user, present)) = &self.deferred.member
            && changed == group
        {
            if *present {
                members.insert(user.clone());
            } else {
                members.remove(user);
            }
        }
    }

    /// Applies the deferred change of a block to the users who block `owner`.
    pub(super) fn with_block(&self, owner: &UserId, users: &mut BTreeSet<UserId>) {
        if let Some((user, changed, blocked)) = &self.deferred.block
            && changed == owner
        {
            if *blocked {
                users.insert(user.clone());
            } else {
                users.remove(user);
            }
        }
    }

    pub(super) fn prepare(&self, sql: &str) -> Result<CachedStatement<'c>> {
        #[cfg(all(feature = "testing", unix))]
        crate::testing::note_statement("sqlite", sql);
        Ok(self.connection.prepare_cached(sql)?)
    }

    /// Returns the number that a query counts.
    pub(super) fn query_count(&self, sql: &str, parameters: impl Params) -> Result<u64> {
        let found: i64 = self.prepare(sql)?.query_row(parameters, |row| row.get(0))?;
        Ok(found.unsigned_abs())
    }

    /// Returns the user's number; `None` for an unknown user.
    pub(super) fn uid(&mut self, user: &UserId) -> Result<Option<i64>> {
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

    /// Forgets the number of a user who has no row any more.
    pub(super) fn forget_user(&mut self, user: &UserId) {
        if let Some(uid) = self.numbers.remove(user) {
            self.users.remove(&uid);
        }
    }

    /// Returns the user's number, assigning one if needed.
    pub(super) fn make_uid(&mut self, user: &UserId) -> Result<i64> {
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
    ) -> Result<UserId> {
        if let Some(user) = self.users.get(&uid) {
            return Ok(user.clone());
        }
        let mut select = self.prepare("SELECT user_id FROM realms WHERE uid = ?1")?;
        let mut rows = select.query([uid])?;
        let Some(row) = rows.next()? else {
            return Err(encoding::malformed(table, key, format_args!("there is no user {uid}")));
        };
        let user: UserId = Columns { row, table: "realms", key: uid }.parse(0)?;
        self.users.insert(uid, user.clone());
        Ok(user)
    }

    /// Returns the number of a stamp's author. Every author has a row since its push.
    pub(super) fn author(&mut self, author: &Arc<Author>) -> Result<i64> {
        match &self.last_author {
            Some((last, rid)) if last.user == author.user && last.replica == author.replica => {
                return Ok(*rid);
            }
            _ => {}
        }
        let rid = self.rid(&author.user, &author.replica)?.ok_or_else(|| {
            encoding::malformed("replicas", &author.replica, "is missing, though it has written")
        })?;
        self.last_author = Some((author.clone(), rid));
        Ok(rid)
    }

    /// Returns the number by which feeds name a replica of their user, assigning one if needed.
    pub(super) fn writer(&mut self, uid: i64, replica: Option<&ReplicaId>) -> Result<Option<i64>> {
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

    /// Returns the replica that feeds name by a number.
    pub(super) fn writer_name<K: std::fmt::Display>(
        &mut self,
        wid: i64,
        of: &Columns<'_, '_, K>,
    ) -> Result<ReplicaId> {
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

    pub(super) fn rid(&mut self, user: &UserId, replica: &ReplicaId) -> Result<Option<i64>> {
        let Some(uid) = self.uid(user)? else { return Ok(None) };
        let mut select =
            self.prepare("SELECT rid FROM replicas WHERE uid = ?1 AND replica_id = ?2")?;
        Ok(select.query_row(params![uid, replica.as_str()], |row| row.get(0)).optional()?)
    }

    /// Reads the stamp in the columns `authored_at`, `author` and `write_id`, beginning at `first`.
    pub(super) fn stamp<K: std::fmt::Display>(
        &mut self,
        columns: &Columns<'_, '_, K>,
        first: usize,
    ) -> Result<Stamp> {
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
    ) -> Result<(UserId, ReplicaId)> {
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
