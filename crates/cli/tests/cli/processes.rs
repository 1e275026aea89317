//! Several server processes on one PostgreSQL: users who share with one another work at random
//! through any of them, one of which is killed now and then, and every device ends with what the
//! grants say.

pub(crate) mod cluster;
mod database;
mod device;
mod faults;
pub(crate) mod ledger;
mod rounds;
pub(crate) mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::cluster::{Cluster, Line};
use self::device::{Device, GROUPS, USERS};
use self::view::{Truth, View};
use tokio::sync::watch;
use vfs_sync_client::core::id::{ItemId, PrincipalId};
use vfs_sync_store::testing::new_postgres_database;
use vfs_sync_testkit::{Random, number, seed};

const SERVERS: usize = 3;

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
    let token = Cluster::token("root", Some("vfs:admin"));
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

async fn settle(devices: &[Device]) {
    for _ in 0..3 {
        for device in devices {
            device.device.sync().await.unwrap();
            device.drop_what_was_refused();
        }
    }
    for device in devices {
        assert!(device.is_idle(), "{}: {:?}", device.user, device.device.status().unwrap());
    }
}

/// `VFS_SYNC_TEST_SEED` repeats the choices, though not the timing; `VFS_SYNC_TEST_STEPS` is what
/// each device does, 150 unless set.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs PostgreSQL"]
async fn users_who_share_through_several_servers_converge_on_what_the_grants_say() {
    let seed = seed();
    println!("VFS_SYNC_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let database = new_postgres_database().await.unwrap();
    let cluster = Arc::new(Cluster::start(&vec![database.clone(); SERVERS]));
    let mut device = |user| {
        let line = Line::new(&cluster, user, random.fork());
        Device::new(user, line, &mut random)
    };
    let devices: Arc<Vec<Device>> = Arc::new((0..6).map(|at| device(USERS[at / 2])).collect());

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
        let line = Line::new(&cluster, user, random.fork());
        let device = Device::new(user, line, &mut random).device;
        device.sync().await.unwrap();
        let view = View::of(&device);
        for lagging in devices.iter().filter(|device| device.user == user) {
            assert_eq!(View::of(&lagging.device), view, "{user}");
        }
        let items: Vec<ItemId> = view.items.keys().cloned().collect();
        let with_content = view.items.values().filter(|node| node.content.is_some()).count();
        let fetched = device.contents().fetch(&items).await.unwrap();
        assert_eq!(fetched.count(), with_content, "{user}");
        fresh.insert(user, view);
    }
    cluster.terminate();
    assert_eq!(database::deadlocks(&database).await, 0);
    let truth = Truth::new(&fresh, database::links(&database).await, members);
    for (user, view) in &fresh {
        let foreign = view.items.values().filter(|node| node.owner.as_str() != *user).count();
        println!("{user}: {} items, {foreign} of others", view.items.len());
        truth.check(user, view);
    }
}
