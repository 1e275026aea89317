//! Failover of the database with real parts: PostgreSQL under Patroni with etcd, two server
//! processes that know both hosts and one behind pgbouncer, and six devices that write all the time.

mod device;
mod patroni;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use vfs_sync_store::testing::connect;
use vfs_sync_testkit::{Random, number, seed};

use self::device::{Device, Pace, check, settle};
use self::patroni::{Fault, Patroni};
use crate::packages::has;
use crate::processes::cluster::Cluster;

/// The server processes that know both hosts; one more is behind pgbouncer.
const DIRECT: usize = 2;
const SERVERS: usize = DIRECT + 1;
/// Two devices of each.
const USERS: [&str; 3] = ["alice", "bob", "carol"];
/// The time from the promotion of the new primary within which each server process works on.
const GOES_ON_WITHIN: Duration = Duration::from_secs(10);
/// Calls that succeed before the fault, and while the standby lags.
const CALLS: u64 = 20;

/// Each fault, with and without a synchronous standby; first those that leave one primary.
const ROUNDS: [(bool, Fault); 8] = [
    (true, Fault::Killed),
    (false, Fault::Killed),
    (true, Fault::Orphaned),
    (false, Fault::Orphaned),
    (true, Fault::Frozen),
    (false, Fault::CutOff),
    (true, Fault::CutOff),
    (false, Fault::Frozen),
];

async fn epoch(patroni: &Patroni, member: usize) -> i64 {
    let client = connect(&patroni.url(member)).await.unwrap();
    let epoch = "SELECT value FROM meta WHERE name = 'epoch'";
    client.query_one(epoch, &[]).await.unwrap().get(0)
}

/// Examines everything as an operator does; nothing may be found.
fn examine(cluster: &Cluster, database: &str) {
    let mut command = Cluster::command();
    command.env("VFS_SYNC_DATABASE_URL", database);
    command.args(["--json", "admin", "doctor", "--all", "--data"]).arg(cluster.data());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let problems: Vec<_> = serde_json::from_str::<serde_json::Value>(&said)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"))["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["outcome"] == "problem")
        .cloned()
        .collect();
    assert!(problems.is_empty(), "{problems:#?}");
}

/// Returns the time until a server process has done something.
async fn goes_on(patroni: &Patroni, pace: &Pace, server: usize, since: Instant) -> Duration {
    let at = pace.goes_on(server, since).await;
    let at = at.unwrap_or_else(|| panic!("server {server} does nothing: {}", patroni.logs()));
    println!("server {server} goes on after {:.1?}", at - since);
    at - since
}

#[derive(Default)]
struct Tally {
    rounds: BTreeMap<(bool, Fault), u64>,
    slowest: Duration,
    offered: u64,
}

/// One fault under load, and what must hold after it.
async fn round(
    patroni: &Patroni,
    cluster: &Arc<Cluster>,
    devices: Vec<Device>,
    (synchronous, fault): (bool, Fault),
    tally: &mut Tally,
) -> Vec<Device> {
    let began = Instant::now();
    patroni.set_synchronous(synchronous).await;
    let former = patroni.primary().await;
    let before = epoch(patroni, former).await;
    let stop = CancellationToken::new();
    let pace = Arc::new(Pace::new(SERVERS));
    let mut at_work = JoinSet::new();
    for device in devices {
        let (stop, pace) = (stop.clone(), Arc::clone(&pace));
        at_work.spawn(async move { device.work(stop, &pace).await });
    }
    pace.reached(CALLS).await;
    if !synchronous {
        patroni.hold_replication(former);
        pace.reached(2 * CALLS).await;
    }
    patroni.fail(former, fault).await;
    let successor = patroni.succeeded(former).await;
    let mut promoted = Instant::now();
    let mut slowest = Duration::ZERO;
    // One process is kept from the successor if the former primary works on.
    let kept = usize::from(fault.splits());
    for server in kept..SERVERS {
        slowest = slowest.max(goes_on(patroni, &pace, server, promoted).await);
    }
    if kept > 0 {
        patroni.heal_lines();
        promoted = Instant::now();
        slowest = slowest.max(goes_on(patroni, &pace, 0, promoted).await);
    }
    assert!(slowest < GOES_ON_WITHIN, "{fault:?}: a server took {slowest:?}");
    patroni.heal(former).await;
    stop.cancel();
    let mut devices: Vec<_> = std::mem::take(&mut at_work).join_all().await;
    devices.sort_by_key(|device| device.number);
    settle(&devices).await;
    let revived = check(cluster, &mut devices, !synchronous).await;
    assert!(epoch(patroni, successor).await > before, "an epoch has begun");
    let offered = devices.iter().map(Device::take_offered).sum::<u64>();
    assert!(!synchronous || offered == 0, "{offered} changes were lost");
    cluster.check();
    tokio::task::block_in_place(|| examine(cluster, &patroni.databases()[0]));
    *tally.rounds.entry((synchronous, fault)).or_default() += 1;
    tally.slowest = tally.slowest.max(slowest);
    tally.offered += offered;
    println!(
        "{fault:?}, {}: {:.1?}, goes on in {slowest:.1?}, {offered} changes offered again, \
         {revived} deletions undone",
        if synchronous { "synchronous" } else { "asynchronous" },
        began.elapsed()
    );
    devices
}

/// `VFS_SYNC_TEST_FAILOVERS` says how many, 2 unless set. `VFS_SYNC_TEST_SEED` repeats the choices,
/// though not the timing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs PostgreSQL"]
async fn nothing_is_lost_and_work_goes_on_when_the_primary_fails() {
    let test = "failover of the database";
    if !["etcd", "patroni", "pgbouncer"].iter().all(|program| has(program, test)) {
        return;
    }
    let seed = seed();
    println!("VFS_SYNC_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let began = Instant::now();
    let patroni = Patroni::start(DIRECT).await;
    println!("all parts run after {:.1?}", began.elapsed());
    let databases = patroni.databases();
    let cluster = tokio::task::block_in_place(|| Arc::new(Cluster::start(&databases)));
    let mut devices: Vec<_> = (0..2 * USERS.len())
        .map(|number| Device::new(&cluster, USERS[number / 2], number, random.fork()))
        .collect();
    let mut tally = Tally::default();
    let rounds = number("VFS_SYNC_TEST_FAILOVERS").unwrap_or(2);
    for kind in ROUNDS.into_iter().cycle().take(usize::try_from(rounds).unwrap()) {
        devices = round(&patroni, &cluster, devices, kind, &mut tally).await;
    }
    assert!(rounds < 2 || tally.offered > 0, "the lagging standby lacked nothing");
    drop(devices);
    cluster.terminate();
    println!("{:?}, slowest {:.1?}, {} offered", tally.rounds, tally.slowest, tally.offered);
}
