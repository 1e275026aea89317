//! What happened to people with other programs that keep directories in step, with `up` in their
//! place. Each test names the report of one such story.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::programs::{Pair, run};
use super::{Devices, dir, has, wait_until};
use crate::support::tree_of;

/// Waits until no device has work, and fails unless all directories are equal.
#[track_caller]
fn settled(devices: &Devices, names: &[&str]) {
    devices.settle(names);
    devices.settle(names);
    let first = tree_of(&devices.scene.path(&dir(names[0])));
    for name in &names[1..] {
        assert_eq!(first, tree_of(&devices.scene.path(&dir(name))), "{name}");
    }
}

fn names_of(devices: &Devices, device: &str) -> Vec<String> {
    devices.files(device).into_iter().map(|(name, _)| name).collect()
}

/// Returns the number of conflicted copies.
fn copies(names: &[String]) -> usize {
    names.iter().filter(|name| name.contains(" (conflict ")).count()
}

/// The outdated directory: syncthing/syncthing#6252 and #10457, nextcloud/desktop#3860.
#[test]
fn a_directory_that_nobody_looked_at_for_a_while_reverts_nothing() {
    // `up` of the desktop runs once, all the time, or its replica is synchronised before.
    for variant in ["once", "up", "sync first", "moved in again"] {
        let devices = Devices::new(&["a", "b"]);
        let scene = &devices.scene;
        for name in ["report.txt", "todo.txt", "old.txt"] {
            scene.write(&format!("da/{name}"), format!("{name} v1"));
        }
        devices.settle(&["a", "b"]);
        scene.write("da/report.txt", "v2, a day of work");
        std::fs::remove_file(scene.path("da/old.txt")).unwrap();
        scene.write("da/new.txt", "new");
        devices.once("a").expect(0);
        if variant == "sync first" {
            scene.on("b", &["sync"]).expect(0);
        }
        if variant == "moved in again" {
            // An older copy of the file, as a backup gives it back: of another inode.
            run(Command::new("cp")
                .arg("-p")
                .args([scene.path("db/report.txt"), scene.path("copy")]));
            std::fs::rename(scene.path("copy"), scene.path("db/report.txt")).unwrap();
        }
        scene.write("db/todo.txt", "todo, more");
        if variant == "up" {
            let up = devices.up("b");
            wait_until("it arrives", || has(&scene.path("db/report.txt"), "v2, a day of work"));
            wait_until("and goes", || !scene.path("db/old.txt").exists());
            drop(up);
        }
        settled(&devices, &["b", "a"]);
        let expected =
            [("new.txt", "new"), ("report.txt", "v2, a day of work"), ("todo.txt", "todo, more")];
        let files = devices.files("a");
        let files: Vec<_> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
        assert_eq!(files, expected, "{variant}");
        let list = scene.on("a", &["--json", "versions", "/report.txt"]).expect(0).json();
        assert_eq!(list["versions"].as_array().unwrap().len(), 2, "{variant}: {list}");
    }
}

/// Conflicted copies of everything: owncloud/client#18.
#[test]
fn the_same_data_on_both_devices_is_there_once() {
    for variant in ["in turn", "at once", "offline first"] {
        let devices = Devices::new(&["a", "b"]);
        let scene = &devices.scene;
        for n in 1..=3 {
            scene.write(&format!("da/Docs/f{n}.txt"), format!("file {n}"));
            scene.write(&format!("da/Docs/sub/s{n}.txt"), format!("sub {n}"));
        }
        scene.write("da/top.txt", "top");
        let copy = Command::new("cp")
            .args(["-a", &format!("{}/.", scene.path("da").display())])
            .arg(scene.path("db"))
            .status();
        assert!(copy.unwrap().success());
        if variant != "in turn" {
            // Neither has seen the other's.
            let ups = ["a", "b"].map(|device| devices.up(device));
            for device in ["a", "b"] {
                wait_until("it is in step", || devices.state(device)["state"] == "inStep");
            }
            drop(ups);
        }
        settled(&devices, &["a", "b"]);
        assert_eq!(names_of(&devices, "a").len(), 7, "{variant}: {:?}", devices.files("a"));
    }
}

