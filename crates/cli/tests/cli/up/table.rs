//! Every pair of changes to one small tree, one made here and one elsewhere, against a model that
//! states what must become of them. Each pair has a folder of its own, so that a few runs of `up`
//! decide all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Devices, PATIENCE, dir, wait_until};
use crate::support::signal;

/// An entry of the small tree, by its first path.
type Item = &'static str;

/// The folders and files that each pair begins with; a file's text is its path.
const FIRST: [(Item, bool); 8] = [
    ("d", true),
    ("d/h", false),
    ("d/s", true),
    ("d/s/j", false),
    ("f", false),
    ("g", false),
    ("k", true),
    ("k/i", false),
];

/// One user's change on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Nothing,
    /// Another text of its own, in place.
    Edit(Item),
    /// Another text of its own, by a new file that is renamed over it.
    Replace(Item),
    /// The same text on both sides.
    EditAlike(Item),
    Mode(Item),
    Delete(Item),
    Move(Item, &'static str),
    /// A file over another file: that one gets the text, the moved one is deleted.
    MoveOver(Item, Item),
    Swap(Item, Item),
    /// A new file with a text of its own.
    Create(&'static str),
    CreateAlike(&'static str),
    /// A new folder with a new file in it.
    CreateFolder(&'static str),
    /// A file becomes a folder with a file in it.
    IntoFolder(Item),
    /// A folder becomes a file.
    IntoFile(Item),
}

use Change::{
    Create, CreateAlike, CreateFolder, Delete, Edit, EditAlike, IntoFile, IntoFolder, Mode, Move,
    MoveOver, Nothing, Replace, Swap,
};

const CHANGES: [Change; 34] = [
    Nothing,
    Edit("f"),
    Replace("f"),
    EditAlike("f"),
    Mode("f"),
    Delete("f"),
    Move("f", "n"),
    Move("f", "m"),
    Move("f", "d/f"),
    Move("f", "k/f"),
    MoveOver("f", "g"),
    MoveOver("g", "f"),
    Swap("f", "g"),
    IntoFolder("f"),
    Create("n"),
    CreateAlike("n"),
    CreateFolder("n"),
    Edit("d/h"),
    Delete("d/h"),
    Move("d/h", "h"),
    Move("d/h", "d/n"),
    Create("d/n"),
    CreateFolder("d/n"),
    Delete("d"),
    Delete("d/s"),
    Move("d", "e"),
    Move("d", "n"),
    Move("d", "k/d"),
    Move("k", "d/k"),
    Move("d/s", "s"),
    Move("d/s", "k/s"),
    IntoFile("d"),
    Edit("d/s/j"),
    Mode("d/s/j"),
];

impl Change {
    /// Makes the change in `top`, in the name of `who`.
    fn make(self, top: &Path, who: &str) {
        let at = |path: &str| top.join(path);
        let text = |path: &str| format!("{path} of {who}");
        match self {
            Nothing => {}
            Edit(item) => std::fs::write(at(item), text(item)).unwrap(),
            Replace(item) => {
                std::fs::write(at("saving"), text(item)).unwrap();
                std::fs::rename(at("saving"), at(item)).unwrap();
            }
            EditAlike(item) => std::fs::write(at(item), "alike").unwrap(),
            Mode(item) => {
                let mode = std::fs::Permissions::from_mode(0o600);
                std::fs::set_permissions(at(item), mode).unwrap();
            }
            Delete(item) if at(item).is_dir() => std::fs::remove_dir_all(at(item)).unwrap(),
            Delete(item) => std::fs::remove_file(at(item)).unwrap(),
            Move(item, to) | MoveOver(item, to) => std::fs::rename(at(item), at(to)).unwrap(),
            Swap(one, other) => {
                std::fs::rename(at(one), at("aside")).unwrap();
                std::fs::rename(at(other), at(one)).unwrap();
                std::fs::rename(at("aside"), at(other)).unwrap();
            }
            Create(path) => std::fs::write(at(path), text(path)).unwrap(),
            CreateAlike(path) => std::fs::write(at(path), "alike").unwrap(),
            CreateFolder(path) => {
                std::fs::create_dir(at(path)).unwrap();
                std::fs::write(at(path).join("x"), text(path)).unwrap();
            }
            IntoFolder(item) => {
                std::fs::remove_file(at(item)).unwrap();
                std::fs::create_dir(at(item)).unwrap();
                std::fs::write(at(item).join("x"), text(item)).unwrap();
            }
            IntoFile(item) => {
                std::fs::remove_dir_all(at(item)).unwrap();
                std::fs::write(at(item), text(item)).unwrap();
            }
        }
    }
}

impl Change {
    /// Returns whether the change deletes an item.
    fn deletes(self, number: usize) -> bool {
        Model::effects(self, "").iter().any(|effect| match effect {
            Effect::Gone(item) => Model::new().is_under(number, *item),
            _ => false,
        })
    }
}

/// An item of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    /// The folder that holds it; `None`: the pair's own.
    parent: Option<usize>,
    name: String,
    /// The text of a file; `None`: a folder.
    text: Option<String>,
    gone: bool,
    /// True if the first change touched it.
    touched: bool,
}

/// The small tree: the items that it began with, and those that were made.
#[derive(Debug, Clone)]
struct Model(Vec<Node>);

/// The effect of a change on items, as its author saw them.
enum Effect {
    Text(usize, String),
    Touch(usize),
    Place(usize, Option<usize>, String),
    Gone(usize),
    Made(Option<usize>, String, Option<String>, Option<(String, String)>),
}

impl Model {
    fn new() -> Self {
        let mut nodes: Vec<Node> = Vec::new();
        for (path, folder) in FIRST {
            let (parent, name) = place(path);
            nodes.push(Node {
                parent,
                name,
                text: (!folder).then(|| path.to_owned()),
                gone: false,
                touched: false,
            });
        }
        Self(nodes)
    }

    /// The effects of a change on the first tree.
    fn effects(change: Change, who: &str) -> Vec<Effect> {
        let text = |path: &str| format!("{path} of {who}");
        let made = |path: &str, text: Option<String>, inside: Option<(String, String)>| {
            let (parent, name) = place(path);
            Effect::Made(parent, name, text, inside)
        };
        match change {
            Nothing => vec![],
            Edit(item) | Replace(item) => vec![Effect::Text(index(item), text(item))],
            EditAlike(item) => vec![Effect::Text(index(item), "alike".to_owned())],
            Mode(item) => vec![Effect::Touch(index(item))],
            Delete(item) => vec![Effect::Gone(index(item))],
            Move(item, to) => {
                let (parent, name) = place(to);
                vec![Effect::Place(index(item), parent, name)]
            }
            MoveOver(item, over) => {
                vec![Effect::Text(index(over), item.to_owned()), Effect::Gone(index(item))]
            }
            Swap(one, other) => {
                let ((a, b), (c, d)) = (place(one), place(other));
                vec![Effect::Place(index(one), c, d), Effect::Place(index(other), a, b)]
            }
            Create(path) => vec![made(path, Some(text(path)), None)],
            CreateAlike(path) => vec![made(path, Some("alike".to_owned()), None)],
            CreateFolder(path) => vec![made(path, None, Some(("x".to_owned(), text(path))))],
            IntoFolder(item) => vec![
                Effect::Gone(index(item)),
                made(item, None, Some(("x".to_owned(), text(item)))),
            ],
            IntoFile(item) => {
                vec![Effect::Gone(index(item)), made(item, Some(text(item)), None)]
            }
        }
    }

    fn push(&mut self, parent: Option<usize>, name: String, text: Option<String>) -> usize {
        self.0.push(Node { parent, name, text, gone: false, touched: true });
        self.0.len() - 1
    }

    fn make(
        &mut self,
        parent: Option<usize>,
        name: String,
        text: Option<String>,
        inside: Option<(String, String)>,
    ) {
        let new = self.push(parent, name, text);
        if let Some((name, text)) = inside {
            self.push(Some(new), name, Some(text));
        }
    }

    fn is_under(&self, mut at: usize, above: usize) -> bool {
        loop {
            if at == above {
                return true;
            }
            match self.0[at].parent {
                Some(parent) => at = parent,
                None => return false,
            }
        }
    }

    /// The change that came first: nobody else had changed anything.
    fn first(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Text(item, text) => {
                    self.0[item].touched = true;
                    self.0[item].text = Some(text);
                }
                Effect::Touch(item) => self.0[item].touched = true,
                Effect::Place(item, parent, name) => {
                    self.0[item].touched = true;
                    (self.0[item].parent, self.0[item].name) = (parent, name);
                }
                Effect::Gone(item) => {
                    for under in 0..FIRST.len() {
                        if self.is_under(under, item) {
                            self.0[under].gone = true;
                        }
                    }
                }
                Effect::Made(parent, name, text, inside) => self.make(parent, name, text, inside),
            }
        }
    }

    /// Brings back an item with the folders above it.
    fn revive(&mut self, item: usize) {
        let mut at = Some(item);
        while let Some(item) = at {
            self.0[item].gone = false;
            at = self.0[item].parent;
        }
    }

    /// The change of somebody who had only seen the first tree. A folder that one side moved and the
    /// other one deleted lives on, `whole` or without what nobody else changed in it.
    fn second(&mut self, effects: Vec<Effect>, whole: bool) {
        let first = Self::new();
        for effect in effects {
            match effect {
                Effect::Text(item, text) => {
                    let node = &self.0[item];
                    if node.text != first.0[item].text && node.text.as_ref() != Some(&text) {
                        let (parent, name) = (node.parent, node.name.clone());
                        let copy = self.push(parent, name, Some(text));
                        self.revive(copy);
                    } else {
                        self.0[item].text = Some(text);
                        self.revive(item);
                    }
                }
                Effect::Touch(item) => self.revive(item),
                Effect::Place(item, parent, name) => {
                    // A new folder and a new name are two changes, each of which holds.
                    let cycle = parent.is_some_and(|parent| self.is_under(parent, item));
                    let was_gone = whole && self.0[item].gone;
                    if first.0[item].parent != parent && !cycle {
                        self.0[item].parent = parent;
                    }
                    if first.0[item].name != name {
                        self.0[item].name = name;
                    }
                    self.revive(item);
                    // A folder that was deleted and moved comes back with what was in it.
                    for under in 0..FIRST.len() {
                        let is_in_it = self.is_under(under, item) && first.is_under(under, item);
                        if was_gone && is_in_it {
                            self.revive(under);
                        }
                    }
                }
                Effect::Gone(item) => self.delete(item, &first, whole),
                Effect::Made(parent, name, text, inside) => {
                    self.make(parent, name, text, inside);
                    if let Some(parent) = parent {
                        self.revive(parent);
                    }
                }
            }
        }
    }

    /// Deletes an item as its author saw it: what the other changed lives on, with the folders above it.
    fn delete(&mut self, item: usize, first: &Self, whole: bool) {
        if whole && self.0[item].touched {
            return;
        }
        let was_there: Vec<usize> =
            (0..FIRST.len()).filter(|one| first.is_under(*one, item)).collect();
        let lives = |model: &Self, one: usize| !model.0[one].gone;
        let stay: Vec<usize> = (0..self.0.len())
            .filter(|one| lives(self, *one) && self.is_under(*one, item))
            .filter(|one| {
                let mut at = Some(*one);
                while let Some(one) = at {
                    if self.0[one].touched {
                        return true;
                    }
                    at = self.0[one].parent.filter(|_| whole && one != item);
                }
                false
            })
            .collect();
        for one in was_there {
            if self.is_under(one, item) {
                self.0[one].gone = true;
            }
        }
        for one in stay {
            self.revive(one);
        }
    }

    /// The paths with the texts of all files, and the empty folders. Folders of one name are one, so
    /// are files of one name and text.
    fn paths(&self) -> BTreeSet<(String, Option<String>)> {
        let mut found = BTreeSet::new();
        for (number, node) in self.0.iter().enumerate().filter(|(_, node)| !node.gone) {
            found.insert((self.path(number), node.text.clone()));
        }
        found
    }

    fn path(&self, number: usize) -> String {
        let node = &self.0[number];
        match node.parent {
            Some(parent) => format!("{}/{}", self.path(parent), node.name),
            None => node.name.clone(),
        }
    }
}

