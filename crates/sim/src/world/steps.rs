//! The steps of a plan that need more than a line.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use vfs_sync_client::core::access::PrincipalType;
use vfs_sync_client::{ClientError, SyncClient, TransportError};
use vfs_sync_core::id::{ItemId, OpId, ReplicaId};
use vfs_sync_store::MetadataStore;
use vfs_sync_testkit::Random;

use super::World;
use crate::actor::device::{Device, Talk, is_refused_for_its_token, user};
use crate::actor::edit::{group, visible};
use crate::infra::environment::time_of_world;
use crate::oracle::coverage::Kind;
use crate::oracle::failure::FailureKind;
use crate::oracle::held::Held;
use crate::oracle::ledger::Ledger;
use crate::oracle::{settled, times};

/// The number of items whose names are read in one look.
const LOOK: usize = 12;
/// The greatest number of items that are opened together.
const TOGETHER: usize = 8;

impl World {
    /// Reads the tree that a device shows, and opens an item.
    pub(super) fn read(&mut self, device: usize, random: &mut Random) {
        let device = &mut self.devices[device];
        device.take_over(None);
        let items: Vec<ItemId> = {
            let items = &self.ledger.book().items;
            let from = random.below(items.len().max(1));
            items.iter().cycle().skip(from).take(items.len().min(LOOK)).cloned().collect()
        };
        for item in items {
            let Some(node) = device.client.node(&item).expect("memory is read") else { continue };
            let mut book = self.ledger.book();
            times::shown(&mut book, device.index, &node);
            if let Some(name) = node.name {
                device.session.shows(&mut book, device.index, &item, &name);
            }
        }
        device.reading.retain(|task| !task.is_finished());
        if let Some(item) = visible(device, &self.ledger, random) {
            let opening = open(self.ledger.clone(), device.index, device.client.clone(), item);
            device.reading.push(tokio::spawn(opening));
        }
        if self.plan.setup.reads_many {
            let items = (0..TOGETHER).filter_map(|_| visible(device, &self.ledger, random));
            let items: BTreeSet<ItemId> = items.collect();
            let (ledger, client) = (self.ledger.clone(), device.client.clone());
            let opening = open_together(ledger, device.index, client, items);
            device.reading.push(tokio::spawn(opening));
        }
    }

    /// Waits until a device has finished, and compares it with its feed.
    pub(super) async fn settle(&mut self, index: usize) {
        let device = &mut self.devices[index];
        if device.setup.background {
            return;
        }
        device.wait().await;
        self.ledger.book().watched = Some((device.client.client_id(), Vec::new()));
        device.talk(Talk::Sync);
        device.wait().await;
        device.take_over(None);
        let settled = device.client.status().is_ok_and(|status| status.stopped.is_none());
        let settled = settled && !device.is_dark();
        if settled && !self.ledger.has_failed() && device.was_well() {
            settled::as_told(&self.ledger, device);
        }
        self.ledger.book().watched = None;
    }

    pub(super) async fn set_member(&mut self, random: &mut Random) {
        let group = group(random);
        let kind = match group.kind {
            PrincipalType::Organization => "organizations",
            _ => "groups",
        };
        let member = user(random.below(self.plan.setup.users));
        let method = if random.below(3) == 0 { Method::DELETE } else { Method::PUT };
        let token = self.cluster.token(&user(3), Some("vfs:admin"));
        let path = format!("admin/{kind}/{}/members/{member}", group.id);
        self.ask(method, &path, &token, "setMember").await;
    }

    pub(super) async fn set_block(&mut self, random: &mut Random) {
        let users = self.plan.setup.users;
        let (blocker, owner) = (user(random.below(users)), user(random.below(users)));
        let method = if random.below(3) == 0 { Method::PUT } else { Method::DELETE };
        if blocker == owner {
            return;
        }
        let token = self.cluster.token(&blocker, None);
        self.ask(method, &format!("blocks/{owner}"), &token, "setBlock").await;
    }

    /// Sends a request without a body to any server, and counts it as `call` if it succeeded.
    async fn ask(&self, method: Method, path: &str, token: &str, call: &'static str) {
        let request = Request::builder()
            .method(method)
            .uri(format!("/v1/vfs/{path}"))
            .header("authorization", format!("Bearer {token}"))
            .body(Bytes::new())
            .expect("a request of ours is one");
        let called = self.cluster.any().and_then(|host| self.cluster.call(host, request));
        if let Some(task) = called
            && let Ok(Some(answer)) = task.await
            && answer.status == 204
        {
            self.ledger.count(Kind::Call, call);
        }
    }

