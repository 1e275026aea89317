//! The push, and the propagation of changes to the feeds of all users who see them.

use std::collections::BTreeMap;

use vfs_sync_core::id::UserId;
use vfs_sync_core::server::push::{
    Addition, FeedPropagation, Head, Needs, PushBatch, Rows, Step, decide,
};
use vfs_sync_core::time::Timestamp;

use super::{Decides, Push};
use crate::error::Result;
use crate::topics::{Decision, FeedWrite, PushWrite, Topics};

impl Decides for Push {
    async fn decide<T: Topics>(&self, tx: &mut T) -> Result<(Self::Answer, Option<Decision>)> {
        let Self { batch, now } = self;
        let last_write_id = tx.lock_replica(&batch.user, &batch.replica, *now).await?;
        let mut rows = Rows::default();
        rows.last_write_id = last_write_id;
        let replayed = batch.replayed(last_write_id);
        if !replayed.is_empty() {
            rows.accepted = tx.accepted(&batch.user, &batch.replica, &replayed).await?;
        }
        tx.share_groups(&batch.named_groups()).await?;
        tx.lock_realms(Some(&batch.user), &batch.named_items(), &mut rows).await?;
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
        let decided = decide(batch, rows, *now);
        let decision = propagate(tx, decided.propagation, *now).await?;
        let mut response = decided.response;
        response.epoch = Some(tx.epoch().await?);
        Ok((response, Some(decision)))
    }

    async fn write<T: Topics>(&self, tx: &mut T, decision: &Decision) -> Result<()> {
        let PushBatch { user, replica, .. } = &self.batch;
        let Decision { changes, feeds } = decision;
        tx.write_push(&PushWrite { user, replica, changes, feeds, now: self.now }).await
    }
}

/// Loads the existing rows of `needs`.
pub(super) async fn loaded<T: Topics>(tx: &mut T, needs: &Needs) -> Result<Rows> {
    let mut found = Rows::default();
    tx.load(needs, &mut found).await?;
    Ok(found)
}

/// Propagates changes to all users who see them, under the locks of their feeds.
pub(crate) async fn propagate<T: Topics>(
    tx: &mut T,
    propagation: FeedPropagation,
    now: Timestamp,
) -> Result<Decision> {
    let mut heads = BTreeMap::new();
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
        };
    };
    let feeds = place_all(tx, heads, std::mem::take(&mut changes.feed), now).await?;
    Ok(Decision { changes, feeds })
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
