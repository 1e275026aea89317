//! Live folders by `up` as real processes: what is saved on one side appears on the other, and
//! nothing is lost when programs, the agent or the server fail.

mod confirm;
mod copies;
#[cfg(target_os = "linux")]
mod disks;
mod exclude;
mod ignore;
mod links;
mod moved;
mod mysteries;
mod pause;
mod programs;
mod refused;
mod service;
mod state;
mod stories;
mod table;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Ran, Scene, signal, tree_of};

/// The time within which what a test waits for must have happened.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `up`, which is killed when it is dropped; a test that fails shows what it said.
struct Up {
    child: Child,
    log: PathBuf,
    state: PathBuf,
}

impl Up {
    fn start(scene: &Scene, replica: &str, args: &[&str]) -> Self {
        let mut command = scene.command();
        command.args(["--json", "--replica", replica, "up"]).args(args);
        if !args.contains(&"--interval") {
            command.args(["--interval", "600"]);
        }
        let log = scene.path(&format!("{replica}.up.log"));
        let out = File::options().create(true).append(true).open(&log).unwrap();
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let state = scene.path(replica).join("live.json");
        Self { child: command.spawn().unwrap(), log, state }
    }

    /// Sends SIGINT; gives the exit code.
    fn interrupt(mut self) -> i32 {
        signal(&self.child, "INT");
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Up {
    #[expect(clippy::print_stderr, reason = "a test that failed tells why")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let read = |path| std::fs::read_to_string(path).unwrap_or_default();
            let (said, state) = (read(&self.log), read(&self.state));
            eprintln!("`up` ended: {:?}\n{said}\nits state: {state}", self.child.try_wait());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn has(path: &Path, text: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|found| found == text)
}

/// Alice's devices, each with a directory, and a server.
struct Devices {
    scene: Scene,
}

impl Devices {
    fn new(names: &[&str]) -> Self {
        let scene = Scene::with_server();
        for name in names {
            scene.replica(name);
            std::fs::create_dir(scene.path(&dir(name))).unwrap();
        }
        Self { scene }
    }

    fn up(&self, device: &str) -> Up {
        Up::start(&self.scene, device, &[&dir(device)])
    }

    fn once(&self, device: &str) -> Ran {
        self.scene.on(device, &["up", "--once", &dir(device)])
    }

    /// Brings all devices in step, one after the other.
    #[track_caller]
    fn settle(&self, devices: &[&str]) {
        for device in devices.iter().chain(devices) {
            self.once(device).expect(0);
        }
    }

    fn id(&self, device: &str, path: &str) -> String {
        let stat = self.scene.on(device, &["--json", "stat", path]).expect(0).json();
        stat["id"].as_str().unwrap().to_owned()
    }

    /// The state that `up` wrote of a device's directory: no command disturbs it.
    fn state(&self, device: &str) -> serde_json::Value {
        let state = std::fs::read(self.scene.path(device).join("live.json"));
        let state = state.ok().and_then(|state| serde_json::from_slice(&state).ok());
        state
            .map_or(serde_json::Value::Null, |state: serde_json::Value| state["folders"][0].clone())
    }

    /// The names and texts of a device's directory.
    fn files(&self, device: &str) -> Vec<(String, String)> {
        let top = self.scene.path(&dir(device));
        let files = tree_of(&top).into_iter().filter(|(_, what)| what.starts_with("file"));
        let read = |(path, _): (std::path::PathBuf, String)| {
            let text = std::fs::read(top.join(&path)).unwrap();
            (path.to_string_lossy().into_owned(), String::from_utf8_lossy(&text).into_owned())
        };
        files.map(read).collect()
    }
}

fn dir(device: &str) -> String {
    format!("d{device}")
}

#[test]
fn what_one_side_saves_moves_and_deletes_is_so_on_the_other() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    scene.write("da/notes/one.txt", "first");
    let (a, b) = (devices.up("a"), devices.up("b"));
    let (one, two) = (scene.path("db/notes/one.txt"), scene.path("da/from b.txt"));
    wait_until("the new file is there", || has(&one, "first"));
    scene.write("db/notes/one.txt", "second");
    scene.write("db/from b.txt", "b's");
    let edited = scene.path("da/notes/one.txt");
    wait_until("edits go back", || has(&edited, "second") && has(&two, "b's"));
    let id = devices.id("a", "/notes/one.txt");
    std::fs::rename(scene.path("da/notes"), scene.path("da/renamed")).unwrap();
    let moved = scene.path("db/renamed/one.txt");
    wait_until("it moves", || has(&moved, "second") && !scene.path("db/notes").exists());
    assert_eq!(devices.id("b", "/renamed/one.txt"), id, "the same item");
    std::fs::remove_dir_all(scene.path("db/renamed")).unwrap();
    wait_until("it is deleted", || !scene.path("da/renamed").exists());
    // Other commands work on the replica while `up` runs.
    scene.on("a", &["mkdir", "/by command"]).expect(0);
    for path in ["da/by command", "db/by command"].map(|path| scene.path(path)) {
        wait_until("a command's edit arrives", || path.is_dir());
    }
    drop((a, b));
    devices.settle(&["a", "b"]);
    assert_eq!(tree_of(&scene.path("da")), tree_of(&scene.path("db")));
}

#[test]
fn what_was_moved_elsewhere_is_renamed_here_and_not_written_again() {
    use std::os::unix::fs::MetadataExt as _;
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    scene.write("da/d/deep/one", "one");
    scene.write("da/two", "two");
    scene.write("da/three", "three");
    devices.settle(&["a", "b"]);
    let inode = |path: &str| std::fs::metadata(scene.path(path)).unwrap().ino();
    let before = ["db/d", "db/d/deep/one", "db/two", "db/three"].map(inode);
    scene.write("db/d/deep/unsent", "saved here meanwhile");
    std::fs::rename(scene.path("da/two"), scene.path("da/d/deep/two")).unwrap();
    std::fs::rename(scene.path("da/d"), scene.path("da/e")).unwrap();
    std::fs::rename(scene.path("da/three"), scene.path("da/3")).unwrap();
    devices.once("a").expect(0);
    devices.once("b").expect(0).says("moved: 3");
    let after = ["db/e", "db/e/deep/one", "db/e/deep/two", "db/3"].map(inode);
    assert_eq!(before, after);
    devices.settle(&["a", "b"]);
    assert_eq!(scene.read("da/e/deep/unsent"), "saved here meanwhile");
    assert_eq!(tree_of(&scene.path("da")), tree_of(&scene.path("db")));
}

/// The events of an `up` that wrote its output to `log`: the name of each, and how many entries it
/// found as they were.
fn events(log: &Path) -> Vec<(String, u64)> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    // The last line may be on its way; notes for people are no events.
    let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    lines
        .filter_map(|event: serde_json::Value| {
            let name = event["event"].as_str()?.to_owned();
            Some((name, event["more"]["unchanged"].as_u64().unwrap_or(0)))
        })
        .collect()
}