/// The ids of all items by path.
fn ids(devices: &Devices) -> BTreeMap<String, String> {
    let tree = devices.scene.on("a", &["--json", "tree", "/"]).expect(0).json();
    let entries = tree["entries"].as_array().unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    entries.iter().map(|one| (text(&one["path"]), text(&one["id"]))).collect()
}

fn index(item: &str) -> usize {
    FIRST.iter().position(|(path, _)| *path == item).unwrap()
}

fn place(path: &str) -> (Option<usize>, String) {
    match path.rsplit_once('/') {
        Some((parent, name)) => (Some(index(parent)), name.to_owned()),
        None => (None, path.to_owned()),
    }
}

/// A name without what marks a conflicted copy.
fn plain(path: &str) -> String {
    let names = path.split('/').map(|name| match name.find(" (conflict ") {
        Some(end) => {
            let rest = &name[end..];
            let rest = rest.find(')').map_or("", |close| &rest[close + 1..]);
            format!("{}{rest}", &name[..end])
        }
        None => name.to_owned(),
    });
    names.collect::<Vec<_>>().join("/")
}

/// The names under a folder, as they are, each with its text; `None`: a folder. An agent may be
/// changing them.
fn names(top: &Path) -> BTreeMap<String, Option<String>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(top.join(&folder)).into_iter().flatten().flatten() {
            let path = folder.join(entry.file_name());
            let text = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => {
                    folders.push(path.clone());
                    None
                }
                false => Some(std::fs::read_to_string(entry.path()).unwrap_or_default()),
            };
            found.insert(path.to_string_lossy().into_owned(), text);
        }
    }
    found
}

