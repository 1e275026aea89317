//! The push, and the propagation of changes to the feeds of all users who see them.

use std::collections::BTreeMap;

use vfs_sync_core::id::{UserId, WriteId};
use vfs_sync_core::server::push::{
    Addition, Decided, FeedPropagation, Head, Needs, PushBatch, Rows, Step, decide,
};
use vfs_sync_core::server::stage::OverQuota;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::PushStatus;

use super::{Decides, Push};
use crate::error::{Result, StoreError};
use crate::topics::{Decision, FeedWrite, PushWrite, Topics};
use crate::values::PushAnswer;

impl Decides for Push {
    async fn decide<T: Topics>(&self, tx: &mut T) -> Result<(Self::Answer, Option<Decision>)> {
        let mut count = self.batch.to_try();
        loop {
            let first;
            let part = if count == self.batch.len() {
                &self.batch
            } else {
                first = self.batch.first(count);
                &first
            };
            let (decided, last_write_id) = self.decide_part(tx, part).await?;
            let Decided { mut response, propagation, mut carried, over } = decided;
            if let (Some((whose, over)), true) = (over, response.results.is_empty()) {
                let own = whose == self.batch.user;
                return Err(StoreError::OverQuota { own, over });
            }
            let propagation = propagation.within(self.batch.bound(count));
            let propagation = propagation.in_chunks_of(tx.plan_memory().chunk);
            let decision = match propagate_within(tx, propagation, self.now).await {
                // Those before the one that takes it go on.
                Err(StoreError::NoMemory) if count > 1 => None,
                decision => decision?,
            };
            if decision.is_none() && count > 1 {
                count = count.div_ceil(2);
                continue;
            }
            if decision.is_none() {
                (response, carried) = part.refuse_consequences();
            }
            response.epoch = Some(tx.epoch().await?);
            let mut rest = None;
            let count = response.results.len();
            if count < self.batch.len() {
                let is_stale = response
                    .results
                    .last()
                    .filter(|result| result.status == PushStatus::StaleWriteId);
                let last = is_stale.map(|stale| stale.last_write_id.or(last_write_id));
                rest = self.batch.after(count, carried);
                if let (Some(last), Some(stale)) = (last, &rest) {
                    response.results.extend(stale.all_stale(last));
                    rest = None;
                }
            }
            let rest = rest.map(Box::new);
            return Ok((PushAnswer { response, rest }, decision));
        }
    }

    fn is_known_large(&self) -> bool {
        self.batch.is_rest()
    }

    async fn write<T: Topics>(&self, tx: &mut T, decision: &Decision) -> Result<()> {
        let PushBatch { user, replica, .. } = &self.batch;
        let Decision { changes, feeds } = decision;
        let keeps = self.batch.quota.results;
        tx.write_push(&PushWrite { user, replica, changes, feeds, now: self.now, keeps }).await
    }
}

impl Push {
    /// Decides the operations of `batch`; returns the replica's last write id before them as well.
    async fn decide_part<T: Topics>(
        &self,
        tx: &mut T,
        batch: &PushBatch,
    ) -> Result<(Decided, Option<WriteId>)> {
        let now = &self.now;
        let last_write_id = tx.lock_replica(&batch.user, &batch.replica, *now).await?;
        if last_write_id.is_none() {
            let max = tx.limits_of(&batch.user).await?.metadata(&batch.quota).replicas;
            if max < u64::MAX && tx.other_replicas(&batch.user, &batch.replica, max).await? >= max {
                let over = OverQuota { limit: "maxReplicas", max, wanted: max + 1 };
                return Err(StoreError::OverQuota { own: true, over });
            }
        }
        let mut rows = Rows::default();
        rows.last_write_id = last_write_id;
        let replayed = batch.replayed(last_write_id);
        if !replayed.is_empty() {
            rows.accepted = tx.accepted(&batch.user, &batch.replica, &replayed).await?;
        }
        tx.share_groups(&batch.named_groups()).await?;
        tx.lock_realms(Some(&batch.user), &batch.named_items(), &mut rows).await?;
        if rows.leaving.contains(&batch.user) {
            return Err(StoreError::UserDeleted);
        }
        if let Some(tail) = &mut rows.tail
            && batch
                .operations()
                .any(|op| op.basis.as_ref().is_some_and(|basis| !tail.knows(basis)))
        {
            let starts = tx.epoch_starts(&batch.user).await?;
            tail.take_history(starts);
        }
        while let Some(needs) = batch.needs(&rows) {
            let mut found = loaded(tx, &needs).await?;
            if !needs.marks.is_empty() {
                found.marks = tx.marks(&batch.user, &needs.marks).await?;
            }
            rows.absorb(needs, found);
        }
        Ok((decide(batch, rows, *now), last_write_id))
    }
}