#[test]
fn one_change_looks_at_its_folder_and_at_nothing_else() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    for number in 0..300 {
        scene.write(&format!("da/d{}/deep/f{number}", number % 30), "text");
    }
    let agents = ["a", "b"].map(|device| devices.up(device));
    let logs = agents.each_ref().map(|agent| agent.log.clone());
    let is_in_step = |log: &Path| events(log).iter().any(|event| event.0 == "inStep");
    let there = scene.path("db/d29/deep/f299");
    wait_until("both have everything", || {
        has(&there, "text") && logs.iter().all(|log| is_in_step(log))
    });
    let edited = scene.path("db/d3/deep/f3");
    let edit = |text: &str| {
        scene.write("da/d3/deep/f3", text);
        wait_until("the edit is there", || has(&edited, text));
    };
    edit("once");
    let before = logs.each_ref().map(|log| events(log).len());
    edit("twice");
    std::fs::rename(scene.path("da/d4"), scene.path("da/d5/moved")).unwrap();
    scene.write("da/new/in/it", "new");
    let (moved, new) = (scene.path("db/d5/moved/deep/f4"), scene.path("db/new/in/it"));
    wait_until("the folder is moved", || has(&moved, "text") && has(&new, "new"));
    std::fs::remove_dir_all(scene.path("da/d6")).unwrap();
    wait_until("the folder is deleted", || !scene.path("db/d6").exists());
    for (log, before) in logs.iter().zip(before) {
        let since = events(log).split_off(before);
        let looked: u64 = since.iter().map(|(_, unchanged)| *unchanged).max().unwrap();
        // 39 are the folders at the top and those of a moved one; the tree has 660 entries.
        assert!(looked < 100, "{since:?}");
    }
    drop(agents);
    devices.settle(&["a", "b"]);
    assert_eq!(tree_of(&scene.path("da")), tree_of(&scene.path("db")));
}

