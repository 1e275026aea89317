//! PostgreSQL: any number of servers on one database.
//!
//! Writers run at READ COMMITTED and take their locks in one order (`transaction`), so nothing
//! dead-locks; a feed's head is locked until the commit, so the order of positions is the order
//! of commit. A pull reads one REPEATABLE READ snapshot.

mod access;
mod blobs;
mod feed;
mod load;
mod members;
mod migrations;
mod place;
mod repair;
mod retention;
mod rows;
mod transaction;
mod trash;
mod uploads;
mod versions;
mod write;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::error::SqlState;
use tokio_postgres::{IsolationLevel, NoTls};
use vfs_sync_core::access::Principal;
use vfs_sync_core::content::Attachment;
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::id::{BlobId, ItemId, RefId, ReplicaId, StagingId, UserId};
use vfs_sync_core::server::attach::{AttachRefusal, StageRow};
use vfs_sync_core::server::push::PushBatch;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{
    AttachRequest, AttachResponse, PushResponse, ReconcileRequest, StateResponse,
};

use crate::reclaim;
use crate::served::{Served, went_back};
use crate::trash as trashing;
use crate::trash::{MAX_TRASH_ITEMS, PurgeAnswer, RestoreAnswer, TrashCursor, TrashListing};
use crate::uploads as uploading;
use crate::{
    AbandonAnswer, Advance, Anew, BlobRecord, BlobRow, BlobSummary, DeleteAnswer, Identity,
    MalformedState, MetadataStore, NewStage, NewUpload, Pruned, PullAnswer, PullRequest, Quota,
    Reclaim, ReconcileAnswer, Retention, StageAnswer, StageRecord, StoreError, UploadAccess,
    UploadAnswer, Usage, codes, flow,
};
use transaction::PostgresTransaction;

/// Connections of one server.
const CONNECTIONS: usize = 16;
/// How long a call waits for a connection.
const CONNECTION_WAIT: Duration = Duration::from_secs(10);
/// How long a database may say nothing at all, to what was sent or to the question whether it is
/// there, until its connection is given up: one that went without a farewell, or whose way was cut,
/// would else hold callers up for a quarter of an hour.
const SILENCE: Duration = Duration::from_secs(30);
/// Where nothing was said in the URL.
const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(2 * 60 * 60);
/// How often a transaction is run again before its caller is asked to.
const ATTEMPTS: u32 = 8;

/// What every connection is set to. All statements are index look-ups by design; without
/// statistics yet, the planner would read a young table whole, and keep that plan as it grows.
const SESSION: &str = "\
    SET statement_timeout = '30s'; \
    SET lock_timeout = '15s'; \
    SET idle_in_transaction_session_timeout = '60s'; \
    SET enable_seqscan = off; \
    SET enable_hashjoin = off; \
    SET enable_mergejoin = off; \
    SET jit = off";

/// The metadata in a PostgreSQL database.
pub struct PostgresStore {
    pool: Pool,
    served: Arc<Served>,
}

/// Runs a flow in a transaction, again where another transaction was in the way.
macro_rules! transact {
    ($store:expr, |$tx:ident| $flow:expr) => {{
        let mut realms = BTreeSet::new();
        let mut attempt = 1;
        loop {
            let mut client = $store.client().await?;
            let transaction = client.transaction().await?;
            let mut $tx = PostgresTransaction::new(&transaction, realms).held_to(&$store.served);
            let outcome = $flow.await;
            let restart = $tx.restart;
            realms = $tx.realms;
            let written = $tx.written;
            match outcome {
                Ok(answer) => match transaction.commit().await {
                    Ok(()) => {
                        for (user, counter, present) in written {
                            $store.served.note(&user, counter, present);
                        }
                        break Ok(answer);
                    }
                    Err(error) if attempt < ATTEMPTS && is_conflict(&error) => {}
                    Err(error) => break Err(error.into()),
                },
                Err(error) => {
                    // A connection that cannot roll back is dropped, which does.
                    let _ = transaction.rollback().await;
                    let conflict = matches!(&error, StoreError::Unavailable(text) if text == CONFLICT);
                    if attempt >= ATTEMPTS || !(restart || conflict) {
                        break Err(error);
                    }
                }
            }
            attempt += 1;
        }
    }};
}

