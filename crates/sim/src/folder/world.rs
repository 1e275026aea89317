//! Plays a history, ends all trouble, and checks what the contract of live folders promises.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tempfile::TempDir;
use vfs_sync_folder::seam::simulate;
use vfs_sync_server::ServerConfig;
use vfs_sync_testkit::Random;

use super::device::Device;
use super::disk::{Entry, Surroundings, entries, kept_aside};
use super::plan::{Plan, Step, Trouble, What};
use super::program::Program;
use super::saved::text;
use crate::infra::database::{Database, StoreKind};
use crate::infra::environment::Machine;
use crate::infra::network::Weather;
use crate::infra::objects::Objects;
use crate::infra::server::Cluster;
use crate::oracle::coverage::Kind;
use crate::oracle::failure::FailureKind;
use crate::oracle::ledger::Ledger;
use crate::world::Outcome;

/// The number of rounds of all devices after which everything has to be in step.
const ROUNDS: usize = 16;
/// The time between two of these rounds.
const BETWEEN: Duration = Duration::from_secs(5);
/// The time after which no replaced file is kept aside any more.
const LATER: Duration = Duration::from_secs(3 * 3_600);

thread_local! {
    /// The place of all directories of a thread: in memory, where the machine has such a place.
    static PLACE: TempDir = {
        let shm = Path::new("/dev/shm");
        let made = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
        made.expect("a directory")
    };
    static WORLDS: Cell<u64> = const { Cell::new(0) };
}

struct World {
    ledger: Ledger,
    devices: Vec<Device>,
    around: Rc<Surroundings>,
    random: Random,
}