/// A file that a program has only for a moment, such as the lock of a repository, does not come back
/// because the moment was that of the first look.
#[test]
fn what_is_deleted_before_both_sides_are_joined_stays_deleted() {
    let mut devices = Devices::new(&["a", "b"]);
    devices.scene.write("db/from b", "by b");
    devices.settle(&["b"]);
    let address = devices.scene.url().trim_start_matches("http://").to_owned();
    devices.scene.stop_server();
    for name in ["stays", "lock", "in/deep"] {
        devices.scene.write(&format!("da/{name}"), name);
    }
    let up = devices.up("a");
    let has_seen = |path: &str| devices.scene.on("a", &["stat", path]).code == 0;
    wait_until("it has seen them", || has_seen("/in/deep") && has_seen("/lock"));
    std::fs::remove_file(devices.scene.path("da/lock")).unwrap();
    std::fs::remove_dir_all(devices.scene.path("da/in")).unwrap();
    devices.scene.start_server_with(&address, &[]);
    let joined = devices.scene.path("da/from b");
    wait_until("both are joined", || has(&joined, "by b"));
    wait_until("and in step", || devices.state("a")["state"] == "inStep");
    drop(up);
    settled(&devices, &["a", "b"]);
    assert_eq!(names_of(&devices, "a"), ["from b", "stays"]);
    // Added again, the directory joins again: what is missing then was not deleted.
    let folder = |args: &[&str]| devices.scene.on("a", &[&["folder"], args].concat()).expect(0);
    folder(&["remove", "da"]);
    std::fs::remove_file(devices.scene.path("da/stays")).unwrap();
    settled(&devices, &["a", "b"]);
    assert_eq!(names_of(&devices, "b"), ["from b", "stays"]);
}

/// A file that was moved elsewhere is saved here under its old name, then under its new one, before the
/// next look.
#[test]
fn what_is_saved_under_the_old_and_the_new_name_of_a_moved_file_is_all_kept() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    scene.write("da/old/f", "first");
    scene.write("da/new/other", "other");
    devices.settle(&["a", "b"]);
    std::fs::rename(scene.path("db/old/f"), scene.path("db/new/g")).unwrap();
    devices.once("b").expect(0);
    scene.on("a", &["sync"]).expect(0);
    let save = |path: &str, text: &str| {
        scene.write("saved", text);
        std::fs::rename(scene.path("saved"), scene.path(path)).unwrap();
    };
    save("da/old/f", "saved under the old name");
    scene.on("a", &["export", "da", "--force", "--delete"]);
    assert_eq!(scene.read("da/new/g"), "first");
    save("da/new/g", "saved under the new name");
    settled(&devices, &["a", "b"]);
    let files = devices.files("b");
    for text in ["saved under the old name", "saved under the new name"] {
        assert!(files.iter().any(|(_, found)| found == text), "{text}: {files:?}");
    }
}

/// A content that never comes is waited for only as long as its folder is there.
#[test]
fn what_waits_in_a_folder_goes_with_the_folder() {
    let mut devices = Devices::new(&["a", "b"]);
    devices.scene.write("da/stays", "stays");
    devices.settle(&["a", "b"]);
    let up = devices.up("a");
    wait_until("it is in step", || devices.state("a")["state"] == "inStep");
    // Without room for contents.
    let address = devices.scene.url().trim_start_matches("http://").to_owned();
    devices.scene.stop_server();
    devices.scene.start_server_with(&address, &[("VFS_SYNC_MAX_STORED_BYTES", "1")]);
    devices.scene.write("db/x/f", "never sent");
    devices.once("b").expect(5);
    wait_until("it waits", || {
        devices.state("a")["reason"].to_string().contains("not at the server")
    });
    assert!(devices.scene.path("da/x").is_dir());
    devices.scene.on("b", &["rm", "-r", "/x"]).expect(0);
    devices.scene.on("b", &["sync"]);
    wait_until("the folder goes", || !devices.scene.path("da/x").exists());
    wait_until("nothing is waited for", || devices.state("a")["state"] == "inStep");
    drop(up);
}