/// Runs a flow on one snapshot.
macro_rules! snapshot {
    ($store:expr, |$tx:ident| $flow:expr) => {{
        let mut client = $store.client().await?;
        let transaction = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        #[allow(unused_mut, reason = "some flows only look")]
        let mut $tx =
            PostgresTransaction::new(&transaction, BTreeSet::new()).held_to(&$store.served);
        let answer = $flow.await?;
        transaction.commit().await?;
        Ok(answer)
    }};
}

impl PostgresStore {
    /// Connects to the database at `url` (`postgres://user:password@host:port/database`), making
    /// or migrating the schema where needed. `now` begins an epoch; so does each later connection
    /// that leads elsewhere.
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`] for a database of a newer version, others if it cannot be
    /// reached.
    pub async fn connect(url: &str, now: Timestamp) -> Result<Self, StoreError> {
        let started = Arc::new(AtomicBool::new(false));
        let served = Arc::new(Served::default());
        let store = Self { pool: pool(url, started.clone(), served.clone())?, served };
        let mut client = store.client().await?;
        migrations::migrate(&mut client, now).await?;
        place::check(&mut client, Some(now), &store.served).await?;
        started.store(true, Ordering::Release);
        drop(client);
        Ok(store)
    }

    /// Brings the database at `url` to this program's schema; gives the schema's version.
    ///
    /// # Errors
    /// As [`PostgresStore::connect`].
    pub async fn migrate(url: &str, now: Timestamp) -> Result<i64, StoreError> {
        let store =
            Self { pool: pool(url, Arc::default(), Arc::default())?, served: Arc::default() };
        migrations::migrate(&mut store.client().await?, now).await
    }

    /// Begins an epoch where a call found that the database went back.
    async fn unless_it_went_back<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        if !matches!(answer, Err(StoreError::WentBack)) {
            return answer;
        }
        self.new_epoch(Timestamp::MIN, codes::low_bits(codes::chance())).await?;
        Err(went_back())
    }

    async fn client(&self) -> Result<deadpool_postgres::Client, StoreError> {
        self.pool.get().await.map_err(|error| StoreError::Unavailable(error.to_string()))
    }
}

/// Connections are made as they are needed; once the store has `started`, none is used before it
/// is known where it leads.
fn pool(url: &str, started: Arc<AtomicBool>, served: Arc<Served>) -> Result<Pool, StoreError> {
    let recycling_method = RecyclingMethod::Fast;
    let manager = Manager::from_config(parse(url)?, NoTls, ManagerConfig { recycling_method });
    let configure = Hook::async_fn(move |client, _| {
        let (started, served) = (started.load(Ordering::Acquire), served.clone());
        Box::pin(async move {
            client.batch_execute(SESSION).await.map_err(|e| HookError::message(e.to_string()))?;
            if started {
                let checked = place::check(client, None, &served).await;
                checked.map_err(|error| HookError::message(error.to_string()))?;
            }
            Ok(())
        })
    });
    Pool::builder(manager)
        .max_size(CONNECTIONS)
        .wait_timeout(Some(CONNECTION_WAIT))
        .create_timeout(Some(CONNECTION_WAIT))
        .runtime(Runtime::Tokio1)
        .post_create(configure)
        .build()
        .map_err(|error| StoreError::Failed(error.to_string()))
}

/// Errors say nothing of the URL: it has a password in it.
fn parse(url: &str) -> Result<tokio_postgres::Config, StoreError> {
    let mut config: tokio_postgres::Config = url
        .parse()
        .map_err(|_| StoreError::Failed("the database URL is not one of PostgreSQL".into()))?;
    if config.get_application_name().is_none() {
        config.application_name("vfs-sync");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECTION_WAIT);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(SILENCE);
    }
    if config.get_keepalives_idle() == DEFAULT_KEEPALIVE {
        config.keepalives_idle(SILENCE / 2).keepalives_interval(SILENCE / 6).keepalives_retries(3);
    }
    Ok(config)
}

/// What [`StoreError::Unavailable`] says where running the transaction again may help.
const CONFLICT: &str = "transactions were in each other's way";

fn is_conflict(error: &tokio_postgres::Error) -> bool {
    let code = error.code();
    code == Some(&SqlState::T_R_SERIALIZATION_FAILURE)
        || code == Some(&SqlState::T_R_DEADLOCK_DETECTED)
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        if is_conflict(&error) {
            tracing::warn!(%error, "transactions were in each other's way");
            return Self::Unavailable(CONFLICT.into());
        }
        let Some(database) = error.as_db_error() else {
            let cause = std::error::Error::source(&error);
            return Self::Unavailable(match cause {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            });
        };
        let text = format!("{} ({})", database.message(), database.code().code());
        let transient = [
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::QUERY_CANCELED,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ];
        // Connections, resources, the operator's intervention, the system.
        let classes = ["08", "53", "57", "58"];
        let code = database.code();
        if *code == SqlState::DISK_FULL {
            return Self::Full(text);
        }
        if transient.contains(code)
            || code.code().get(..2).is_some_and(|class| classes.contains(&class))
        {
            Self::Unavailable(text)
        } else {
            Self::Failed(text)
        }
    }
}

#[async_trait]
impl MetadataStore for PostgresStore {
    async fn push(&self, batch: PushBatch, now: Timestamp) -> Result<PushResponse, StoreError> {
        let answer = transact!(self, |tx| flow::push(&mut tx, &batch, now));
        self.unless_it_went_back(answer).await
    }

    async fn pull(&self, user: &UserId, request: &PullRequest) -> Result<PullAnswer, StoreError> {
        let answer: Result<PullAnswer, StoreError> =
            async { snapshot!(self, |tx| feed::pull(&mut tx, user, request)) }.await;
        self.unless_it_went_back(answer).await
    }

    async fn reconcile(
        &self,
        user: &UserId,
        request: &ReconcileRequest,
        now: Timestamp,
    ) -> Result<ReconcileAnswer, StoreError> {
        transact!(self, |tx| flow::reconcile(&mut tx, user, request, now))
    }

    async fn state(&self, user: &UserId, client: &ReplicaId) -> Result<StateResponse, StoreError> {
        snapshot!(self, |tx| async {
            tx.only_reads = true;
            flow::state(&mut tx, user, client).await
        })
    }

    async fn open_stage(
        &self,
        user: &UserId,
        stage: &NewStage,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<StageAnswer, StoreError> {
        transact!(self, |tx| flow::open_stage(&mut tx, user, stage, quota, now))
    }

    async fn stage(
        &self,
        user: &UserId,
        staging_id: &StagingId,
    ) -> Result<Option<StageRow>, StoreError> {
        snapshot!(self, |tx| async {
            tx.only_reads = true;
            flow::stage(&mut tx, user, staging_id).await
        })
    }

    async fn reserve_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        size: u64,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError> {
        transact!(self, |tx| uploading::reserve_upload(&mut tx, user, staging_id, size, quota, now))
    }

    async fn record_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        upload: &NewUpload,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAnswer, StoreError> {
        transact!(self, |tx| flow::record_upload(&mut tx, user, staging_id, upload, quota, now))
    }

    async fn upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError> {
        snapshot!(self, |tx| async {
            tx.only_reads = true;
            uploading::upload(&mut tx, user, staging_id, now).await
        })
    }

    async fn open_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        length: Option<u64>,
        metadata: Option<&str>,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError> {
        transact!(self, |tx| uploading::open_upload(
            &mut tx, user, staging_id, length, metadata, quota, now
        ))
    }

    async fn claim_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        lease: &str,
        anew: Option<&Anew>,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError> {
        transact!(self, |tx| uploading::claim_upload(&mut tx, user, staging_id, lease, anew, now))
    }

    async fn advance_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        lease: &str,
        advance: &Advance,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<UploadAccess, StoreError> {
        transact!(self, |tx| uploading::advance_upload(
            &mut tx, user, staging_id, lease, advance, quota, now
        ))
    }

    async fn holds_upload(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        lease: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        snapshot!(self, |tx| async {
            tx.only_reads = true;
            uploading::holds_upload(&mut tx, user, staging_id, lease, now).await
        })
    }

    async fn upload_parts(&self, staging_id: &StagingId) -> Result<Vec<String>, StoreError> {
        snapshot!(self, |tx| uploads::parts(&mut tx, staging_id))
    }

    async fn attach(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        request: &AttachRequest,
        ref_id: RefId,
        quota: &Quota,
        now: Timestamp,
    ) -> Result<Result<AttachResponse, AttachRefusal>, StoreError> {
        let answer = transact!(self, |tx| flow::attach(
            &mut tx,
            user,
            staging_id,
            request,
            ref_id.clone(),
            quota,
            now
        ));
        self.unless_it_went_back(answer).await
    }

    async fn abandon(
        &self,
        user: &UserId,
        staging_id: &StagingId,
        now: Timestamp,
    ) -> Result<AbandonAnswer, StoreError> {
        transact!(self, |tx| flow::abandon(&mut tx, user, staging_id, now))
    }

    async fn expired_stages(
        &self,
        now: Timestamp,
        at_most: u32,
    ) -> Result<Vec<(UserId, StagingId)>, StoreError> {
        snapshot!(self, |tx| blobs::expired(&mut tx, now, at_most))
    }

    async fn delete_blob(
        &self,
        user: &UserId,
        blob_id: &BlobId,
        now: Timestamp,
    ) -> Result<DeleteAnswer, StoreError> {
        transact!(self, |tx| reclaim::delete_blob(&mut tx, user, blob_id, now))
    }

    async fn to_reclaim(&self, now: Timestamp, at_most: u32) -> Result<Vec<Reclaim>, StoreError> {
        snapshot!(self, |tx| blobs::to_reclaim(&mut tx, now, at_most))
    }

    async fn any_stage(&self, staging_id: &StagingId) -> Result<Option<StageRecord>, StoreError> {
        snapshot!(self, |tx| async {
            tx.only_reads = true;
            reclaim::any_stage(&mut tx, staging_id).await
        })
    }

    async fn any_blob(&self, blob_id: &BlobId) -> Result<Option<BlobRecord>, StoreError> {
        snapshot!(self, |tx| async {
            tx.only_reads = true;
            reclaim::any_blob(&mut tx, blob_id).await
        })
    }

    async fn blobs_after(
        &self,
        after: Option<&BlobId>,
        at_most: u32,
    ) -> Result<Vec<BlobSummary>, StoreError> {
        snapshot!(self, |tx| blobs::after(&mut tx, after, at_most))
    }

    async fn upload_handles(&self) -> Result<Vec<String>, StoreError> {
        snapshot!(self, |tx| uploads::handles(&mut tx))
    }

    async fn blob_usage(&self, user: &UserId) -> Result<Usage, StoreError> {
        snapshot!(self, |tx| async {
            tx.only_reads = true;
            uploads::usage(&tx, user).await
        })
    }

    async fn reclaim_of(&self, blob_id: &BlobId) -> Result<Option<Reclaim>, StoreError> {
        snapshot!(self, |tx| blobs::reclaim_of(&mut tx, blob_id))
    }

    async fn reclaimed(
        &self,
        done: &Reclaim,
        now: Timestamp,
        again: Timestamp,
    ) -> Result<(), StoreError> {
        transact!(self, |tx| reclaim::reclaimed(&mut tx, done, now, again))
    }

    async fn versions(
        &self,
        user: &UserId,
        item_id: &ItemId,
        limit: u32,
    ) -> Result<Option<Vec<Attachment>>, StoreError> {
        snapshot!(self, |tx| versions::of(&mut tx, user, item_id, limit))
    }

    async fn surplus_versions(
        &self,
        before: Timestamp,
        at_most: u32,
    ) -> Result<Vec<(RefId, BlobId)>, StoreError> {
        snapshot!(self, |tx| versions::surplus(&mut tx, before, at_most))
    }

    async fn remove_version(
        &self,
        ref_id: &RefId,
        blob_id: &BlobId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        transact!(self, |tx| reclaim::remove_version(&mut tx, ref_id, blob_id, now))
    }

    async fn trash(
        &self,
        user: &UserId,
        after: Option<&TrashCursor>,
        limit: u32,
        keep_millis: i64,
    ) -> Result<TrashListing, StoreError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        snapshot!(self, |tx| trashing::list(&mut tx, user, after, limit, keep_millis))
    }

    async fn restore(
        &self,
        user: &UserId,
        item_id: &ItemId,
        recursive: bool,
        now: Timestamp,
    ) -> Result<RestoreAnswer, StoreError> {
        transact!(self, |tx| trashing::restore(&mut tx, user, item_id, recursive, now))
    }

    async fn purge(
        &self,
        user: &UserId,
        item_id: &ItemId,
        recursive: bool,
        now: Timestamp,
    ) -> Result<PurgeAnswer, StoreError> {
        transact!(self, |tx| trashing::purge(&mut tx, user, item_id, recursive, now))
    }

    async fn purge_step(
        &self,
        before: Timestamp,
        forget: Timestamp,
        now: Timestamp,
        at_most: u32,
    ) -> Result<u64, StoreError> {
        transact!(self, |tx| trashing::step(&mut tx, before, forget, now, at_most))
    }

    async fn trashed_bytes(&self, user: &UserId) -> Result<u64, StoreError> {
        snapshot!(self, |tx| trash::bytes(&tx, user, MAX_TRASH_ITEMS as u32))
    }

    async fn readable_blob(
        &self,
        user: &UserId,
        blob_id: &BlobId,
    ) -> Result<Option<BlobRow>, StoreError> {
        snapshot!(self, |tx| blobs::readable(&tx, user, blob_id))
    }

    async fn readable_blobs(
        &self,
        user: &UserId,
        blob_ids: &[BlobId],
    ) -> Result<Vec<Option<BlobRow>>, StoreError> {
        snapshot!(self, |tx| blobs::all_readable(&tx, user, blob_ids))
    }

    async fn set_member(
        &self,
        group: &Principal,
        member: &UserId,
        present: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let answer = transact!(self, |tx| flow::set_member(&mut tx, group, member, present, now));
        self.unless_it_went_back(answer).await
    }

    async fn members(
        &self,
        group: &Principal,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<UserId>, StoreError> {
        snapshot!(self, |tx| members::members(&mut tx, group, after, limit))
    }

    async fn groups_of(&self, user: &UserId) -> Result<Vec<Principal>, StoreError> {
        snapshot!(self, |tx| async {
            tx.only_reads = true;
            members::groups_of(&tx, user).await
        })
    }

    async fn set_block(
        &self,
        user: &UserId,
        owner: &UserId,
        blocked: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        transact!(self, |tx| flow::set_block(&mut tx, user, owner, blocked, now))
    }

    async fn blocked_by(&self, user: &UserId) -> Result<Vec<UserId>, StoreError> {
        snapshot!(self, |tx| members::blocked_by(&tx, user))
    }

    async fn knows(&self, principal: &Principal) -> Result<bool, StoreError> {
        snapshot!(self, |tx| members::knows(&mut tx, principal))
    }

    async fn prune(&self, retention: Retention) -> Result<Pruned, StoreError> {
        let removals: Result<u64, StoreError> =
            transact!(self, |tx| retention::prune_removals(&mut tx, retention));
        let accepted: Result<u64, StoreError> =
            transact!(self, |tx| retention::prune_accepted(&mut tx, retention));
        Ok(Pruned { removals: removals?, accepted: accepted? })
    }

    async fn repair_reconcile_states(
        &self,
        user: Option<&UserId>,
        dry_run: bool,
    ) -> Result<Vec<MalformedState>, StoreError> {
        transact!(self, |tx| repair::reconcile_states(&mut tx, user, dry_run))
    }

    async fn new_epoch(&self, now: Timestamp, chance: u16) -> Result<Epoch, StoreError> {
        let begun: Result<Epoch, StoreError> =
            async { transact!(self, |tx| feed::new_epoch(&mut tx, now, chance)) }.await;
        let begun = begun?;
        self.served.begin(begun);
        Ok(begun)
    }

    async fn identity(&self) -> Result<Identity, StoreError> {
        let row = self
            .client()
            .await?
            .query_one(
                "SELECT value, EXISTS (SELECT 1 FROM realms) OR EXISTS (SELECT 1 FROM blobs) \
                 FROM identity WHERE name = 'id'",
                &[],
            )
            .await?;
        Ok(Identity { id: row.try_get(0)?, is_empty: !row.try_get::<_, bool>(1)? })
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.client().await?.simple_query("SELECT 1").await?;
        Ok(())
    }

    async fn counts(&self) -> Result<Vec<(&'static str, u64)>, StoreError> {
        snapshot!(self, |tx| retention::counts(&mut tx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_is_silent_is_given_up_after_as_long_as_the_url_says_or_half_a_minute() {
        let silence = |url: &str| {
            let config = parse(url).unwrap();
            (config.get_tcp_user_timeout().copied().unwrap(), config.get_keepalives_idle())
        };
        let seconds = Duration::from_secs;
        assert_eq!(silence("postgres://u@h/d"), (seconds(30), seconds(15)));
        let url = "postgres://u@h/d?tcp_user_timeout=7&keepalives_idle=3";
        assert_eq!(silence(url), (seconds(7), seconds(3)));
    }
}