#[test]
fn what_was_deleted_elsewhere_is_in_the_trash_of_the_directory() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    for name in ["da/in/deep/one", "da/in/two", "da/stays"] {
        scene.write(name, name);
    }
    devices.settle(&["a", "b"]);
    std::fs::remove_dir_all(scene.path("da/in")).unwrap();
    devices.settle(&["a", "b"]);
    assert!(!scene.path("db/in").exists());
    let list = || scene.on("b", &["--json", "folder", "trash", "list", "db"]).expect(0).json();
    let entries = list()["folders"][0]["entries"].clone();
    let paths: Vec<_> = entries.as_array().unwrap().iter().map(|one| &one["path"]).collect();
    assert_eq!(paths, ["in/deep/one", "in/two"]);
    // Not here: this user deleted it.
    let own = scene.on("a", &["--json", "folder", "trash", "list"]).expect(0).json();
    assert_eq!(own["folders"][0]["entries"].as_array().unwrap().len(), 0);
    let restore = |path: &str| scene.on("b", &["folder", "trash", "restore", "db", path]);
    restore("nowhere").expect(1).says("folder trash list");
    scene.write("db/in/two", "in its place now");
    restore("in").expect(0).says("restored in/deep/one").says("restored in/two (conflict ");
    restore("in").expect(1);
    devices.settle(&["b", "a"]);
    assert_eq!(scene.read("da/in/deep/one"), "da/in/deep/one");
    assert_eq!(scene.read("da/in/two"), "in its place now");
    assert_eq!(devices.files("a").len(), 4);
    assert_eq!(tree_of(&scene.path("da")), tree_of(&scene.path("db")));
}

#[test]
#[cfg(target_os = "linux")]
fn what_a_program_still_writes_to_a_replaced_file_comes_back() {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    scene.write("da/in/f", "first");
    devices.settle(&["a", "b"]);
    // Open for reading only: nothing shows that it will be written to.
    let program = std::fs::File::open(scene.path("db/in/f")).unwrap();
    scene.write("da/in/f", "second");
    devices.once("a").expect(0);
    devices.once("b").expect(0);
    assert_eq!(scene.read("db/in/f"), "second");
    let again = format!("/proc/self/fd/{}", program.as_raw_fd());
    let mut again = std::fs::OpenOptions::new().append(true).open(again).unwrap();
    again.write_all(b", and more").unwrap();
    drop((again, program));
    devices.once("b").expect(0).says("saved to a file after it was replaced");
    devices.settle(&["b", "a"]);
    let files = devices.files("a");
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(files[1].0.starts_with("in/f (conflict "), "{files:?}");
    assert_eq!((&*files[0].1, &*files[1].1), ("second", "first, and more"));
    assert_eq!(tree_of(&scene.path("da")), tree_of(&scene.path("db")));
}