/// The same, where one device meets the other's items before their contents were sent.
#[test]
fn the_same_data_is_there_once_although_its_contents_come_late() {
    for first in ["a", "b"] {
        let mut devices = Devices::new(&["a", "b"]);
        for device in ["a", "b"] {
            for name in ["Docs/same", "Docs/sub/same", "Docs/other", "top"] {
                let text = if name.ends_with("other") { &format!("of {device}") } else { name };
                devices.scene.write(&format!("d{device}/{name}"), text);
            }
        }
        // Without room for contents.
        let address = devices.scene.url().trim_start_matches("http://").to_owned();
        devices.scene.stop_server();
        devices.scene.start_server_with(&address, &[("VFS_SYNC_MAX_STORED_BYTES", "1")]);
        let ups = ["a", "b"].map(|device| devices.up(device));
        for device in ["a", "b"] {
            let state = || devices.scene.on(device, &["--json", "folder", "list"]).json();
            wait_until("it waits with its own names", || {
                let names = names_of(&devices, device);
                let own = (names.len(), copies(&names)) == (4, 0);
                own && state()["folders"][0]["state"] == "waiting"
            });
        }
        drop(ups);
        devices.once(first).expect(5);
        devices.scene.stop_server();
        devices.scene.start_server(&address);
        let second = if first == "a" { "b" } else { "a" };
        wait_until("both are in step", || {
            let codes = [first, second].map(|device| devices.once(device).code);
            codes == [0, 0]
        });
        settled(&devices, &[first, second]);
        let names = names_of(&devices, "a");
        assert_eq!((names.len(), copies(&names)), (5, 1), "{first} first: {names:?}");
    }
}

/// A folder that is renamed here and worked in there: owncloud/client#7773, skilion/onedrive#497.
#[test]
fn a_folder_that_is_renamed_here_and_edited_there_is_renamed_and_edited() {
    for (variant, first) in [("the rename first", "a"), ("the edit first", "b")] {
        let devices = Devices::new(&["a", "b"]);
        let scene = &devices.scene;
        scene.write("da/Experiment/data", "v1");
        scene.write("da/Experiment/deep/d", "d1");
        scene.write("da/Experiment/untouched", "other");
        devices.settle(&["a", "b"]);
        let id = devices.id("a", "/Experiment/data");
        let renamed = scene.path("da/4 - Experiment");
        std::fs::rename(scene.path("da/Experiment"), &renamed).unwrap();
        scene.write("db/Experiment/data", "v2 edited on B");
        scene.write("db/Experiment/deep/new", "new");
        devices.once(first).expect(0);
        // Both at once, as after a day without a network.
        let ups = ["a", "b"].map(|device| devices.up(device));
        wait_until("the edit arrives", || has(&renamed.join("data"), "v2 edited on B"));
        let there = scene.path("db/4 - Experiment");
        wait_until("the rename arrives", || there.exists());
        drop(ups);
        settled(&devices, &["a", "b"]);
        let expected = ["data", "deep/d", "deep/new", "untouched"];
        let expected = expected.map(|name| format!("4 - Experiment/{name}"));
        assert_eq!(names_of(&devices, "b"), expected, "{variant}");
        assert_eq!(devices.id("b", "/4 - Experiment/data"), id, "{variant}: the same item");
    }
}

/// An edit that is saved while the client works: owncloud/client#215 and #3276,
/// abraunegg/onedrive#1507.
#[test]
fn what_is_saved_while_up_works_survives() {
    let pair = Pair::new();
    pair.devices.scene.write("da/doc", "v0");
    pair.devices.scene.write("da/other", "x");
    pair.rest();
    let mut notes = 0;
    for n in 1..=8 {
        // The other device's edit of another file, and of the same one.
        pair.devices.scene.write("db/other", format!("of b {n}"));
        let other = pair.at("a", "other");
        // At some time before, while or after it is written here.
        let until = Instant::now() + Duration::from_millis(n * 120);
        while Instant::now() < until && !has(&other, &format!("of b {n}")) {
            std::thread::sleep(Duration::from_millis(5));
        }
        pair.devices.scene.write("da/doc", format!("v{n}: an hour of work"));
        pair.devices.scene.write(&format!("da/note {n}"), "note");
        notes += 1;
        if n % 4 == 0 {
            pair.rest();
            let saved = format!("v{n}: an hour of work");
            assert!(has(&pair.at("a", "doc"), &saved) && has(&pair.at("b", "doc"), &saved));
        }
    }
    let devices = pair.end();
    let names = names_of(&devices, "b");
    assert_eq!((names.len(), copies(&names)), (2 + notes, 0), "{names:?}");
}

