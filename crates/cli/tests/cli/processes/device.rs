//! A device of a user who shares, and what it does at random.

use std::sync::Arc;

use tokio::sync::watch;
use vfs_sync_client::core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_client::core::id::PrincipalId;
use vfs_sync_client::core::item::{Name, ObjectType};
use vfs_sync_client::core::wire::PushReason;
use vfs_sync_client::{ClientConfig, ClientError, Delete, Node, SyncClient, TransportError};
use vfs_sync_testkit::{Random, TestDevice, everything};

use super::cluster::Line;
use super::ledger::LEDGER;

pub(crate) const USERS: [&str; 3] = ["alice", "bob", "carol"];
pub(crate) const GROUPS: [&str; 2] = ["eng", "ops"];

pub(crate) struct Device {
    pub(crate) user: &'static str,
    pub(crate) device: TestDevice,
    pub(crate) durable: bool,
}

impl Device {
    /// Creates a device of any kind, with pages of any size.
    pub(crate) fn new(user: &'static str, line: Line, random: &mut Random) -> Self {
        let page_limit = *random.one(&[500, 7, 50]);
        let backoff = (std::time::Duration::from_millis(1), std::time::Duration::from_millis(20));
        let config = ClientConfig { page_limit, backoff, ..ClientConfig::default() };
        let durable = random.below(2) == 0;
        let device = TestDevice::new(durable, user, Arc::new(line), config);
        Self { user, device, durable }
    }

    /// Edits, synchronises and lags, reporting each step.
    pub(crate) async fn work(&self, mut random: Random, steps: u64, progress: &watch::Sender<u64>) {
        for _ in 0..steps {
            self.step(&mut random).await;
            progress.send_modify(|done| *done += 1);
        }
    }

    pub(crate) async fn step(&self, random: &mut Random) {
        match random.below(16) {
            0..=10 => edit(&self.device, random),
            11..=13 => tolerate(self.device.sync().await),
            14 => tolerate(self.device.flush().await),
            _ => tolerate(self.device.pull().await),
        }
    }

    /// Checks that each rejection has a reason that a race explains, and discards it.
    pub(crate) fn drop_what_was_refused(&self) {
        for rejected in self.device.queue().rejected(usize::MAX).unwrap() {
            let reason = rejected.reason;
            let raced = matches!(reason, Some(PushReason::NotPermitted | PushReason::UnknownItem));
            assert!(raced, "{}: {rejected:?}", self.user);
            self.device.queue().discard(&rejected.operation.op_id).unwrap();
        }
        for rejected in self.device.queue().rejected_uploads().unwrap() {
            self.device.queue().discard_upload(&rejected.blob_id).unwrap();
        }
    }

    /// Returns whether nothing waits and no guardrail has fired.
    pub(crate) fn is_idle(&self) -> bool {
        assert_eq!(self.device.violations().violations(), [], "{}", self.user);
        let status = self.device.status().unwrap();
        (status.pending, status.acknowledged, status.rejected, status.uploads) == (0, 0, 0, 0)
    }
}

fn edit(client: &SyncClient, random: &mut Random) {
    // A ledger is nobody's to play with, nor is what is in one: between two pages of a pull it may be
    // shown at the top.
    let entries = everything(client).unwrap().into_iter();
    let of_ledgers = [LEDGER, "entry ", "renamed "];
    let free = |path: &str| {
        let from_top = path.strip_prefix("shared:").and_then(|path| path.split_once('/'));
        let from_top = from_top.map_or(path, |(_, path)| path);
        of_ledgers.iter().all(|name| !from_top.starts_with(name))
    };
    let nodes: Vec<Node> =
        entries.filter(|entry| free(&entry.path)).map(|entry| entry.node).collect();
    let name = Name::new(format!("n{}", random.below(9))).unwrap();
    if nodes.len() < 4 || random.below(4) == 0 {
        let at_top = nodes.is_empty() || random.below(5) == 0;
        let parent = (!at_top).then(|| random.one(&nodes).id.clone());
        let kind = *random.one(&[ObjectType::Folder, ObjectType::Folder, ObjectType::File]);
        permitted(client.create(kind, parent.as_ref(), name).map(drop));
        return;
    }
    let (one, other) = (&random.one(&nodes).id, &random.one(&nodes).id);
    let principal = match random.below(5) {
        0 => of(PrincipalType::Group, random.one::<&str>(&GROUPS)),
        _ => of(PrincipalType::User, random.one::<&str>(&USERS)),
    };
    let level = *random.one(&[AccessLevel::Read, AccessLevel::Write, AccessLevel::Admin]);
    permitted(match random.below(20) {
        0 | 1 => client.rename(one, name),
        2 | 3 => client.set_metadata(one, vec![("k".into(), Some(random.below(9).into()))]),
        4..=6 => client.move_to(one, Some(other)),
        7 => client.move_to(one, None),
        8 => client.link(one, other),
        9 => client.delete(one, Delete::Item).map(drop),
        10 => client.delete(one, Delete::Recursive).map(drop),
        11..=14 => client.sharing().share(one, principal, level),
        15 | 16 => client.sharing().unshare(one, principal).map(drop),
        _ => {
            let text = format!("content {}", random.below(1_000));
            client.contents().put(one, text.as_bytes()).map(drop)
        }
    });
}

fn of(kind: PrincipalType, id: &str) -> Principal {
    Principal { kind, id: PrincipalId::new(id).unwrap() }
}

/// Accepts the errors of edits that are not always possible.
fn permitted(outcome: Result<(), ClientError>) {
    match outcome {
        Ok(())
        | Err(
            ClientError::Cycle { .. }
            | ClientError::Invalid(_)
            | ClientError::NotPermitted { .. }
            | ClientError::OtherTree { .. },
        ) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Fails only as a network may; whether it may just then, the line has looked.
pub(crate) fn tolerate<T>(outcome: Result<T, ClientError>) {
    match outcome {
        Ok(_) | Err(ClientError::Transport(TransportError::Network { .. })) => {}
        Err(error) => panic!("{error}"),
    }
}
