//! Random programs on several devices, with agents that are killed and a server that comes and
//! goes; after the published model "Mysteries of Dropbox" (Hughes, Pierce, Arts and Norell): each
//! value that was ever saved must in the end be somewhere, unless somebody who had it in front of
//! them replaced or deleted it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::programs::{differing, entries};
use super::{Devices, Up, dir};

const DEVICES: [&str; 3] = ["a", "b", "c"];
const FOLDERS: [&str; 5] = ["in", "in/deep", "other", "moved", "other/low"];
const NAMES: [&str; 8] =
    ["f", "g", "in/f", "in/deep/h", "other/f", "other/low/h", "moved/f", "link"];
const STEPS: usize = 40;
/// The number of rounds that run at once: they mostly wait.
const AT_ONCE: usize = 7;
/// The time after which all devices must be in step.
const PATIENCE: Duration = Duration::from_secs(120);

fn number(variable: &str, otherwise: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.map_or(otherwise, |given| given.parse().expect("the variable is a number"))
}

struct Round {
    devices: Devices,
    address: String,
    random: fastrand::Rng,
    agents: BTreeMap<&'static str, Up>,
    serves: bool,
    /// Every value that was saved, with its step.
    saved: BTreeMap<String, usize>,
    /// The values that somebody replaced or deleted with the value in front of them.
    given_up: BTreeSet<String>,
    log: Vec<String>,
}

/// Returns the value of a file or link: its text or its target.
fn value_at(path: &Path) -> Option<String> {
    match std::fs::read_link(path) {
        Ok(target) => Some(target.to_string_lossy().into_owned()),
        Err(_) => std::fs::read_to_string(path).ok(),
    }
}

/// Returns the files and links under a folder, each with its value, as far as they stay there.
fn values_in(top: &Path, own: bool) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(list) = std::fs::read_dir(&folder) else { continue };
        for path in list.flatten().map(|entry| entry.path()) {
            let Ok(meta) = path.symlink_metadata() else { continue };
            if meta.is_dir() && (own || !path.ends_with(".vfs-sync")) {
                folders.push(path);
            } else if let Some(value) = value_at(&path) {
                found.insert(path.strip_prefix(top).unwrap().to_owned(), value);
            }
        }
    }
    found
}

impl Round {
    fn new(seed: u64) -> Self {
        let devices = Devices::new(&DEVICES);
        let address = devices.scene.url().trim_start_matches("http://").to_owned();
        // Never touched, so that no deletion is one of everything.
        devices.scene.write("da/stays", "stays");
        Self {
            devices,
            address,
            random: fastrand::Rng::with_seed(seed),
            agents: BTreeMap::new(),
            serves: true,
            saved: BTreeMap::from([("stays".to_owned(), 0)]),
            given_up: BTreeSet::new(),
            log: vec![format!("seed {seed}")],
        }
    }

    fn top(&self, device: &str) -> PathBuf {
        self.devices.scene.path(&dir(device))
    }