/// The same with both devices' saves to one file: each value is kept.
#[test]
fn what_is_saved_to_a_file_that_up_is_replacing_survives() {
    let pair = Pair::new();
    pair.devices.scene.write("da/doc", "v0");
    pair.rest();
    for n in 1..=6 {
        pair.devices.scene.write("db/doc", format!("of b {n}"));
        let until = Instant::now() + Duration::from_millis(400 + n * 150);
        while Instant::now() < until && !has(&pair.at("a", "doc"), &format!("of b {n}")) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let over = pair.devices.scene.read("da/doc");
        pair.devices.scene.write("da/doc", format!("of a {n}"));
        pair.rest();
        let texts: Vec<String> =
            pair.devices.files("a").into_iter().map(|(_, text)| text).collect();
        let of_b = format!("of b {n}");
        let kept = texts.contains(&of_b) || over == of_b;
        assert!(kept && texts.contains(&format!("of a {n}")), "over {over:?}: {texts:?}");
    }
    pair.end();
}

/// The drive that is not mounted: syncthing/syncthing#799 and #1496, owncloud/client#5543.
#[test]
fn an_empty_mount_point_deletes_nothing() {
    for variant in ["once", "up runs", "the entries go one by one"] {
        let devices = Devices::new(&["a", "b"]);
        let scene = &devices.scene;
        for n in 0..200 {
            scene.write(&format!("da/Photos/{n}.jpg"), format!("photo {n}"));
        }
        devices.settle(&["a", "b"]);
        let (top, drive) = (scene.path("da"), scene.path("drive"));
        let state = || scene.on("a", &["--json", "folder", "list"]).json()["folders"][0].clone();
        let up = (variant != "once").then(|| devices.up("a"));
        if up.is_some() {
            wait_until("it is in step", || state()["state"] == "inStep");
        }
        match variant {
            "the entries go one by one" => {
                std::fs::rename(top.join("Photos"), &drive).unwrap();
            }
            _ => {
                std::fs::rename(&top, &drive).unwrap();
                std::fs::create_dir(&top).unwrap();
            }
        }
        match up {
            Some(up) => {
                scene.on("a", &["folder", "scan", "da"]);
                wait_until("it waits", || state()["state"] == "waiting");
                assert_eq!(up.interrupt(), 5, "{variant}");
            }
            None => assert_eq!(devices.once("a").code, 5),
        }
        devices.once("b").expect(0);
        assert_eq!(devices.files("b").len(), 200, "{variant}");
        // The drive is back.
        match variant {
            "the entries go one by one" => {
                std::fs::rename(&drive, top.join("Photos")).unwrap();
            }
            _ => {
                std::fs::remove_dir_all(&top).unwrap();
                std::fs::rename(&drive, &top).unwrap();
            }
        }
        settled(&devices, &["a", "b"]);
        assert_eq!(devices.files("b").len(), 200, "{variant}");
        assert_eq!(copies(&names_of(&devices, "b")), 0, "{variant}");
    }
}