/// Loads the existing rows of `needs`.
pub(super) async fn loaded<T: Topics>(tx: &mut T, needs: &Needs) -> Result<Rows> {
    let mut found = Rows::default();
    tx.load(needs, &mut found).await?;
    Ok(found)
}

/// Propagates changes to everybody who sees them, under the locks of their feeds.
///
/// # Errors
/// [`StoreError::TooManyConsequences`] beyond the bound of the propagation.
pub(crate) async fn propagate<T: Topics>(
    tx: &mut T,
    propagation: FeedPropagation,
    now: Timestamp,
) -> Result<Decision> {
    let decision = propagate_within(tx, propagation, now).await?;
    decision.ok_or(StoreError::TooManyConsequences)
}

/// Propagates as [`propagate`] does; returns `None` beyond the bound, with its locks still held.
///
/// # Errors
/// [`StoreError::NoMemory`] if planning it takes more memory than there is.
pub(crate) async fn propagate_within<T: Topics>(
    tx: &mut T,
    propagation: FeedPropagation,
    now: Timestamp,
) -> Result<Option<Decision>> {
    let mut heads = BTreeMap::new();
    let propagation = propagation.within_memory(tx.plan_memory().most);
    let mut step = tx.run_blocking(propagation.size(), || propagation.step());
    let mut changes = loop {
        let size = step.size();
        step = match step {
            Step::Load(load) => {
                let found = loaded(tx, load.needs()).await?;
                tx.run_blocking(size, || load.resume(found))
            }
            Step::LockHeads(lock) => {
                heads = tx.lock_heads(lock.readers(), now).await?;
                check_served(tx, &heads).await?;
                tx.run_blocking(size, || lock.resume())
            }
            Step::LookUp(look_up) => {
                let present = tx.present_in_feed(look_up.keys()).await?;
                tx.run_blocking(size, || look_up.resume(&present))
            }
            Step::Write(changes) => break *changes,
            Step::TooMuch => return Ok(None),
            Step::NoMemory => return Err(StoreError::NoMemory),
        };
    };
    let feeds = place_all(tx, heads, std::mem::take(&mut changes.feed), now).await?;
    Ok(Some(Decision { changes, feeds }))
}

/// Fails if one of the locked heads showed a later state before.
pub(super) async fn check_served<T: Topics>(
    tx: &mut T,
    heads: &BTreeMap<UserId, Head>,
) -> Result<()> {
    if tx.served().is_none() {
        return Ok(());
    }
    let present = tx.epoch().await?;
    if let Some((served, since)) = tx.served() {
        for (user, head) in heads {
            served.check(user, Some(head), present, since)?;
        }
    }
    Ok(())
}

/// Assigns each entry its place in its feed.
pub(super) async fn place_all<T: Topics>(
    tx: &mut T,
    mut heads: BTreeMap<UserId, Head>,
    feed: BTreeMap<UserId, Vec<Addition>>,
    now: Timestamp,
) -> Result<Vec<FeedWrite>> {
    if feed.is_empty() {
        return Ok(Vec::new());
    }
    let present = tx.epoch().await?;
    let write = |(user, bodies): (UserId, Vec<Addition>)| {
        let mut head = heads.remove(&user)?;
        let places = head.advance(bodies.len(), now, present);
        Some(FeedWrite { user, head, places, bodies })
    };
    Ok(feed.into_iter().filter_map(write).collect())
}
