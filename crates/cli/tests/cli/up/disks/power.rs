//! Loss of power: the directory and the replica of one device are on a disk that loses what was not
//! synchronised, at any operation, also of a restart. What a program synchronised, and what `up`
//! had in step, survives; the other device gets nothing torn; both end in step.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::super::Devices;
use super::super::programs::{differing, entries};
use crate::support::crash_disk::{CrashDisk, Order};

/// The replica and the directory of the device that loses power.
const REPLICA: &str = "disk/replica";
const FILES: &str = "disk/files";
/// The directory of the device beside it.
const OTHER: &str = "db";
const NAMES: [&str; 6] = ["f", "g", "in/f", "in/deep/h", "other/f", "other/g"];
/// Files that are only edited: each stays the same item.
const STEADY: [&str; 3] = ["steady/one", "steady/two", "steady/three"];
/// The number of times that the power fails in a round.
const FAILURES: usize = 2;
/// The number of rounds, if no other is asked for.
const FEW: u64 = 4;
/// The number of rounds that run at once: they mostly wait.
const AT_ONCE: u64 = 7;
/// The number of runs within which a device must be in step again.
const RUNS: usize = 4;
/// The time within which a run ends.
const PATIENCE: Duration = Duration::from_secs(120);

type Checked = Result<(), String>;

struct Round {
    disk: CrashDisk,
    devices: Devices,
    random: fastrand::Rng,
    number: u32,
    /// True if programs work in the directory while `up` runs.
    acts: bool,
    /// Every value that was ever written, whole.
    written: BTreeSet<String>,
    /// The values that must survive; true for those that the server has.
    safe: BTreeMap<String, bool>,
    /// The values that a program wrote and did not synchronise, by the path at which they are.
    unsynced: BTreeMap<String, String>,
    /// The names at which the disk may have torn what a program did not synchronise.
    torn: BTreeSet<String>,
    /// The number of operations of the last run that was not cut.
    run: u64,
    log: Vec<String>,
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes a file; with `cut` in place of what is there.
fn write(path: &Path, value: &str, syncs: bool) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(value.as_bytes())?;
    if syncs { file.sync_all() } else { Ok(()) }
}

/// The names at which a program that saves under `name` may leave something.
fn names_of(name: &str) -> [String; 3] {
    [name.to_owned(), format!("{name}.saving"), format!("{name}.old")]
}

impl Round {
    fn new(seed: u64) -> Option<Self> {
        let devices = Devices::new(&["b"]);
        let mut random = fastrand::Rng::with_seed(seed);
        let order = if random.bool() { Order::Journal } else { Order::PerFile };
        let disk = CrashDisk::mount(&devices.scene.path("disk"), order)?;
        devices.scene.replica(REPLICA);
        fs::create_dir(devices.scene.path(FILES)).unwrap();
        let mut round = Self {
            disk,
            devices,
            random,
            number: 0,
            acts: true,
            written: BTreeSet::new(),
            safe: BTreeMap::new(),
            unsynced: BTreeMap::new(),
            torn: BTreeSet::new(),
            run: 0,
            log: vec![format!("seed {seed}, {order:?}")],
        };
        for name in STEADY.iter().chain(&NAMES[..3]) {
            let value = round.value("b");
            round.put(name, &value);
        }
        round.devices.scene.on("b", &["sync"]).expect(0);
        Some(round)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.devices.scene.path(FILES).join(name)
    }

    /// Returns a new value, of one page or several.
    fn value(&mut self, device: &str) -> String {
        self.number += 1;
        let line = format!("value {} of {device}\n", self.number);
        let value = line.repeat(self.random.usize(1..600)) + "end";
        self.written.insert(value.clone());
        value
    }

