//! A world: servers, devices, and the steps of a plan, run one after the other in simulated time.

mod disk_faults;
mod quiesce;
mod steps;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt as _;
use vfs_sync_server::ServerConfig;
use vfs_sync_testkit::Random;

use crate::actor::byzantine_server::{Breach, export};
use crate::actor::device::{Device, Talk, user};
use crate::actor::edit::edit;
use crate::actor::malicious_client;
use crate::actor::replica_disk::Home;
use crate::infra::database::{Backup, Database};
use crate::infra::disk::Unsynced;
use crate::infra::environment::Machine;
use crate::infra::objects::Objects;
use crate::infra::sabotage::{Sabotage, raise_sums};
use crate::infra::server::Cluster;
use crate::oracle::coverage::Coverage;
use crate::oracle::failure::{Failure, FailureKind};
use crate::oracle::ledger::Ledger;
use crate::oracle::transactions;
use crate::plan::{Plan, Step, What};

/// The outcome of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The first broken promise, if there is one.
    pub failure: Option<Failure>,
    /// The counts of all events.
    pub coverage: Coverage,
    /// A digest of the run: the same seed always has the same digest.
    pub digest: u64,
    /// The events line by line, if they were requested.
    pub trace: Vec<String>,
}

/// The number of rounds in which all devices synchronise, after which waiting work counts as stuck.
const ROUNDS: usize = 12;
/// The number of steps between two checks of all trees; each push is checked by the links that it
/// changed.
const ALL_TREES: usize = 40;
/// The longest time for which a request is in flight.
const STRAGGLERS: Duration = Duration::from_secs(120);

struct World {
    plan: Plan,
    ledger: Ledger,
    cluster: Arc<Cluster>,
    database: Database,
    objects: Objects,
    devices: Vec<Device>,
    backup: Option<Backup>,
    /// The number of restores from a backup.
    restored: u16,
}

/// Plays a plan, but only the steps that `keep` accepts.
pub(crate) fn play(
    plan: Plan,
    database: Database,
    sabotage: Option<Sabotage>,
    tracing: bool,
    keep: &dyn Fn(usize) -> bool,
) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O");
    runtime.block_on(async move {
        let forgets = sabotage == Some(Sabotage::LostBytes);
        let objects = Objects::new(forgets);
        let ledger = Ledger::new(objects.clone(), tracing);
        if database.disk().is_some() {
            let mut book = ledger.book();
            book.coverage.expect_disks();
            book.on_disks = true;
        }
        let played = AssertUnwindSafe(run(plan, database, objects, ledger.clone(), sabotage, keep))
            .catch_unwind();
        if let Err(panic) = played.await {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            ledger.fail(FailureKind::Panic, text.unwrap_or_else(|| "a panic".to_owned()));
        }
        let (failure, coverage, digest, trace) = ledger.close();
        Outcome { failure, coverage, digest, trace }
    })
}

async fn run(
    plan: Plan,
    database: Database,
    objects: Objects,
    ledger: Ledger,
    sabotage: Option<Sabotage>,
    keep: &dyn Fn(usize) -> bool,
) {
    let mut world = World::begin(plan, database, objects, ledger, sabotage).await;
    for index in 0..world.plan.steps.len() {
        if world.ledger.has_failed() {
            break;
        }
        if keep(index) {
            world.ledger.begin_step(index);
            let step = world.plan.steps[index].clone();
            world.step(&step).await;
        }
        if index % ALL_TREES == ALL_TREES - 1 {
            transactions::no_cycle(&world.ledger);
        }
    }
    world.ledger.begin_step(world.plan.steps.len());
    if !world.ledger.has_failed() {
        world.heal().await;
        world.drain().await;
    }
    if sabotage == Some(Sabotage::WrongSum) {
        raise_sums(&*world.cluster.store()).await.expect("memory takes it");
    }
    if !world.ledger.has_failed() {
        world.check().await;
    }
    world.end().await;
}

impl World {
    async fn begin(
        plan: Plan,
        database: Database,
        objects: Objects,
        ledger: Ledger,
        sabotage: Option<Sabotage>,
    ) -> Self {
        let setup = plan.setup.clone();
        let machines = setup.server_skew.iter().enumerate().map(|(index, skew)| {
            let part = u64::try_from(index).unwrap_or(0);
            let id = u16::try_from(index).unwrap_or(0);
            Arc::new(Machine::new(id, plan.random(part), *skew))
        });
        let config = ServerConfig {
            keep_versions: Duration::from_secs(60),
            stage_lifetime: Duration::from_secs(3_600),
            keep_removals: Duration::from_secs(60),
            keep_accepted: Duration::from_secs(600),
            // Clocks are off by up to a year, and the model knows of no purge.
            keep_deleted: Duration::from_secs(10 * 366 * 24 * 3_600),
            ..ServerConfig::default()
        };
        let (objects_there, random) = (objects.clone(), plan.random(50));
        let cluster = Cluster::start(
            ledger.clone(),
            objects_there,
            &database,
            config,
            machines.collect(),
            random,
        )
        .await;
        let devices = setup.devices.iter().enumerate().map(|(index, setup)| {
            let random = |from| plan.random(from + u64::try_from(index).unwrap_or(0));
            let home = database.disk().map(|_| Home::new(index, random(200)));
            let (ledger, random) = (ledger.clone(), random(100));
            Device::new(index, setup.clone(), &cluster, ledger, random, home, sabotage)
        });
        let devices = devices.collect();
        let (backup, restored) = (None, 0);
        let world = Self { plan, ledger, cluster, database, objects, devices, backup, restored };
        world.devices.iter().for_each(Device::start_background);
        world
    }