/// Two devices with a folder for each pair of changes: one made on "a", the other on "b".
struct Pairs {
    devices: Devices,
    pairs: Vec<(String, Change, Change)>,
}

impl Pairs {
    /// Both devices have the first tree in the folder of each of these pairs.
    fn new(is_one: impl Fn(usize) -> bool) -> Self {
        let devices = Devices::new(&["a", "b"]);
        let mut pairs = Vec::new();
        for (i, here) in CHANGES.into_iter().enumerate() {
            for (j, there) in CHANGES.into_iter().enumerate() {
                pairs.push((format!("{i:02}-{j:02}"), here, there));
            }
        }
        let mut number = 0..;
        pairs.retain(|_| number.next().is_some_and(&is_one));
        let all = Self { devices, pairs };
        for (pair, ..) in &all.pairs {
            for (path, folder) in FIRST {
                let path_at = all.at("a", pair).join(path);
                match folder {
                    true => std::fs::create_dir_all(path_at).unwrap(),
                    false => std::fs::write(path_at, path).unwrap(),
                }
            }
        }
        all.devices.settle(&["a", "b"]);
        all
    }

    fn at(&self, device: &str, pair: &str) -> PathBuf {
        self.devices.scene.path(&format!("{}/{pair}", dir(device)))
    }