    fn one_of(&mut self, of: &[&'static str]) -> &'static str {
        of[self.random.usize(..of.len())]
    }

    fn say(&mut self, text: impl Into<String>) {
        self.log.push(text.into());
    }

    /// Saves a value on the other device.
    fn put(&mut self, name: &str, value: &str) {
        let scene = &self.devices.scene;
        scene.write("put", value);
        let path = format!("/{name}");
        if scene.on("b", &["put", "put", &path]).code != 0 {
            for (at, _) in path.match_indices('/').skip(1) {
                scene.on("b", &["mkdir", &path[..at]]);
            }
            scene.on("b", &["put", "put", &path]).expect(0);
        }
        self.safe.insert(value.to_owned(), true);
    }

    /// Changes something on the other device, and sends it.
    fn act_elsewhere(&mut self) {
        for _ in 0..self.random.usize(..4) {
            let name = self.one_of(&[&NAMES[..], &STEADY[..]].concat());
            let path = format!("/{name}");
            let did = match self.random.u8(..6) {
                0 if !STEADY.contains(&name) => self.devices.scene.on("b", &["rm", &path]).code,
                1 if !STEADY.contains(&name) => {
                    let to = format!("/{}", self.one_of(&NAMES));
                    self.devices.scene.on("b", &["mv", &path, &to]).code
                }
                _ => {
                    let value = self.value("b");
                    self.put(name, &value);
                    0
                }
            };
            // Before it replaces that itself.
            self.devices.scene.on("b", &["sync"]).expect(0);
            self.say(format!("b: {name}: {did}"));
        }
    }

    /// What a program takes from the directory is its own loss, unless the server has it.
    fn give_up(&mut self, value: Option<String>) {
        let Some(value) = value else { return };
        if self.safe.get(&value) == Some(&false) {
            self.safe.remove(&value);
        }
        self.unsynced.remove(&value);
    }

    /// Lets a program do something in the directory, with or without synchronising it.
    fn act(&mut self) {
        let steady = self.random.u8(..4) == 0;
        let name = if steady { self.one_of(&STEADY) } else { self.one_of(&NAMES) };
        let (path, syncs) = (self.path(name), self.random.bool());
        let folder = path.parent().unwrap().to_owned();
        let seen = fs::read_to_string(&path).ok();
        let way = self.random.u8(..if steady { 5 } else { 8 });
        let did = match way {
            5 => {
                let done = fs::remove_file(&path);
                self.give_up(seen.filter(|_| done.is_ok()));
                done.and_then(|()| if syncs { sync_folder(&folder) } else { Ok(()) })
            }
            6 => {
                let to_name = self.one_of(&NAMES);
                let to = self.path(to_name);
                let over = fs::read_to_string(&to).ok();
                let done = if to == path { Ok(()) } else { fs::rename(&path, &to) };
                if to != path && done.is_ok() {
                    self.give_up(over);
                    if self.torn.contains(name) {
                        self.torn.insert(to_name.to_owned());
                    }
                }
                let both = || sync_folder(&folder).and_then(|()| sync_folder(to.parent().unwrap()));
                done.and_then(|()| if syncs { both() } else { Ok(()) })
            }
            _ => self.save(name, way, syncs, seen),
        };
        self.say(format!("a: {name} in way {way}, syncs: {syncs}: {did:?}"));
    }

    fn save(&mut self, name: &str, way: u8, syncs: bool, seen: Option<String>) -> io::Result<()> {
        let value = self.value("a");
        let path = self.path(name);
        let folder = path.parent().unwrap();
        let beside = path.with_extension("saving");
        let makes = !folder.exists();
        let saved = fs::create_dir_all(folder).and_then(|()| match way {
            // In place.
            0 | 1 => {
                self.give_up(seen.clone());
                write(&path, &value, syncs)
            }
            // Away with the old one first.
            7 if seen.is_some() => {
                fs::rename(&path, path.with_extension("old"))?;
                write(&path, &value, syncs)?;
                fs::remove_file(path.with_extension("old"))
            }
            _ => {
                write(&beside, &value, syncs)?;
                fs::rename(&beside, &path)
            }
        });
        let saved = saved.and_then(|()| {
            if !syncs {
                return Ok(());
            }
            // The folders that are new, upwards.
            let top = self.devices.scene.path(FILES);
            let above = folder.ancestors().take_while(|above| above.starts_with(&top));
            let count = if makes { usize::MAX } else { 1 };
            above.take(count).try_for_each(sync_folder)
        });
        if saved.is_ok() {
            self.give_up(seen);
        }
        if saved.is_ok() && syncs {
            self.safe.insert(value, false);
            self.torn.remove(name);
        } else {
            if saved.is_ok() {
                self.unsynced.insert(value, name.to_owned());
            }
            self.torn.extend(names_of(name));
        }
        saved
    }

    /// Runs `up --once` on the disk; the power fails after so many operations, if it still runs.
    /// Returns its exit code, unless the power failed.
    fn up(&mut self, fails_after: Option<u64>) -> Option<i32> {
        let scene = &self.devices.scene;
        let log = File::options().create(true).append(true).open(scene.path("a.log")).unwrap();
        let mut command = scene.command();
        command.args(["--json", "--replica", REPLICA, "up", "--once", FILES]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let before = self.disk.operations();
        let mut child = command.spawn().unwrap();
        if let Some(operations) = fails_after {
            self.disk.fail_after(operations, child.id());
        }
        let until = Instant::now() + PATIENCE;
        let mut acts = if self.acts && fails_after.is_some() { self.random.usize(..3) } else { 0 };
        let code = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status.code();
            }
            if Instant::now() > until {
                let _ = child.kill();
                let _ = child.wait();
                return Some(-1);
            }
            if acts > 0 && self.random.u8(..5) == 0 {
                acts -= 1;
                self.act();
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        if fails_after.is_none() {
            self.run = self.disk.operations() - before;
        }
        code.filter(|_| !self.disk.is_off())
    }

    /// What was saved before a run that ended in step is in step, whatever the disk has of it.
    fn in_step(&mut self, before: &BTreeMap<String, String>, safe: &BTreeMap<String, bool>) {
        for value in before.keys().filter(|value| self.unsynced.contains_key(*value)) {
            self.safe.insert(value.clone(), true);
        }
        for value in safe.keys() {
            self.safe.entry(value.clone()).and_modify(|at_server| *at_server = true);
        }
        self.unsynced.retain(|value, _| !before.contains_key(value));
        self.torn = self.unsynced.values().flat_map(|name| names_of(name)).collect();
    }

    /// Lets the power fail during a run, or after it.
    fn fail(&mut self) {
        let most = self.run * 3 / 2 + 10;
        let after = self.random.u64(..most);
        let (unsynced, safe) = (self.unsynced.clone(), self.safe.clone());
        let code = self.up(Some(after));
        self.say(format!("the power fails after {after} of {}: {code:?}", self.run));
        if code == Some(0) {
            self.in_step(&unsynced, &safe);
        }
        if code.is_some() && self.random.bool() {
            self.act();
        }
        let lost = self.disk.restart(&mut self.random);
        self.log.extend(lost);
        // Only the disk knows what is left of it.
        self.unsynced.clear();
    }

    /// Brings both devices in step.
    fn recover(&mut self) -> Checked {
        // Only the disk can give the other device something, which may answer it.
        let turns: &[&str] = if self.acts { &["a", "b", "a", "b"] } else { &["a", "b"] };
        for device in turns {
            let mut codes = Vec::new();
            while codes.last() != Some(&Some(0)) {
                if codes.len() == RUNS {
                    return Err(format!("{device} is never in step: {codes:?}"));
                }
                codes.push(match *device {
                    "a" => self.up(None),
                    _ => Some(self.devices.scene.on("b", &["up", "--once", OTHER]).code),
                });
            }
            self.say(format!("{device} is in step after {}", codes.len()));
        }
        Ok(())
    }

    /// Fails unless both directories are equal and hold only whole values under names of users.
    fn check(&mut self) -> Checked {
        let at = |name: &str| entries(&self.devices.scene.path(name)).map_err(|e| e.to_string());
        let (a, b) = (at(FILES)?, at(OTHER)?);
        if a != b {
            return Err(format!("not equal: {:#?}", differing(&a, &b)));
        }
        for (path, entry) in b.iter().filter(|(_, entry)| entry.what.starts_with("file")) {
            let name = path.file_name().unwrap().to_string_lossy();
            let shown = path.to_string_lossy();
            if name.starts_with("recovered") || name.starts_with(".vfs-sync") {
                return Err(format!("{} lost its name", path.display()));
            }
            let plain = shown.split(" (conflict ").next().unwrap_or_default();
            let text = String::from_utf8_lossy(&entry.bytes);
            if !self.written.contains(&*text) && !self.torn.contains(plain) {
                return Err(format!("{} is torn: {} bytes", path.display(), text.len()));
            }
            // What a program has torn stays as it is.
            self.written.insert(text.into_owned());
        }
        for name in STEADY {
            if !a.contains_key(Path::new(name)) {
                return Err(format!("{name} is gone"));
            }
        }
        for (args, what) in [(["--replica", REPLICA], "a"), (["--replica", "b"], "b")] {
            let dir = if what == "a" { FILES } else { OTHER };
            let more = ["--json", "up", "--once", dir];
            let ran = self.devices.scene.run(args.iter().chain(&more));
            let found = super::changes(&ran);
            if ran.code != 0 || !found.is_empty() {
                return Err(format!("{what} is not quiet: {} {found:?}", ran.code));
            }
        }
        Ok(())
    }

    fn ids(&self) -> Vec<String> {
        STEADY.iter().map(|name| self.devices.id("b", &format!("/{name}"))).collect()
    }

    fn lost(&self, found: &BTreeSet<String>) -> Vec<String> {
        let lost = self.safe.keys().filter(|value| !found.contains(*value));
        lost.map(|value| value.lines().next().unwrap_or_default().to_owned()).collect()
    }

    /// Fails unless every value that must survive is somewhere.
    fn check_all_there(&mut self) -> Checked {
        let mut found = BTreeSet::new();
        for top in [FILES, OTHER] {
            let mut folders = vec![self.devices.scene.path(top)];
            while let Some(folder) = folders.pop() {
                for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                    match path.is_dir() {
                        true => folders.push(path),
                        false => found.extend(fs::read_to_string(path)),
                    }
                }
            }
        }
        for _ in 0..3 {
            if self.lost(&found).is_empty() {
                return Ok(());
            }
            found.extend(self.versions());
            let on = |args: &[&str]| self.devices.scene.on("b", args);
            let trash = on(&["--json", "trash"]).expect(0).json();
            for entry in trash["items"].as_array().unwrap() {
                on(&["trash", "restore", entry["id"].as_str().unwrap()]);
            }
            on(&["sync"]);
        }
        match self.lost(&found) {
            lost if lost.is_empty() => Ok(()),
            lost => Err(format!("lost: {lost:?}")),
        }
    }

    /// The values of all versions of all files in the tree.
    fn versions(&self) -> BTreeSet<String> {
        let on = |args: &[&str]| self.devices.scene.on("b", args);
        let tree = on(&["--json", "tree", "/"]).expect(0).json();
        let mut found = BTreeSet::new();
        for entry in tree["entries"].as_array().unwrap() {
            let path = format!("/{}", entry["path"].as_str().unwrap());
            let list = on(&["--json", "versions", &path]);
            let list: serde_json::Value = serde_json::from_str(&list.stdout).unwrap_or_default();
            for number in 1..=list["versions"].as_array().map_or(0, Vec::len) {
                found.insert(on(&["get", &path, "-", "--version", &number.to_string()]).stdout);
            }
        }
        found
    }

    /// Lets the power fail after each `step`th operation, from `first` on, of a run that writes what another
    /// device has changed: nothing of that counts as a change of this one.
    fn play_each(&mut self, first: u64, step: u64) -> Checked {
        self.acts = false;
        self.recover()?;
        let log = self.devices.scene.path("a.log");
        for (turn, after) in (first..).step_by(usize::try_from(step).unwrap()).enumerate() {
            for name in &STEADY[..2] {
                let value = self.value("b");
                self.put(name, &value);
            }
            let places = ["/g", "/in/moved"];
            self.devices.scene.on("b", &["mv", places[turn % 2], places[1 - turn % 2]]).expect(0);
            self.devices.scene.on("b", &["rm", "/f"]);
            self.devices.scene.on("b", &["sync"]).expect(0);
            let code = self.up(Some(after));
            self.say(format!("the power fails after {after}: {code:?}"));
            let lost = self.disk.restart(&mut self.random);
            self.log.extend(lost);
            let said = fs::read_to_string(&log).unwrap().len();
            self.recover()?;
            self.check()?;
            let said = fs::read_to_string(&log).unwrap()[said..].to_owned();
            let echo = said.lines().find(|line| line.contains("\"imported\""));
            if let Some(echo) = echo {
                return Err(format!("it takes its own changes for those of programs: {echo}"));
            }
            if fs::read_dir(self.path(""))
                .unwrap()
                .chain(fs::read_dir(self.path("steady")).unwrap())
                .any(|entry| entry.unwrap().file_name().to_string_lossy().contains("(conflict"))
            {
                return Err("there is a conflicted copy".to_owned());
            }
            if code.is_some() {
                break;
            }
            let value = self.value("b");
            self.put("f", &value);
            self.devices.scene.on("b", &["sync"]).expect(0);
        }
        self.check_all_there()
    }

    fn play(&mut self) -> Checked {
        self.recover()?;
        let ids = self.ids();
        for _ in 0..FAILURES {
            self.act_elsewhere();
            for _ in 0..self.random.usize(..4) {
                self.act();
            }
            self.fail();
            if self.random.u8(..3) == 0 {
                self.fail();
            }
            self.recover()?;
            self.check()?;
            self.torn.clear();
        }
        if ids != self.ids() {
            return Err("a file that was only edited is another item".to_owned());
        }
        self.check_all_there()
    }

    /// Runs one round; returns what was wrong, with its log. `None` where no disk can be mounted.
    fn run(seed: u64, play: impl FnOnce(&mut Self) -> Checked) -> Option<Checked> {
        let began = Instant::now();
        let mut round = Self::new(seed)?;
        let played = play(&mut round);
        println!("seed {seed}: {:?}", began.elapsed());
        Some(played.map_err(|wrong| {
            let said = fs::read_to_string(round.devices.scene.path("a.log")).unwrap_or_default();
            format!("{wrong}\n{}\n{said}", round.log.join("\n"))
        }))
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.map_or(otherwise, |given| given.parse().expect("the variable is a number"))
}

/// Runs rounds at once; fails with what was wrong in them.
fn run_all(seeds: std::ops::Range<u64>, play: impl Fn(u64, &mut Round) -> Checked + Sync) {
    let (next, wrong) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let rounds = seeds.end - seeds.start;
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(rounds) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let run = || Round::run(seed, |round| play(seed, round));
                    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
                    match ran.unwrap_or_else(|_| Some(Err("it panicked".to_owned()))) {
                        None => return,
                        Some(Ok(())) => {}
                        Some(Err(text)) => {
                            wrong.lock().unwrap().push(format!("seed {seed}: {text}"));
                        }
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {rounds}:\n{}", wrong.len(), wrong.join("\n\n"));
}

/// The first seed, and the number of rounds.
fn asked() -> (u64, u64) {
    (number("VFS_SYNC_TEST_POWER_SEED", 0), number("VFS_SYNC_TEST_POWER_ROUNDS", FEW))
}

#[test]
fn a_loss_of_power_loses_nothing_that_was_synchronised_or_in_step() {
    let (first, rounds) = asked();
    run_all(first..first + rounds, |_, round| round.play());
}

#[test]
fn any_operation_of_an_export_may_be_the_last_before_the_power_fails() {
    let (first, rounds) = asked();
    // All of them if many rounds are asked for, else one for each device.
    let (devices, each) = if rounds > FEW { (AT_ONCE, 1) } else { (FEW, 20) };
    run_all(first..first + devices, |seed, round| {
        round.play_each(each * (seed - first) + first % each, each * devices)
    });
}
