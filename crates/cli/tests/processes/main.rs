//! Several server processes on one PostgreSQL: users who share with one another work at random
//! through any of them, one of which is killed now and then, and every device ends with what the
//! grants say.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod cluster;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cluster::{Cluster, Line};
use tokio::sync::watch;
use vfs_sync_client::core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_client::core::id::{ItemId, PrincipalId, UserId};
use vfs_sync_client::core::item::{Name, ObjectType};
use vfs_sync_client::core::wire::PushReason;
use vfs_sync_client::{ClientConfig, ClientError, Delete, Node, SyncClient, TransportError};
use vfs_sync_store::testing::new_postgres_database;
use vfs_sync_testkit::{Random, ViolationCollector};
use view::{Truth, View};

const SERVERS: usize = 3;
const USERS: [&str; 3] = ["alice", "bob", "carol"];
const GROUPS: [&str; 2] = ["eng", "ops"];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

struct Device {
    user: &'static str,
    client: SyncClient,
    violations: Arc<ViolationCollector>,
    _dir: tempfile::TempDir,
}

impl Device {
    fn new(cluster: &Arc<Cluster>, user: &'static str, random: &mut Random) -> Self {
        let line = Arc::new(Line::new(cluster, user, random.fork()));
        let page_limit = *random.one(&[500, 7, 50]);
        let config = ClientConfig { page_limit, ..ClientConfig::default() };
        let (id, dir) = (UserId::new(user).unwrap(), tempfile::tempdir().unwrap());
        let client = if random.below(2) == 0 {
            SyncClient::create_replica(dir.path(), id, "any", line, config).unwrap()
        } else {
            SyncClient::in_memory(id, line, config).unwrap()
        };
        let violations = Arc::new(ViolationCollector::default());
        client.observe(violations.clone());
        Self { user, client, violations, _dir: dir }
    }

    /// Edits, syncs and lags, telling of each step.
    async fn work(&self, mut random: Random, steps: u64, progress: &watch::Sender<u64>) {
        for _ in 0..steps {
            match random.below(16) {
                0..=10 => self.edit(&mut random),
                11..=13 => tolerate(self.client.sync().await),
                14 => tolerate(self.client.flush().await),
                _ => tolerate(self.client.pull().await),
            }
            progress.send_modify(|done| *done += 1);
        }
    }

    fn edit(&self, random: &mut Random) {
        let client = &self.client;
        let nodes: Vec<Node> =
            client.snapshot(None).unwrap().map(|entry| entry.unwrap().node).collect();
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
            11..=14 => client.share(one, principal, level),
            15 | 16 => client.unshare(one, principal).map(drop),
            _ => {
                let text = format!("content {}", random.below(1_000));
                client.put_content(one, text.as_bytes()).map(drop)
            }
        });
    }

    /// All that was refused was refused for a reason that a race explains, and is dropped.
    fn drop_what_was_refused(&self) {
        for rejected in self.client.rejected(usize::MAX).unwrap() {
            let reason = rejected.reason;
            let raced = matches!(reason, Some(PushReason::NotPermitted | PushReason::UnknownItem));
            assert!(raced, "{}: {rejected:?}", self.user);
            self.client.discard_rejected(&rejected.operation.op_id).unwrap();
        }
        for rejected in self.client.rejected_uploads().unwrap() {
            self.client.discard_upload(&rejected.blob_id).unwrap();
        }
    }
}

fn of(kind: PrincipalType, id: &str) -> Principal {
    Principal { kind, id: PrincipalId::new(id).unwrap() }
}

/// Not every edit that comes to mind is possible.
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
fn tolerate<T>(outcome: Result<T, ClientError>) {
    match outcome {
        Ok(_) | Err(ClientError::Transport(TransportError::Network { .. })) => {}
        Err(error) => panic!("{error}"),
    }
}

async fn reached(progress: &mut watch::Receiver<u64>, steps: u64) {
    progress.wait_for(|done| *done >= steps).await.unwrap();
}

/// Kills one server after the other, each after a third of the steps, for a sixth of them.
async fn kill_and_restart(
    cluster: Arc<Cluster>,
    mut random: Random,
    steps: u64,
    mut progress: watch::Receiver<u64>,
) {
    for at in 1..=2 {
        let server = random.below(SERVERS);
        reached(&mut progress, at * steps / 3).await;
        let killed = Arc::clone(&cluster);
        tokio::task::spawn_blocking(move || killed.kill(server)).await.unwrap();
        reached(&mut progress, at * steps / 3 + steps / 6).await;
        let killed = Arc::clone(&cluster);
        tokio::task::spawn_blocking(move || killed.start_again(server)).await.unwrap();
    }
}