    async fn step(&mut self, step: &Step) {
        let mut random = Random::new(step.chance);
        random.below(2);
        if let Some(trouble) = step.disk {
            self.inject(trouble).await;
        }
        if let Some(swap) = step.token {
            let other = swap.user.map(user);
            self.devices[swap.device].swap_token(&self.cluster, other.as_ref());
        }
        self.ledger.note(|| format!("step {:?}", step.what));
        self.happen(step.what, &mut random).await;
        tokio::time::sleep(Duration::from_millis(step.wait_millis)).await;
        for device in &mut self.devices {
            device.revive().await;
            device.observe();
        }
    }

    async fn happen(&mut self, what: What, random: &mut Random) {
        match what {
            What::Edit { device } => {
                self.devices[device].revive().await;
                edit(&mut self.devices[device], &self.ledger, self.plan.setup.users, random);
            }
            What::Sync { device } => self.devices[device].talk(Talk::Sync),
            What::Flush { device } => self.devices[device].talk(Talk::Flush),
            What::Pull { device } => self.devices[device].talk(Talk::Pull),
            What::Read { device } => self.read(device, random),
            What::Settle { device } => self.settle(device).await,
            What::Members => self.set_member(random).await,
            What::Block => self.set_block(random).await,
            What::Weather { device, weather } => {
                self.ledger.note(|| format!("device {device}: weather {weather:?}"));
                self.devices[device].link.set_weather(weather);
            }
            What::CrashDevice { device } => {
                if self.devices[device].crash().await {
                    self.ledger.fault("device: crashed while talking", || device.to_string());
                }
                if self.devices[device].home.is_some() {
                    self.devices[device].restart(Unsynced::Kept).await;
                } else {
                    self.devices[device].start_background();
                }
            }
            What::CrashServer { server } => {
                if self.cluster.crash(server) {
                    self.ledger.fault("server: crashed", || server.to_string());
                }
                // Not all are away for long.
                if random.below(2) == 0 {
                    self.cluster.start_host(server).await;
                }
            }
            What::StartServers => self.cluster.start_all().await,
            What::Clock { device } => {
                let millis = jump(random);
                self.ledger.fault("device: clock jumped", || format!("{device} by {millis}"));
                self.devices[device].machine.shift(millis);
            }
            What::ServerClock { server } => {
                let millis = jump(random);
                self.ledger.fault("server: clock jumped", || format!("{server} by {millis}"));
                self.cluster.machine(server).shift(millis);
            }
            What::Database { per_mille } => {
                self.cluster.database_faults.store(per_mille, Ordering::Relaxed);
            }
            What::Objects { per_mille } => {
                self.objects.faults.store(per_mille, Ordering::Relaxed);
            }
            What::Prune => {
                if let Some(host) = self.cluster.any() {
                    self.cluster.prune(host);
                }
            }
            What::Sweep => {
                if let Some(host) = self.cluster.any() {
                    drop(self.cluster.sweep(host));
                }
            }
            What::Backup => self.back_up(),
            What::Restore => self.restore().await,
            What::Export { device } => {
                let device = &mut self.devices[device];
                device.exports.push(export(&device.client));
            }
            What::Hydrate { device } => self.hydrate(device, random).await,
            What::Breach { device, breach } => {
                let device = &mut self.devices[device];
                // A call that is under way was told other things before, which count too.
                if !device.setup.background && !device.is_talking() {
                    self.ledger.book().lies_about_bytes |= breach == Breach::WrongBytes;
                    device.hostile.arm(&device.client, breach);
                    device.talk(Talk::Sync);
                }
            }
            What::Rogue { device } => {
                let device = &self.devices[device];
                self.ledger.fault("user: a rogue request", || device.user.to_string());
                let (ledger, transport) = (self.ledger.clone(), device.transport());
                let (user, now) = (device.user.clone(), self.cluster.now(0));
                let mut random = random.fork();
                tokio::spawn(async move {
                    match random.below(8) {
                        0 => malicious_client::read_foreign(&ledger, &transport, &mut random).await,
                        1 => {
                            malicious_client::tamper(&ledger, &transport, &user, &mut random).await
                        }
                        2 => malicious_client::overclaim(&transport, &user, &mut random).await,
                        3 => {
                            malicious_client::attach(&ledger, &transport, &user, &mut random).await
                        }
                        _ => {
                            malicious_client::push(&ledger, &transport, &user, now, &mut random)
                                .await
                        }
                    }
                });
            }
            What::Reinstall { device } => {
                self.ledger.fault("device: set up anew", || device.to_string());
                self.devices[device].reinstall().await;
            }
            What::Rest => {
                let seconds = u64::try_from(1 + random.below(90)).unwrap_or(1);
                tokio::time::sleep(Duration::from_secs(seconds)).await;
            }
        }
    }
}

fn jump(random: &mut Random) -> i64 {
    const HOUR: i64 = 3_600_000;
    *random.one(&[1, -1, 900, -900, 61_000, -61_000, HOUR, -HOUR, 24 * HOUR, -24 * HOUR])
}