#[test]
fn an_up_in_step_ends_with_success_and_one_with_work_left_does_not() {
    let mut devices = Devices::new(&["a", "b"]);
    devices.scene.write("da/f", "one");
    let a = devices.up("a");
    devices.scene.replica("look");
    wait_until("it is sent", || {
        devices.scene.on("look", &["sync"]).expect(0);
        devices.scene.on("look", &["cat", "/f"]).stdout == "one"
    });
    wait_until("it is in step", || devices.scene.on("a", &["status"]).code == 0);
    devices.once("b").expect(0);
    drop(a);
    devices.once("a").expect(0);
    assert_eq!(devices.files("b"), [("f".to_owned(), "one".to_owned())]);
    devices.scene.stop_server();
    devices.scene.write("da/f", "two");
    devices.once("a").expect(4).says("cannot be reached");
    // The edit is queued all the same.
    devices.scene.on("a", &["status"]).expect(5).says("waits");
    let up = devices.up("a");
    wait_until("it runs", || {
        devices.scene.on("a", &["--json", "folder", "list"]).json()["running"] == true
    });
    assert_eq!(up.interrupt(), 5);
}

#[test]
fn both_sides_edits_of_one_file_are_both_kept() {
    let devices = Devices::new(&["a", "b"]);
    devices.scene.write("da/f.txt", "base");
    devices.settle(&["a", "b"]);
    devices.scene.write("da/f.txt", "a's");
    devices.scene.write("db/f.txt", "b's, longer");
    devices.settle(&["a", "b"]);
    let (a, b) = (devices.files("a"), devices.files("b"));
    assert_eq!(a, b);
    let texts: Vec<&str> = a.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts.len(), 2, "{a:?}");
    assert!(texts.contains(&"a's") && texts.contains(&"b's, longer"), "{a:?}");
    let copies = a.iter().filter(|(name, _)| name.starts_with("f (conflict ")).count();
    assert_eq!(copies, 1, "{a:?}");
}

#[test]
fn two_directories_with_files_already_join_and_nothing_is_lost() {
    let devices = Devices::new(&["a", "b"]);
    devices.scene.write("da/same", "equal");
    devices.scene.write("db/same", "equal");
    devices.scene.write("da/other", "a's");
    devices.scene.write("db/other", "b's");
    devices.scene.write("da/in/only a", "1");
    devices.scene.write("db/in/only b", "2");
    devices.settle(&["a", "b"]);
    devices.settle(&["a", "b"]);
    let files = devices.files("a");
    assert_eq!(files, devices.files("b"));
    let mut texts: Vec<&str> = files.iter().map(|(_, text)| text.as_str()).collect();
    texts.sort_unstable();
    assert_eq!(texts, ["1", "2", "a's", "b's", "equal"], "{files:?}");
}

#[test]
fn a_folder_that_another_device_has_is_joined_and_none_is_made_unasked() {
    let mut devices = Devices::new(&["a", "b", "c"]);
    devices.scene.write("da/photos/one", "1");
    devices.once("a").expect(0);
    devices.scene.write("db/one", "1");
    devices.scene.write("db/two", "2");
    let up = |device: &str| devices.scene.on(device, &["up", "--once", &dir(device), "/photos"]);
    up("b").expect(0);
    assert_eq!(devices.files("b").len(), 2);
    devices.scene.on("c", &["folder", "add", "dc", "/photos"]).expect(0);
    up("c").expect(0);
    assert_eq!(devices.files("c"), devices.files("b"));
    devices.once("a").expect(0);
    let names: Vec<_> = devices.files("a").into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["photos/one", "photos/two"]);
    // Without the server nobody knows; a share that is not there is none.
    devices.scene.on("c", &["folder", "remove", "dc"]).expect(0);
    let add = |path: &str| devices.scene.on("c", &["folder", "add", "dc", path]);
    add("shared:bob/none").expect(1).says("no shared:bob/none is shared with you");
    devices.scene.stop_server();
    devices.scene.on("c", &["folder", "add", "dc", "/new"]).expect(4).says("mkdir '/new'");
    devices.scene.on("c", &["ls", "/new"]).expect(1);
    devices.scene.on("c", &["mkdir", "/new"]).expect(0);
    devices.scene.on("c", &["folder", "add", "dc", "/new"]).expect(0);
}

