//! Random programs on several devices, with agents that are killed and a server that comes and
//! goes; after the published model "Mysteries of Dropbox" (Hughes, Pierce, Arts and Norell): each
//! value that was ever saved must in the end be somewhere, unless somebody who had it in front of
//! them replaced or deleted it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::{Devices, Up, dir};

const DEVICES: [&str; 3] = ["a", "b", "c"];
const NAMES: [&str; 4] = ["f", "g", "in/f", "in/deep/h"];
const STEPS: usize = 40;

/// The number of rounds, each with a seed of its own: more with the variable.
fn rounds() -> u64 {
    let given = std::env::var("VFS_SYNC_TEST_LIVE_ROUNDS").ok();
    given.map_or(2, |given| given.parse().expect("VFS_SYNC_TEST_LIVE_ROUNDS is a number"))
}

struct Round {
    devices: Devices,
    random: fastrand::Rng,
    agents: BTreeMap<&'static str, Up>,
    /// Every value that was saved, with its step.
    saved: BTreeMap<String, usize>,
    /// The values that somebody replaced or deleted with the value in front of them.
    given_up: BTreeSet<String>,
    log: Vec<String>,
}

impl Round {
    fn path(&self, device: &str, name: &str) -> PathBuf {
        self.devices.scene.path(&format!("{}/{name}", dir(device)))
    }

    fn step(&mut self, step: usize) {
        let device = DEVICES[self.random.usize(..DEVICES.len())];
        let name = NAMES[self.random.usize(..NAMES.len())];
        let path = self.path(device, name);
        let seen = std::fs::read_to_string(&path).ok();
        let mut did = format!("{step} {device}: ");
        match self.random.u8(..20) {
            0..=8 => {
                let value = format!("value {step} of {device}");
                let in_place = self.random.bool();
                let made = std::fs::create_dir_all(path.parent().unwrap()).and_then(|()| {
                    if in_place {
                        return std::fs::write(&path, &value);
                    }
                    let beside = path.with_extension("saving");
                    std::fs::write(&beside, &value)?;
                    std::fs::rename(&beside, &path)
                });
                did.push_str(&format!("save {name} over {seen:?}: {made:?}"));
                if made.is_ok() {
                    self.saved.insert(value, step);
                    self.given_up.extend(seen);
                }
            }
            9..=10 => {
                did.push_str(&format!("delete {name} with {seen:?}"));
                if std::fs::remove_file(&path).is_ok() {
                    self.given_up.extend(seen);
                }
            }
            11..=12 => {
                let other = NAMES[self.random.usize(..NAMES.len())];
                let to = self.path(device, other);
                let over = std::fs::read_to_string(&to).ok();
                did.push_str(&format!("rename {name} to {other} over {over:?}"));
                if other != name && std::fs::rename(&path, &to).is_ok() {
                    self.given_up.extend(over);
                }
            }
            13 => {
                let (from, to) = (self.path(device, "in"), self.path(device, "moved"));
                did.push_str("rename the folder in");
                let _ = std::fs::rename(from, to);
            }
            14..=15 => {
                did.push_str("kill the agent");
                self.agents.remove(device);
            }
            16..=18 => {
                did.push_str("start the agent");
                if !self.agents.contains_key(device) {
                    self.agents.insert(device, self.devices.up(device));
                }
            }
            _ => {
                did.push_str("the server goes and comes back");
                let url = self.devices.scene.url().trim_start_matches("http://").to_owned();
                self.devices.scene.stop_server();
                self.devices.scene.start_server(&url);
            }
        }
        self.log.push(did);
        // The pace of people and programs: sometimes faster than the agents, sometimes slower.
        std::thread::sleep(Duration::from_millis(self.random.u64(0..700)));
    }

    /// The values that are in some device's directory.
    fn present(&self) -> BTreeSet<String> {
        let files = DEVICES.iter().flat_map(|device| self.devices.files(device));
        files.map(|(_, text)| text).collect()
    }

    /// The values of earlier versions of all files in the tree.
    fn versions(&self) -> BTreeSet<String> {
        let on = |args: &[&str]| self.devices.scene.on("a", args);
        let mut found = BTreeSet::new();
        for (name, _) in self.devices.files("a") {
            let path = format!("/{name}");
            let list = on(&["--json", "versions", &path]).expect(0).json();
            for number in 1..=list["versions"].as_array().unwrap().len() {
                let number = number.to_string();
                let got = on(&["get", &path, "-", "--version", &number]).expect(0);
                found.insert(got.stdout);
            }
        }
        found
    }

    fn settle(&self) {
        for _ in 0..2 {
            self.devices.settle(&DEVICES);
        }
    }

    fn check(&mut self) {
        self.agents.clear();
        self.settle();
        let log = || self.log.join("\n");
        let first = self.devices.files("a");
        for device in &DEVICES[1..] {
            assert_eq!(first, self.devices.files(device), "{}", log());
        }
        let lacks = |present: &BTreeSet<String>| -> Vec<String> {
            let saved = self.saved.keys();
            let lost = saved.filter(|one| !self.given_up.contains(*one) && !present.contains(*one));
            lost.cloned().collect()
        };
        if lacks(&self.present()).is_empty() {
            return;
        }
        // A value that an agent had just replaced by another before a program saved over it is an
        // earlier version; one whose file others deleted meanwhile is in the trash.
        let mut present = self.present();
        present.extend(self.versions());
        if !lacks(&present).is_empty() {
            let trash = self.devices.scene.on("a", &["--json", "trash"]).expect(0).json();
            for entry in trash["entries"].as_array().unwrap() {
                let path = entry["path"].as_str().unwrap();
                self.devices.scene.on("a", &["trash", "restore", path]);
            }
            self.settle();
            present.extend(self.present());
            present.extend(self.versions());
        }
        assert_eq!(lacks(&present), [""; 0], "{}\n{first:#?}", log());
    }
}

#[test]
fn no_saved_value_is_lost_whatever_programs_agents_and_server_do() {
    for seed in 0..rounds() {
        let devices = Devices::new(&DEVICES);
        let random = fastrand::Rng::with_seed(seed);
        let (agents, saved) = (BTreeMap::new(), BTreeMap::new());
        let log = vec![format!("seed {seed}")];
        let mut round = Round { devices, random, agents, saved, given_up: BTreeSet::new(), log };
        for step in 0..STEPS {
            round.step(step);
        }
        round.check();
    }
}