/// Makes an entry of each kind of permission bits.
fn write_modes(top: &Path) {
    let set = |name: &str, mode: u32| {
        std::fs::set_permissions(top.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for folder in ["ro/sub", "priv", "noexec", "sticky"] {
        std::fs::create_dir_all(top.join(folder)).unwrap();
    }
    let files =
        ["ro/in", "ro/sub/s", "exec", "secret", "suid", "world", "priv/p", "noexec/q", "group"];
    for file in files {
        std::fs::write(top.join(file), file).unwrap();
    }
    for (name, mode) in [
        ("ro/sub", 0o555),
        ("ro", 0o555),
        ("exec", 0o755),
        ("secret", 0o600),
        ("suid", 0o4755),
        ("world", 0o644),
        ("priv", 0o700),
        ("sticky", 0o1755),
        ("noexec/q", 0o600),
        ("group", 0o640),
    ] {
        set(name, mode);
    }
}

/// Permission bits that get lost, and read-only folders: nextcloud/desktop#6884,
/// owncloud/client#820, mutagen-io/mutagen#282.
#[test]
fn permission_bits_cross_and_read_only_folders_are_kept_in_step() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    let chmod = |name: &str, mode: u32| {
        std::fs::set_permissions(scene.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write_modes(&scene.path("da"));
    let (a, b) = (devices.up("a"), devices.up("b"));
    wait_until("it arrives", || has(&scene.path("db/ro/sub/s"), "ro/sub/s"));
    drop((a, b));
    settled(&devices, &["a", "b"]);
    chmod("da/ro", 0o755);
    chmod("da/ro/sub", 0o755);
    scene.write("da/ro/new", "new");
    scene.write("da/ro/in", "in, changed");
    std::fs::remove_file(scene.path("da/ro/sub/s")).unwrap();
    chmod("da/ro/sub", 0o555);
    chmod("da/ro", 0o555);
    let (a, b) = (devices.up("a"), devices.up("b"));
    wait_until("what is new arrives", || has(&scene.path("db/ro/new"), "new"));
    wait_until("what goes is gone", || !scene.path("db/ro/sub/s").exists());
    drop((a, b));
    settled(&devices, &["a", "b"]);
    chmod("da/exec", 0o644);
    chmod("db/world", 0o755);
    settled(&devices, &["a", "b"]);
    let mode = |name: &str| std::fs::metadata(scene.path(name)).unwrap().permissions().mode();
    assert_eq!(mode("db/exec") & 0o7777, 0o644);
    assert_eq!(mode("da/world") & 0o7777, 0o755);
    assert_eq!(mode("da/suid") & 0o7777, 0o4755, "what does not cross stays");
    assert_eq!(copies(&names_of(&devices, "b")), 0);
}

/// Returns a command that runs as an ordinary user, if that is possible here.
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
fn as_a_user(scene: &crate::support::Scene) -> Option<Command> {
    let is_root = run(Command::new("id").arg("-u")).trim() == "0";
    let user = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "12345", "--regid", "12345", "--clear-groups"]).args(args);
        command
    };
    let works = is_root
        && user(&["true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !works {
        eprintln!("SKIPPED: a directory of an ordinary user: this takes root and `setpriv`");
        return None;
    }
    let binary = scene.command();
    let mut command = user(&[env!("CARGO_BIN_EXE_vfs-sync")]);
    command.current_dir(scene.dir.path());
    for (name, value) in binary.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Some(command)
}

/// The same for an ordinary user, whom the bits bind: what cannot be read is not deleted.
#[test]
fn what_a_user_cannot_read_is_deleted_nowhere() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    if as_a_user(scene).is_none() {
        return;
    }
    let chmod = |name: &str, mode: u32| {
        std::fs::set_permissions(scene.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write_modes(&scene.path("da"));
    for name in ["", "token"] {
        chmod(name, 0o755);
    }
    let own = ["b", "db"].map(|name| scene.path(name));
    run(Command::new("chown").args(["-R", "12345:12345"]).args(own));
    let once = || {
        let mut command = as_a_user(scene).unwrap();
        command.args(["--replica", "b", "up", "--once", "db"]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let in_step = || {
        devices.once("a").expect(0);
        let (code, said) = once();
        assert_eq!(code, 0, "{said}");
        devices.once("a").expect(0);
    };
    in_step();
    assert_eq!(tree_of(&scene.path("da")), tree_of(&scene.path("db")));
    // Changes in a folder that its user may not write to, by its bits.
    for (name, mode) in [("da/ro", 0o755), ("da/ro/sub", 0o755)] {
        chmod(name, mode);
    }
    scene.write("da/ro/new", "new");
    scene.write("da/ro/in", "in, changed");
    std::fs::remove_file(scene.path("da/ro/sub/s")).unwrap();
    for (name, mode) in [("da/ro/sub", 0o555), ("da/ro", 0o555)] {
        chmod(name, mode);
    }
    in_step();
    assert_eq!(tree_of(&scene.path("da")), tree_of(&scene.path("db")));
    for name in ["db/priv", "db/secret"] {
        chmod(name, 0o000);
    }
    let (code, said) = once();
    assert_eq!(code, 5, "{said}");
    devices.once("a").expect(0);
    assert!(has(&scene.path("da/priv/p"), "priv/p") && has(&scene.path("da/secret"), "secret"));
    // Once it can be read again, all is in step.
    chmod("db/priv", 0o700);
    chmod("db/secret", 0o600);
    in_step();
    assert_eq!(tree_of(&scene.path("da")), tree_of(&scene.path("db")));
}

/// Renamed folders and deleted files that come back: owncloud/client#2170,
/// syncthing/syncthing#1997.
#[test]
fn what_was_renamed_or_deleted_elsewhere_does_not_come_back() {
    for variant in ["once", "up runs", "edited meanwhile"] {
        let devices = Devices::new(&["a", "b"]);
        let scene = &devices.scene;
        scene.write("da/docs/one", "1");
        scene.write("da/gone", "g");
        devices.settle(&["a", "b"]);
        let up = (variant == "up runs").then(|| devices.up("b"));
        if variant == "edited meanwhile" {
            scene.write("db/docs/two", "2");
        }
        // By commands, without a directory.
        scene.on("a", &["mv", "/docs", "/papers"]).expect(0);
        scene.on("a", &["rm", "/gone"]).expect(0);
        scene.on("a", &["sync"]).expect(0);
        if up.is_some() {
            let (docs, gone) = (scene.path("db/docs"), scene.path("db/gone"));
            wait_until("both are so", || !docs.exists() && !gone.exists());
        }
        drop(up);
        settled(&devices, &["b", "a"]);
        let expected: &[&str] = match variant {
            "edited meanwhile" => &["papers/one", "papers/two"],
            _ => &["papers/one"],
        };
        assert_eq!(names_of(&devices, "a"), expected, "{variant}");
        for gone in ["/docs", "/gone"] {
            scene.on("b", &["ls", gone]).expect(1);
        }
    }
}

/// A mail store: a folder of many folders is renamed, and removed.
#[test]
fn a_folder_of_many_folders_is_renamed_and_removed_in_a_moment() {
    let many = super::programs::many_files();
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    for n in 0..many {
        std::fs::create_dir_all(scene.path(&format!("da/mail/d{n:06}"))).unwrap();
    }
    scene.write("da/other", "stays");
    devices.settle(&["a", "b"]);
    let count = |device: &str, folder: &str| {
        std::fs::read_dir(scene.path(&format!("{}/{folder}", dir(device))))
            .map_or(0, Iterator::count)
    };
    assert_eq!(count("b", "mail"), many);
    std::fs::rename(scene.path("da/mail"), scene.path("da/post")).unwrap();
    devices.once("a").expect(0).says("moved: 1");
    let inode = |name: &str| {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(scene.path(name)).unwrap().ino()
    };
    let before = inode("db/mail/d000001");
    devices.once("b").expect(0).says("moved: 1");
    assert_eq!((count("b", "post"), inode("db/post/d000001")), (many, before));
    // It is most of the entries: the user is asked.
    std::fs::remove_dir_all(scene.path("da/post")).unwrap();
    devices.once("a").expect(5).says("confirm-deletions");
    scene.on("a", &["folder", "confirm-deletions", "da", "--yes"]).expect(0);
    let started = Instant::now();
    settled(&devices, &["a", "b"]);
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    assert_eq!(names_of(&devices, "b"), ["other"]);
    assert_eq!(count("b", "post"), 0);
}