#[test]
fn a_directory_that_lost_most_of_its_entries_deletes_nothing_elsewhere() {
    let devices = Devices::new(&["a", "b"]);
    for n in 0..3 {
        devices.scene.write(&format!("da/f{n}"), format!("{n}"));
    }
    devices.settle(&["a", "b"]);
    let top = devices.scene.path("da");
    // All of it is gone, and the directory itself is another one.
    std::fs::rename(&top, devices.scene.path("aside")).unwrap();
    devices.once("a").expect(5).says("cannot read");
    std::fs::create_dir(&top).unwrap();
    devices.once("a").expect(5).says("is not the directory");
    assert_eq!(devices.files("a"), []);
    std::fs::remove_dir(&top).unwrap();
    std::fs::rename(devices.scene.path("aside"), &top).unwrap();
    devices.once("a").expect(0);
    for n in 0..3 {
        std::fs::remove_file(top.join(format!("f{n}"))).unwrap();
    }
    devices.once("a").expect(5).says("none was deleted").says("confirm-deletions");
    devices.once("b").expect(0);
    assert_eq!(devices.files("b").len(), 3);
    devices.scene.on("a", &["folder", "confirm-deletions", "da", "--yes"]).expect(0);
    devices.settle(&["a", "b"]);
    assert_eq!(devices.files("b"), []);
}

#[test]
fn an_entry_that_is_away_for_a_moment_keeps_its_item() {
    let devices = Devices::new(&["a"]);
    devices.scene.write("da/f", "one");
    devices.scene.write("da/g", "stays");
    devices.settle(&["a"]);
    let id = devices.id("a", "/f");
    let up = devices.up("a");
    let path = devices.scene.path("da/f");
    // As some editors save: the file is renamed away, and another one takes its name.
    for n in 0..5 {
        std::fs::rename(&path, devices.scene.path("da/f~")).unwrap();
        std::fs::write(&path, format!("{n}")).unwrap();
        std::fs::remove_file(devices.scene.path("da/f~")).unwrap();
        wait_until("it is taken", || {
            devices.scene.on("a", &["cat", "/f"]).stdout == format!("{n}")
        });
    }
    drop(up);
    assert_eq!(devices.id("a", "/f"), id);
}

#[test]
fn directories_are_added_listed_and_removed_while_up_runs() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    let on = |args: &[&str]| scene.on("a", args);
    on(&["folder", "remove", "da"]).expect(1).says("not kept in step");
    on(&["up"]).expect(2).says("no directory");
    let up = devices.up("a");
    scene.write("more/p", "x");
    wait_until("it runs", || on(&["--json", "folder", "list"]).json()["running"] == true);
    on(&["folder", "add", "more", "/photos"]).expect(0);
    wait_until("the new directory is sent", || on(&["cat", "/photos/p"]).stdout == "x");
    let on_disk = scene.path("da/photos/p");
    wait_until("and comes into the other one", || has(&on_disk, "x"));
    on(&["up"]).expect(1).says("running on this replica already");
    let inside = scene.path("more/inside");
    on(&["folder", "add", inside.to_str().unwrap()]).expect(1).says("kept in step");
    on(&["folder", "add", "a/inside"]).expect(2).says("inside each other");
    let list = on(&["--json", "folder", "list"]).expect(0).json();
    let mut folders = list["folders"].as_array().unwrap().iter();
    assert!(folders.any(|folder| folder["path"] == "/photos"), "{list}");
    on(&["folder", "remove", "more"]).expect(0);
    assert_eq!(scene.read("more/p"), "x", "nothing on the disk changes");
    assert_eq!(on(&["cat", "/photos/p"]).expect(0).stdout, "x", "nor in the tree");
    drop(up);
}

#[test]
fn up_makes_the_replica_and_refuses_another_server() {
    let scene = Scene::with_server();
    std::fs::write(scene.path("token"), scene.token("alice")).unwrap();
    scene.on("new", &["up", "d"]).expect(1).says("--server");
    assert!(!scene.path("d").exists());
    let args = ["up", "--once", "d", "--server", scene.url(), "--token-file", "token"];
    scene.on("new", &args).expect(0);
    scene.on("new", &args).expect(0);
    scene.on("new", &["up", "d", "--server", "http://127.0.0.1:1"]).expect(2).says("not of");
    // The token becomes another user's.
    scene.write("d/private", "alice's");
    std::fs::write(scene.path("token"), scene.token("mallory")).unwrap();
    scene.on("new", &["up", "--once"]).expect(4).says("mallory");
}