/// Lets users join and leave groups, through any server that answers; gives who is in which.
async fn keep_groups(
    cluster: Arc<Cluster>,
    mut random: Random,
    steps: u64,
    mut progress: watch::Receiver<u64>,
) -> BTreeSet<(PrincipalId, String)> {
    let token = cluster.token("root", Some("vfs:admin"));
    let http = reqwest::Client::new();
    let mut members = BTreeSet::new();
    for at in 0..20 {
        reached(&mut progress, at * steps / 20).await;
        let (group, user) = (*random.one(&GROUPS), *random.one(&USERS));
        let member = (PrincipalId::new(group).unwrap(), user.to_owned());
        let joins = !members.remove(&member);
        loop {
            let server = cluster.url(random.below(SERVERS));
            let url = format!("{server}/v1/vfs/admin/groups/{group}/members/{user}");
            let call = if joins { http.put(url) } else { http.delete(url) };
            // One that is down gives no answer; any answer must be this.
            let Ok(answer) = call.bearer_auth(&token).send().await else { continue };
            assert_eq!(answer.status(), 204);
            break;
        }
        if joins {
            members.insert(member);
        }
    }
    members
}

/// Deadlocks that PostgreSQL broke, and the links that are there.
async fn look_into(database: &str) -> (i64, BTreeSet<(ItemId, ItemId)>) {
    let (client, connection) =
        tokio_postgres::connect(database, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    // A back end reports what it counted when it ends, at the latest.
    loop {
        let others = "SELECT count(*) FROM pg_stat_activity \
                      WHERE datname = current_database() AND pid <> pg_backend_pid()";
        if client.query_one(others, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            break;
        }
    }
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let deadlocks = client.query_one(deadlocks, &[]).await.unwrap().get(0);
    let links = client.query("SELECT parent, child FROM links WHERE present", &[]).await.unwrap();
    let id = |text: &str| ItemId::new(text).unwrap();
    (deadlocks, links.iter().map(|row| (id(row.get(0)), id(row.get(1)))).collect())
}

async fn settle(devices: &[Device]) {
    for _ in 0..3 {
        for device in devices {
            device.client.sync().await.unwrap();
            device.drop_what_was_refused();
        }
    }
    for device in devices {
        let status = device.client.status().unwrap();
        let waiting = (status.pending, status.acknowledged, status.rejected, status.uploads);
        assert_eq!(waiting, (0, 0, 0, 0), "{}", device.user);
        assert_eq!(device.violations.violations(), [], "{}", device.user);
    }
}

/// `VFS_SYNC_TEST_SEED` repeats the choices, though not the timing; `VFS_SYNC_TEST_STEPS` is what
/// each device does, 150 unless set.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn users_who_share_through_several_servers_converge_on_what_the_grants_say() {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros();
    let seed = number("VFS_SYNC_TEST_SEED").unwrap_or_else(|| u64::try_from(now).unwrap());
    println!("VFS_SYNC_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let database = new_postgres_database().await.unwrap();
    let cluster = Arc::new(Cluster::start(database.clone(), SERVERS));
    let devices: Arc<Vec<Device>> =
        Arc::new((0..6).map(|at| Device::new(&cluster, USERS[at / 2], &mut random)).collect());

    let each = number("VFS_SYNC_TEST_STEPS").unwrap_or(150);
    let steps = each * devices.len() as u64;
    let progress = watch::Sender::new(0);
    let mut at_work = tokio::task::JoinSet::new();
    at_work.spawn(kill_and_restart(
        Arc::clone(&cluster),
        random.fork(),
        steps,
        progress.subscribe(),
    ));
    let groups =
        tokio::spawn(keep_groups(Arc::clone(&cluster), random.fork(), steps, progress.subscribe()));
    for at in 0..devices.len() {
        let (devices, random, progress) = (Arc::clone(&devices), random.fork(), progress.clone());
        at_work.spawn(async move { devices[at].work(random, each, &progress).await });
    }
    while let Some(done) = at_work.join_next().await {
        done.unwrap();
    }
    let members = groups.await.unwrap();

    settle(&devices).await;
    let mut fresh = BTreeMap::new();
    for user in USERS {
        let device = Device::new(&cluster, user, &mut random);
        device.client.sync().await.unwrap();
        let view = View::of(&device.client);
        for lagging in devices.iter().filter(|device| device.user == user) {
            assert_eq!(View::of(&lagging.client), view, "{user}");
        }
        let items: Vec<ItemId> = view.items.keys().cloned().collect();
        let with_content = view.items.values().filter(|node| node.content.is_some()).count();
        let fetched = device.client.fetch_contents(&items).await.unwrap();
        assert_eq!(fetched.count(), with_content, "{user}");
        fresh.insert(user, view);
    }
    cluster.terminate();
    let (deadlocks, links) = look_into(&database).await;
    assert_eq!(deadlocks, 0);
    let truth = Truth::new(&fresh, links, members);
    for (user, view) in &fresh {
        let foreign = view.items.values().filter(|node| node.owner.as_str() != *user).count();
        println!("{user}: {} items, {foreign} of others", view.items.len());
        truth.check(user, view);
    }
}