    fn make_changes(&self) {
        for (pair, here, there) in &self.pairs {
            there.make(&self.at("b", pair), "b");
            here.make(&self.at("a", pair), "a");
        }
    }

    /// Returns what is wrong: both devices must have what one of the models has.
    fn wrong(&self, models: impl Fn(Change, Change) -> Vec<Model>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (pair, here, there) in &self.pairs {
            let (a, b) = (names(&self.at("a", pair)), names(&self.at("b", pair)));
            let found: BTreeSet<_> =
                a.iter().map(|(path, text)| (plain(path), text.clone())).collect();
            let models = models(*here, *there);
            if a != b {
                wrong.push(format!("{there:?}, then {here:?}: on the devices {a:?} and {b:?}"));
            } else if models.iter().all(|model| found != model.paths()) {
                let model = models[0].paths();
                let lacks: Vec<_> = model.difference(&found).collect();
                let more: Vec<_> = found.difference(&model).collect();
                wrong.push(format!("{there:?}, then {here:?}: lacks {lacks:?}, has {more:?}"));
            }
        }
        wrong
    }

    #[track_caller]
    fn expect(&self, wrong: &[String]) {
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), self.pairs.len(), wrong.join("\n"));
    }
}

/// The model of two changes of which the second one's author had not seen the first.
fn model((one, by): (Change, &str), (two, other): (Change, &str), whole: bool) -> Model {
    let mut model = Model::new();
    model.first(Model::effects(one, by));
    model.second(Model::effects(two, other), whole);
    model
}