    /// Makes a backup of everything that the servers store.
    pub(super) fn back_up(&mut self) {
        let model = self.ledger.book().model.clone();
        self.backup = Some(self.database.back_up(model, &self.objects));
    }

    /// Restores a backup: with a new epoch by an operator, as it should be done, or without one.
    pub(super) async fn restore(&mut self) {
        let Some(backup) = self.backup.take() else { return };
        self.restored += 1;
        let with_an_epoch = self.ledger.elapsed().as_millis().is_multiple_of(4);
        self.ledger.fault("server: restored from a backup", String::new);
        for host in 0..self.cluster.hosts() {
            self.cluster.crash(host);
        }
        // Whatever was on its way has arrived or is lost.
        for device in &mut self.devices {
            device.client.stop_background().await;
            device.wait().await;
            device.take_over(None);
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        for device in &mut self.devices {
            device.revive().await;
        }
        for host in 0..self.cluster.hosts() {
            self.cluster.crash(host);
        }
        let store = self.database.restore(&backup, &self.objects);
        self.lose_positions(&*store).await;
        if with_an_epoch {
            let now = time_of_world(self.ledger.elapsed());
            store.new_epoch(now, self.restored).await.expect("the database is there");
        }
        self.cluster.replace_store(store);
        let kept_by_devices = Held::by(&self.ledger, &self.devices);
        let mut held: Vec<OpId> = Vec::new();
        for device in &mut self.devices {
            let queue = device.client.queue().operations(usize::MAX).expect("memory is read");
            held.extend(queue.into_iter().map(|queued| queued.operation.op_id));
            device.fall_behind();
        }
        {
            let mut book = self.ledger.book();
            (book.may_rematerialize, book.may_repeat) = (true, true);
            book.restored(&backup.model, kept_by_devices);
            book.forget_what_was_seen();
            let kept = book.model.clone();
            book.forget_operations_but(|op_id, _| held.contains(op_id) || kept.was_applied(op_id));
        }
        self.backup = Some(backup);
        self.cluster.start_all().await;
        self.devices.iter().for_each(Device::start_background);
    }

    /// Records which positions of the feeds a backup lacks.
    async fn lose_positions(&self, store: &dyn MetadataStore) {
        let users = self.ledger.book().positions.users();
        let nobody = ReplicaId::new("nobody").expect("an id");
        for user in users {
            let state = store.state(&user, &nobody).await.expect("the database is there");
            self.ledger.book().positions.cut(&user, state.feed_head.as_ref());
        }
    }

    /// Replaces a device by one from an old export.
    pub(super) async fn hydrate(&mut self, index: usize, random: &mut Random) {
        let device = &mut self.devices[index];
        if device.exports.is_empty() {
            return;
        }
        let exported = random.one(&device.exports).clone();
        self.ledger.fault("device: an old export took its place", || index.to_string());
        device.take_over(None);
        if let Err(error) = device.hydrate(&exported).await {
            let message = format!("device {index}: its own export is refused: {error}");
            return self.ledger.fail(FailureKind::FalseAlarm, message);
        }
        device.start_background();
    }
}

/// Reads a content and ignores the outcome.
async fn open(ledger: Ledger, index: usize, client: SyncClient, item: ItemId) {
    match client.contents().read(&item).await {
        Ok(_) => ledger.count(Kind::Call, "client: a content was read"),
        Err(error) => not_read(&ledger, index, &error),
    }
}

/// Reads several contents together and ignores the outcome.
async fn open_together(ledger: Ledger, index: usize, client: SyncClient, items: BTreeSet<ItemId>) {
    let items: Vec<ItemId> = items.into_iter().collect();
    for read in client.contents().read_many(&items).await {
        match read {
            Ok(_) => ledger.count(Kind::Call, "client: a content was read among others"),
            Err(error) => not_read(&ledger, index, &error),
        }
    }
}

/// Checks that a content which could not be read has a legitimate reason.
fn not_read(ledger: &Ledger, index: usize, error: &ClientError) {
    if is_refused_for_its_token(&mut ledger.book(), index, error) {
        return;
    }
    let fine = match error {
        ClientError::NoContent(_) | ClientError::UnknownItem(_) => true,
        ClientError::Transport(TransportError::Refused { status: 404, .. }) => true,
        ClientError::Transport(TransportError::Refused { code, .. }) => code == "blob_store_error",
        ClientError::WrongContent { .. } => {
            ledger.count(Kind::Guardrail, "client: other bytes are refused");
            ledger.book().lies_about_bytes
        }
        // Its disk is full, or without power.
        ClientError::Storage(_) => ledger.book().on_disks,
        other => other.is_transient(),
    };
    if !fine {
        ledger.fail(FailureKind::Content, format!("device {index}: {error}"));
    }
}