#[test]
fn what_was_deleted_here_and_edited_elsewhere_comes_back() {
    let devices = Devices::new(&["a", "b"]);
    for name in ["da/d/f", "da/d/g", "da/other", "da/more"] {
        devices.scene.write(name, "one");
    }
    devices.settle(&["a", "b"]);
    std::fs::remove_dir_all(devices.scene.path("da/d")).unwrap();
    devices.scene.write("db/d/f", "edited meanwhile");
    devices.once("b").expect(0);
    devices.once("a").expect(0);
    let has = |(name, _): &(String, String)| name.starts_with("d/");
    let files: Vec<_> = devices.files("a").into_iter().filter(has).collect();
    assert_eq!(files, [("d/f".to_owned(), "edited meanwhile".to_owned())]);
    devices.settle(&["a", "b"]);
    assert_eq!(devices.files("a"), devices.files("b"));
}

#[test]
fn a_file_that_becomes_a_folder_elsewhere_does_so_here_and_back() {
    let devices = Devices::new(&["a", "b"]);
    devices.scene.write("da/x", "file");
    devices.scene.write("da/y", "stays");
    devices.settle(&["a", "b"]);
    std::fs::remove_file(devices.scene.path("db/x")).unwrap();
    devices.scene.write("db/x/in", "folder");
    devices.settle(&["b", "a"]);
    let folder = [("x/in".to_owned(), "folder".to_owned()), ("y".to_owned(), "stays".to_owned())];
    assert_eq!(devices.files("a"), folder);
    std::fs::remove_dir_all(devices.scene.path("da/x")).unwrap();
    devices.scene.write("da/x", "file again");
    devices.settle(&["a", "b"]);
    let file = [("x".to_owned(), "file again".to_owned()), ("y".to_owned(), "stays".to_owned())];
    assert_eq!((devices.files("a"), devices.files("b")), (file.to_vec(), file.to_vec()));
}

#[test]
fn a_directory_that_is_added_again_joins_and_deletes_nothing() {
    let devices = Devices::new(&["a", "b"]);
    for name in ["da/kept", "da/more", "da/freed"] {
        devices.scene.write(name, name);
    }
    devices.settle(&["a", "b"]);
    devices.scene.on("a", &["folder", "remove", "da"]).expect(0);
    std::fs::remove_file(devices.scene.path("da/freed")).unwrap();
    devices.settle(&["a", "b"]);
    assert_eq!(devices.files("b").len(), 3);
    assert_eq!(devices.files("a"), devices.files("b"));
    // From then on what goes is deleted.
    std::fs::remove_file(devices.scene.path("da/freed")).unwrap();
    devices.settle(&["a", "b"]);
    assert_eq!(devices.files("b").len(), 2);
}

#[test]
#[cfg(target_os = "linux")]
fn a_file_that_a_program_has_open_for_writing_is_not_replaced() {
    use std::io::Write as _;
    let devices = Devices::new(&["a", "b"]);
    for name in ["da/open", "da/goes", "da/other", "da/more"] {
        devices.scene.write(name, "one");
    }
    devices.settle(&["a", "b"]);
    let mut open = std::fs::OpenOptions::new();
    let mut held = ["open", "goes"]
        .map(|name| open.append(true).open(devices.scene.path(&format!("da/{name}"))).unwrap());
    devices.scene.write("db/open", "two");
    std::fs::remove_file(devices.scene.path("db/goes")).unwrap();
    devices.once("b").expect(0);
    devices.once("a").expect(5).says("open for writing");
    for file in &mut held {
        file.write_all(b" and more").unwrap();
    }
    drop(held);
    devices.settle(&["a", "b"]);
    let files = devices.files("a");
    assert_eq!(files, devices.files("b"));
    let texts: Vec<&str> = files.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts.iter().filter(|text| **text == "one and more").count(), 2, "{files:?}");
    assert!(texts.contains(&"two"), "{files:?}");
}