/// Plays a plan, but only the steps that `keep` accepts.
pub(crate) fn play(plan: &Plan, tracing: bool, keep: &dyn Fn(usize) -> bool) -> Outcome {
    let number = WORLDS.replace(WORLDS.get() + 1);
    let place = PLACE.with(|place| place.path().join(number.to_string()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O");
    let outcome = runtime.block_on(async {
        let objects = Objects::new(false);
        let ledger = Ledger::new(objects.clone(), tracing);
        let played = AssertUnwindSafe(run(plan, &place, objects, ledger.clone(), keep));
        if let Err(panic) = played.catch_unwind().await {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            ledger.fail(FailureKind::Panic, text.unwrap_or_else(|| "a panic".to_owned()));
        }
        simulate(None);
        let (failure, coverage, digest, trace) = ledger.close();
        Outcome { failure, coverage, digest, trace }
    });
    let _ = std::fs::remove_dir_all(place);
    outcome
}

async fn run(
    plan: &Plan,
    place: &Path,
    objects: Objects,
    ledger: Ledger,
    keep: &dyn Fn(usize) -> bool,
) {
    let mut world = World::begin(plan, place, objects, ledger).await;
    for (index, step) in plan.steps.iter().enumerate() {
        if world.ledger.has_failed() {
            return;
        }
        if keep(index) {
            world.ledger.begin_step(index);
            world.step(step).await;
            tokio::time::sleep(Duration::from_millis(step.wait_millis)).await;
        }
    }
    world.ledger.begin_step(plan.steps.len());
    world.heal();
    world.settle().await;
    if !world.ledger.has_failed() {
        world.check();
    }
    if !world.ledger.has_failed() {
        world.no_echo().await;
    }
    if !world.ledger.has_failed() {
        world.identity().await;
    }
}

impl World {
    async fn begin(plan: &Plan, place: &Path, objects: Objects, ledger: Ledger) -> Self {
        let database = Database::new(StoreKind::Memory, plan.random(1));
        let machine = Arc::new(Machine::new(0, plan.random(2), 0));
        let config = ServerConfig::default();
        let cluster = Cluster::start(
            ledger.clone(),
            objects,
            &database,
            config,
            vec![machine],
            plan.random(3),
        )
        .await;
        let roots: Vec<PathBuf> =
            (0..plan.devices).map(|device| place.join(format!("device-{device}"))).collect();
        for root in &roots {
            std::fs::create_dir_all(root).expect("a directory");
        }
        let around = Surroundings::new(ledger.clone(), roots);
        simulate(Some(Rc::clone(&around) as Rc<dyn vfs_sync_folder::seam::Simulator>));
        let devices = (0..plan.devices).map(|index| {
            let replica = plan.on_disks.then(|| place.join(format!("replica-{index}")));
            let random = plan.random(10 + u64::try_from(index).unwrap_or(0));
            Device::new(index, &cluster, &around, &ledger, random, replica)
        });
        let devices = devices.collect();
        Self { ledger, devices, around, random: plan.random(4) }
    }

    async fn step(&mut self, step: &Step) {
        let mut random = Random::new(step.chance);
        random.below(2);
        self.ledger.note(|| format!("step {:?}", step.what));
        match step.what {
            What::Start { device } => {
                let root = self.around.roots[device].clone();
                let saved = &mut self.around.saved.borrow_mut();
                let (name, program) = Program::draw(device, &root, &mut random, saved);
                self.ledger.note(|| format!("device {device}: a program {name}"));
                self.ledger.count(Kind::Edit, name);
                self.around.programs.borrow_mut().push(program);
            }
            What::Work { device } => {
                for _ in 0..=random.below(6) {
                    self.around.work(device, &mut random);
                }
            }
            What::Round { device, trouble } => {
                self.devices[device].round(trouble, random).await;
                self.nothing_mixed(device);
            }
            What::Weather { device, weather } => self.devices[device].link.set_weather(weather),
            What::Clock { device } => {
                const HOUR: i64 = 3_600_000;
                let millis = *random.one(&[-61_000, -900, 900, 61_000, HOUR, -HOUR, 30 * HOUR]);
                self.ledger.fault("device: clock jumped", || format!("{device} by {millis}"));
                self.devices[device].shift(millis);
            }
            // Before both sides were joined, an empty directory is one to begin with.
            What::Unmounted { device } if !self.devices[device].joined => {}
            What::Unmounted { device } => {
                self.ledger.fault("directory: not mounted", || device.to_string());
                self.devices[device].look_at_nothing(random).await;
            }
        }
    }

    /// Checks that every file has a content that a file had at one moment: none is partial, and
    /// none is put together of two.
    fn nothing_mixed(&self, device: usize) {
        let saved = self.around.saved.borrow();
        for (path, entry) in entries(&self.around.roots[device]) {
            if let Entry::File { content, .. } = entry
                && !is_own(&path)
                && !saved.has_existed(&content)
            {
                let shown = text(&content);
                let message = format!("device {device}: {} has {shown}", path.display());
                self.ledger.fail(FailureKind::Torn, message);
            }
        }
        self.ledger.count(Kind::Check, "no content is partial or mixed");
    }

    /// Ends all trouble: programs complete their work, and every network is well.
    fn heal(&mut self) {
        self.ledger.note(|| "all trouble ends".to_owned());
        self.around.finish();
        for device in &self.devices {
            device.link.set_weather(Weather::Calm);
        }
    }

    /// Plays rounds of all devices until nothing changes.
    async fn settle(&mut self) {
        for part in 0..2 {
            let mut calm = 0;
            let mut last = Vec::new();
            for _ in 0..ROUNDS {
                if self.ledger.has_failed() || calm == 2 {
                    break;
                }
                last.clear();
                for index in 0..self.devices.len() {
                    let random = self.random.fork();
                    last.push(self.devices[index].round(Trouble::None, random).await);
                    self.nothing_mixed(index);
                }
                let rests = last.iter().all(|round| {
                    round.complete && !round.waits && round.imported + round.exported == 0
                });
                calm = if rests { calm + 1 } else { 0 };
                tokio::time::sleep(BETWEEN).await;
            }
            if calm < 2 && !self.ledger.has_failed() {
                let message = format!("nothing rests after {ROUNDS} rounds: {last:?}");
                self.ledger.fail(FailureKind::Drain, message);
            }
            if part == 0 {
                // What was replaced while a program had it open comes back, or goes.
                tokio::time::sleep(LATER).await;
            }
        }
    }

    fn check(&self) {
        let all: Vec<BTreeMap<PathBuf, Entry>> =
            self.around.roots.iter().map(|root| entries(root)).collect();
        for device in &self.devices {
            if let Some(path) = device.refused.first() {
                // Nobody's rights change in these worlds.
                let message = format!("the server refused {}", path.display());
                self.ledger.fail(FailureKind::Convergence, message);
            }
        }
        for (device, found) in all.iter().enumerate() {
            if let Some(path) = found.keys().find(|path| is_own(path)) {
                let message = format!("device {device}: {} is left", path.display());
                self.ledger.fail(FailureKind::Drain, message);
            }
            if let Some(difference) = difference(&all[0], found) {
                let message = format!("device 0 and {device} differ: {difference}");
                self.ledger.fail(FailureKind::Convergence, message);
            }
        }
        self.ledger.count(Kind::Check, "all directories are equal");
        let mut found: BTreeSet<Vec<u8>> = BTreeSet::new();
        for entry in all.into_iter().flat_map(BTreeMap::into_values) {
            if let Entry::File { content, .. } = entry {
                found.insert(content);
            }
        }
        for root in &self.around.roots {
            found.extend(kept_aside(root, "trash"));
        }
        if let Some(lost) = self.around.saved.borrow().lost(&found).first() {
            self.ledger.fail(FailureKind::Lost, format!("nobody has {lost} any more"));
        }
        self.ledger.count(Kind::Check, "nothing saved is lost");
    }

    /// Checks that a look at a directory in step finds nothing, and reads no content.
    async fn no_echo(&mut self) {
        for index in 0..self.devices.len() {
            let before = self.around.reads.get();
            let random = self.random.fork();
            let round = self.devices[index].round(Trouble::None, random).await;
            let read = self.around.reads.get() - before;
            if round.imported + round.exported + read > 0 {
                let message = format!("device {index} at rest: {round:?}, {read} reads");
                self.ledger.fail(FailureKind::Echo, message);
            }
        }
        self.ledger.count(Kind::Check, "no echo");
    }

    /// Checks that a file keeps its item when a program saves or moves it.
    async fn identity(&mut self) {
        let files: Vec<PathBuf> = entries(&self.around.roots[0])
            .into_iter()
            .filter(|(_, entry)| matches!(entry, Entry::File { .. }))
            .map(|(path, _)| path)
            .collect();
        if files.is_empty() {
            return;
        }
        let path = self.random.one(&files).clone();
        let Some(before) = self.item(0, &path) else {
            let message = format!("{} has no item", path.display());
            return self.ledger.fail(FailureKind::Identity, message);
        };
        let to = match self.random.below(3) {
            0 => path.clone(),
            1 => path.with_file_name("moved"),
            _ => PathBuf::from("moved"),
        };
        if to != path && self.around.roots[0].join(&to).exists() {
            return;
        }
        // A file that is moved and replaced at once is another one.
        let save = if to == path { 1 + self.random.below(3) } else { self.random.below(2) };
        self.ledger.note(|| format!("{} becomes {}, save {save}", path.display(), to.display()));
        let content = self.around.saved.borrow_mut().make(30);
        self.around.saved.borrow_mut().existed(&content);
        let root = &self.around.roots[0];
        let (from, at) = (root.join(&path), root.join(&to));
        std::fs::rename(from, &at).expect("a file");
        let written = match save {
            0 => Ok(()),
            1 => std::fs::write(&at, &content),
            2 => {
                let new = root.join("replacement");
                std::fs::write(&new, &content).and_then(|()| std::fs::rename(new, &at))
            }
            _ => {
                let old = root.join("replaced");
                std::fs::rename(&at, &old)
                    .and_then(|()| std::fs::write(&at, &content))
                    .and_then(|()| std::fs::remove_file(old))
            }
        };
        written.expect("a directory that may be written");
        self.settle().await;
        for device in 0..self.devices.len() {
            let after = self.item(device, &to);
            if after.as_ref() != Some(&before) && !self.ledger.has_failed() {
                let to = to.display();
                let message = format!("device {device}: {to} was {before:?} and is {after:?}");
                self.ledger.fail(FailureKind::Identity, message);
            }
        }
        self.ledger.count(Kind::Check, "a file keeps its item");
    }

    /// Returns the item at a path of a device's tree.
    fn item(&self, device: usize, path: &Path) -> Option<String> {
        let client = &self.devices[device].client;
        let mut parent = None;
        for name in path {
            let children = client.children(parent.as_ref()).ok()?;
            let child = children.into_iter().find(|child| child.name == name.to_string_lossy())?;
            parent = Some(child.node.id.clone());
        }
        parent.map(|id| id.to_string())
    }
}

/// Returns whether an entry has one of the engine's own temporary names.
fn is_own(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(".vfs-sync-tmp-") || name.starts_with(".vfs-sync-old-")
}

fn difference(one: &BTreeMap<PathBuf, Entry>, other: &BTreeMap<PathBuf, Entry>) -> Option<String> {
    let paths: BTreeSet<&PathBuf> = one.keys().chain(other.keys()).collect();
    let path = paths.into_iter().find(|path| one.get(*path) != other.get(*path))?;
    let shown = |entry: Option<&Entry>| match entry {
        None => "nothing".to_owned(),
        Some(Entry::File { content, bits, millis }) => {
            format!("{} {bits:o} {millis}", text(content))
        }
        Some(entry) => format!("{entry:?}"),
    };
    let (first, second) = (shown(one.get(path)), shown(other.get(path)));
    Some(format!("{}: {first}, {second}", path.display()))
}