    fn one_of(&mut self, of: &[&'static str]) -> &'static str {
        of[self.random.usize(..of.len())]
    }

    /// Chooses a name: mostly one of a few, else one that is there, such as that of a copy.
    fn name(&mut self, device: &str) -> String {
        if self.random.u8(..4) > 0 {
            return self.one_of(&NAMES).to_owned();
        }
        let there = values_in(&self.top(device), false);
        let names: Vec<_> = there.keys().filter(|name| *name != Path::new("stays")).collect();
        match names.len() {
            0 => self.one_of(&NAMES).to_owned(),
            count => names[self.random.usize(..count)].to_string_lossy().into_owned(),
        }
    }

    fn save(&mut self, step: usize, device: &'static str) -> String {
        let name = self.name(device);
        let path = self.top(device).join(&name);
        let seen = value_at(&path);
        let value = format!("value {step} of {device}");
        let way = self.random.u8(..8);
        let made = std::fs::create_dir_all(path.parent().unwrap()).and_then(|()| {
            let beside = path.with_extension("saving");
            match way {
                // Over a link it writes to where that leads.
                0..=2 if !path.is_symlink() => std::fs::write(&path, &value),
                // Away with the old one first.
                3 if seen.is_some() => {
                    std::fs::rename(&path, path.with_extension("old"))?;
                    std::fs::write(&path, &value)?;
                    std::fs::remove_file(path.with_extension("old"))
                }
                4 => {
                    std::os::unix::fs::symlink(&value, &beside)?;
                    std::fs::rename(&beside, &path)
                }
                _ => {
                    std::fs::write(&beside, &value)?;
                    std::fs::rename(&beside, &path)
                }
            }
        });
        let did = format!("save {name} over {seen:?} in way {way}: {made:?}");
        if made.is_ok() {
            self.saved.insert(value, step);
            self.given_up.extend(seen);
        } else {
            // What it had put aside or beside is in the tree, or was never saved.
            let _ = std::fs::remove_file(path.with_extension("saving"));
        }
        did
    }

    fn remove(&mut self, device: &str) -> String {
        if self.random.u8(..3) == 0 {
            let folder = self.one_of(&FOLDERS);
            let path = self.top(device).join(folder);
            let seen = values_in(&path, false);
            let done = std::fs::remove_dir_all(&path);
            // Also if it got only half way: what is gone was seen.
            self.given_up.extend(seen.values().cloned());
            return format!("remove the folder {folder} with {seen:?}: {done:?}");
        }
        let name = self.name(device);
        let path = self.top(device).join(&name);
        let seen = value_at(&path);
        let done = std::fs::remove_file(&path);
        let did = format!("delete {name} with {seen:?}: {done:?}");
        if done.is_ok() {
            self.given_up.extend(seen);
        }
        did
    }

    fn rename(&mut self, device: &str) -> String {
        let top = self.top(device);
        match self.random.u8(..5) {
            0..=1 => {
                let (name, other) = (self.name(device), self.name(device));
                let (from, to) = (top.join(&name), top.join(&other));
                let over = value_at(&to);
                let done = if name == other { Ok(()) } else { std::fs::rename(from, &to) };
                if name != other && done.is_ok() {
                    self.given_up.extend(over.clone());
                }
                format!("rename {name} to {other} over {over:?}: {done:?}")
            }
            2..=3 => {
                let (folder, to) = (self.one_of(&FOLDERS), self.one_of(&FOLDERS));
                let into = self.random.bool();
                let last = Path::new(folder).file_name().unwrap();
                let to = if into { Path::new(to).join(last) } else { PathBuf::from(to) };
                let done = std::fs::rename(top.join(folder), top.join(&to));
                format!("rename the folder {folder} to {to:?}: {done:?}")
            }
            _ => {
                let (name, other) = (self.name(device), self.name(device));
                let (one, two) = (top.join(&name), top.join(&other));
                use rustix::fs::{CWD, RenameFlags};
                let done = rustix::fs::renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE);
                format!("swap {name} and {other}: {done:?}")
            }
        }
    }

    fn attributes(&mut self, device: &str) -> String {
        let name = self.name(device);
        let path = self.top(device).join(&name);
        if path.is_symlink() {
            return format!("leave the link {name}");
        }
        if self.random.bool() {
            let mode = [0o600, 0o640, 0o644, 0o755][self.random.usize(..4)];
            let done = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode));
            return format!("chmod {mode:o} {name}: {done:?}");
        }
        let back = Duration::from_secs(self.random.u64(0..100_000));
        let done = std::fs::File::options().append(true).open(&path);
        let done = done.and_then(|file| file.set_modified(SystemTime::now() - back));
        format!("touch {name} by {back:?}: {done:?}")
    }

    /// Runs another command on the replica.
    fn command(&mut self, step: usize, device: &'static str) -> String {
        let path = format!("/{}", self.name(device));
        let to = format!("/{}", self.name(device));
        let on = |args: &[&str]| {
            let ran = self.devices.scene.on(device, args);
            let said = ran.stderr.lines().next().unwrap_or_default().to_owned();
            (ran.code, format!("{args:?}: {} {said}", ran.code))
        };
        // What it replaces or deletes is what its replica shows, which nobody else may have seen yet.
        let seen = || {
            let ran = self.devices.scene.on(device, &["cat", &path]);
            (ran.code == 0).then_some(ran.stdout)
        };
        match self.random.u8(..5) {
            0..=1 => {
                let value = format!("value {step} of {device} by command");
                self.devices.scene.write(&format!("put {device}"), &value);
                let seen = seen();
                let (code, did) = on(&["put", &format!("put {device}"), &path]);
                if code == 0 {
                    self.saved.insert(value, step);
                    self.given_up.extend(seen.clone());
                }
                format!("over {seen:?}: {did}")
            }
            2 => on(&["mv", &path, &to]).1,
            3 => {
                let seen = seen();
                let (code, did) = on(&["rm", &path]);
                if code == 0 {
                    self.given_up.extend(seen.clone());
                }
                format!("with {seen:?}: {did}")
            }
            _ => {
                let trash = self.devices.scene.on(device, &["--json", "trash"]);
                let trash: serde_json::Value =
                    serde_json::from_str(&trash.stdout).unwrap_or_default();
                match trash["items"][0]["id"].as_str() {
                    Some(id) => on(&["trash", "restore", id]).1,
                    None => "restore nothing".to_owned(),
                }
            }
        }
    }

    fn step(&mut self, step: usize) {
        let device = self.one_of(&DEVICES);
        let did = match self.random.u8(..40) {
            0..=13 => self.save(step, device),
            14..=17 => self.remove(device),
            18..=22 => self.rename(device),
            23..=24 => self.attributes(device),
            25..=27 => self.command(step, device),
            28..=29 => {
                self.agents.remove(device);
                "kill the agent".to_owned()
            }
            30..=34 => {
                if !self.agents.contains_key(device) {
                    self.agents.insert(device, self.devices.up(device));
                }
                "start the agent".to_owned()
            }
            35 => {
                let what = self.one_of(&["pause", "resume"]);
                let ran = self.devices.scene.on(device, &["folder", what, &dir(device)]);
                format!("{what} the folder: {}", ran.code)
            }
            _ => {
                self.serve(!self.serves);
                format!("the server runs: {}", self.serves)
            }
        };
        self.log.push(format!("{step} {device}: {did}"));
        // The pace of people and programs: sometimes faster than the agents, sometimes slower.
        let pause = if self.random.u8(..4) == 0 { 1_200 } else { 250 };
        std::thread::sleep(Duration::from_millis(self.random.u64(0..pause)));
    }

    fn serve(&mut self, serves: bool) {
        if serves && !self.serves {
            self.devices.scene.start_server(&self.address);
        } else if !serves {
            self.devices.scene.stop_server();
        }
        self.serves = serves;
    }

    /// Starts all agents, and waits until the directories are equal and in step.
    fn settle(&mut self) -> Result<(), String> {
        for device in DEVICES {
            if !self.agents.contains_key(device) {
                self.agents.insert(device, self.devices.up(device));
            }
        }
        let (until, mut since) = (Instant::now() + PATIENCE, Instant::now());
        // For a second: each agent has noticed what it wrote itself.
        while since.elapsed() < Duration::from_secs(1) {
            std::thread::sleep(Duration::from_millis(250));
            let states = DEVICES.map(|device| self.devices.state(device));
            let found = DEVICES.map(|device| entries(&self.top(device)).ok());
            let equal = found[0].is_some() && found.iter().all(|one| *one == found[0]);
            if !(equal && states.iter().all(|state| state["state"] == "inStep")) {
                since = Instant::now();
            }
            if Instant::now() > until {
                let [a, b, c] = found.map(Option::unwrap_or_default);
                let differ = (differing(&a, &b), differing(&a, &c));
                return Err(format!("never in step: {differ:#?}\n{states:#?}"));
            }
            // Deletions of most entries wait for a word, which the user gives.
            for (device, state) in DEVICES.iter().zip(&states) {
                if !state["held"].is_null() {
                    let on = |args: &[&str]| self.devices.scene.on(device, args);
                    on(&["folder", "confirm-deletions", &dir(device), "--yes"]);
                    since = Instant::now();
                }
            }
        }
        Ok(())
    }

    /// The values that are in some device's directory, or in its trash.
    fn present(&self) -> BTreeSet<String> {
        let on_disk = DEVICES.iter().flat_map(|device| values_in(&self.top(device), true));
        on_disk.map(|(_, value)| value).collect()
    }

    /// The values of earlier versions of all files in the tree.
    fn versions(&self) -> BTreeSet<String> {
        let on = |args: &[&str]| self.devices.scene.on("a", args);
        let tree = on(&["--json", "tree", "/"]).json();
        let mut found = BTreeSet::new();
        for entry in tree["entries"].as_array().unwrap() {
            if entry["type"] != "file" {
                continue;
            }
            let path = format!("/{}", entry["path"].as_str().unwrap());
            let list = on(&["--json", "versions", &path]);
            let Ok(list) = serde_json::from_str::<serde_json::Value>(&list.stdout) else {
                continue;
            };
            for number in 1..=list["versions"].as_array().map_or(0, Vec::len) {
                let number = number.to_string();
                found.insert(on(&["get", &path, "-", "--version", &number]).stdout);
            }
        }
        found
    }

    fn lost(&self, present: &BTreeSet<String>) -> Vec<String> {
        let saved = self.saved.keys();
        let lost = saved.filter(|one| !self.given_up.contains(*one) && !present.contains(*one));
        lost.cloned().collect()
    }

    fn check(&mut self) -> Result<(), String> {
        self.serve(true);
        for device in DEVICES {
            self.devices.scene.on(device, &["folder", "resume"]);
        }
        self.settle()?;
        for (device, agent) in std::mem::take(&mut self.agents) {
            let code = agent.interrupt();
            // One that was about to look once more may say so; then that look finds nothing.
            let again = if code == 5 { self.devices.once(device).code } else { code };
            if again != 0 {
                return Err(format!("in step, and yet {device} ended with {code}, {again}"));
            }
        }
        let mut present = self.present();
        if self.lost(&present).is_empty() {
            return Ok(());
        }
        // A value that an agent had just replaced by another before a program saved over it is an
        // earlier version; one whose file others deleted meanwhile is in the trash.
        present.extend(self.versions());
        for _ in 0..3 {
            if self.lost(&present).is_empty() {
                return Ok(());
            }
            // A folder comes back with what was deleted in it, or before it.
            let trash = self.devices.scene.on("a", &["--json", "trash"]).expect(0).json();
            for entry in trash["items"].as_array().unwrap() {
                let id = entry["id"].as_str().unwrap();
                self.devices.scene.on("a", &["trash", "restore", id]);
            }
            self.settle()?;
            present.extend(self.present());
            present.extend(self.versions());
        }
        match self.lost(&present) {
            lost if lost.is_empty() => Ok(()),
            lost => Err(format!("lost: {lost:?}")),
        }
    }

    /// Runs one round; returns what was wrong, with its log.
    fn run(seed: u64) -> Option<String> {
        let began = Instant::now();
        let mut round = Self::new(seed);
        for step in 0..STEPS {
            round.step(step);
        }
        let stepped = began.elapsed();
        let checked = round.check();
        println!("seed {seed}: {stepped:?}, {:?}", began.elapsed());
        let wrong = checked.err()?;
        let tops = DEVICES.map(|device| values_in(&round.top(device), false));
        let kept = round.devices.scene.dir.path().to_owned();
        let text = format!("{wrong}\n{}\n{tops:#?}\n{}", round.log.join("\n"), kept.display());
        if std::env::var_os("VFS_SYNC_TEST_LIVE_KEEP").is_some() {
            round.agents.clear();
            round.devices.scene.stop_server();
            std::mem::forget(round);
        }
        Some(text)
    }
}

#[test]
fn no_saved_value_is_lost_whatever_programs_agents_and_server_do() {
    let first = number("VFS_SYNC_TEST_LIVE_SEED", 0);
    let rounds = number("VFS_SYNC_TEST_LIVE_ROUNDS", 20);
    let (next, wrong) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + rounds {
                        return;
                    }
                    let ran = std::panic::catch_unwind(|| Round::run(seed));
                    let failed = || Some(format!("seed {seed} panicked"));
                    if let Some(text) = ran.unwrap_or_else(|_| failed()) {
                        wrong.lock().unwrap().push((seed, text));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    let seeds: Vec<_> = wrong.iter().map(|(seed, _)| seed).collect();
    let texts: Vec<_> = wrong.iter().map(|(_, text)| text.as_str()).collect();
    assert!(wrong.is_empty(), "{} of {rounds}: {seeds:?}\n{}", wrong.len(), texts.join("\n\n"));
}