#[test]
fn every_pair_of_changes_becomes_what_the_table_says() {
    let all = Pairs::new(|_| true);
    let devices = &all.devices;
    let first_ids = ids(devices);
    all.make_changes();
    devices.once("b").expect(0);
    let ends = ["a", "b", "a", "b", "a", "b"].map(|device| devices.once(device));
    let last_ids = ids(devices);
    let mut wrong = all.wrong(|here, there| vec![model((there, "b"), (here, "a"), true)]);
    for end in &ends[2..] {
        if end.code != 0 {
            let said: Vec<_> = end.stderr.lines().rev().take(20).collect();
            wrong.push(format!("not in step: {said:#?}"));
        }
    }
    for (pair, here, there) in &all.pairs {
        let model = model((*there, "b"), (*here, "a"), true);
        for (number, (first, _)) in FIRST.iter().enumerate() {
            let path = model.path(number);
            let alone = model.0.iter().enumerate().filter(|(_, node)| !node.gone);
            let alone = alone.filter(|(other, _)| model.path(*other) == path).count() == 1;
            // What one side deleted is made anew if the other one's change lets it live on.
            let was_deleted = [here, there].iter().any(|change| change.deletes(number));
            if model.0[number].gone || was_deleted || !alone {
                continue;
            }
            let was = &first_ids[&format!("{pair}/{first}")];
            // It may be in a folder whose name marks a conflicted copy.
            if last_ids.get(&format!("{pair}/{path}")).is_some_and(|is| is != was) {
                wrong.push(format!("{there:?}, then {here:?}: another item is at {path}"));
            }
        }
    }
    all.expect(&wrong);
}

/// A third of the pairs; all of them with `VFS_SYNC_TEST_ALL_PAIRS`.
#[test]
fn every_pair_of_changes_joins_between_agents_that_run() {
    let (all_of_them, deleted, nothing) = (
        std::env::var_os("VFS_SYNC_TEST_ALL_PAIRS").is_some(),
        CHANGES.iter().position(|change| *change == Delete("f")).unwrap(),
        CHANGES.iter().position(|change| *change == Nothing).unwrap(),
    );
    let number = |here: usize, there: usize| here * CHANGES.len() + there;
    let waited_for = [number(deleted, nothing), number(nothing, deleted)];
    let mut all = Pairs::new(|pair| all_of_them || pair % 3 == 0 || waited_for.contains(&pair));
    let agents = ["a", "b"].map(|device| all.devices.up(device));
    let in_step = |all: &Pairs, device: &str| {
        let list = all.devices.scene.on(device, &["--json", "folder", "list"]).json();
        list["folders"][0]["state"] == "inStep"
    };
    for device in ["a", "b"] {
        wait_until("the agent has begun", || in_step(&all, device));
    }
    let url = all.devices.scene.url().trim_start_matches("http://").to_owned();
    all.devices.scene.stop_server();
    // No look comes between the steps of a change.
    agents.iter().for_each(|agent| signal(&agent.child, "STOP"));
    all.make_changes();
    agents.iter().for_each(|agent| signal(&agent.child, "CONT"));
    // Found after the other changes of the same look, and after a second look.
    for (device, pair) in [("a", (deleted, nothing)), ("b", (nothing, deleted))] {
        let pair = format!("/{:02}-{:02}", pair.0, pair.1);
        wait_until("the changes are queued", || {
            let list = all.devices.scene.on(device, &["--json", "ls", &pair]).expect(0).json();
            list["entries"].as_array().unwrap().iter().all(|one| one["name"] != "f")
        });
    }
    all.devices.scene.start_server(&url);
    let models = |here, there| {
        let (there, here) = ((there, "b"), (here, "a"));
        let both = |whole| [model(there, here, whole), model(here, there, whole)];
        [true, false].into_iter().flat_map(both).collect()
    };

    let until = Instant::now() + PATIENCE * 2;
    let mut wrong = all.wrong(models);
    while !wrong.is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(200));
        wrong = all.wrong(models);
    }
    if !wrong.is_empty() {
        for device in ["a", "b"] {
            let on = |args: &[&str]| all.devices.scene.on(device, args);
            wrong.push(format!("{:?} {:?}", on(&["status"]), on(&["folder", "problems"])));
        }
    }
    drop(agents);
    all.expect(&wrong);
}
