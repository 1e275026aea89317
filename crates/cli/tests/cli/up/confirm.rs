//! Deletions that wait for the user, and their confirmation.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use super::{Devices, wait_until};
use crate::support::Ran;

/// Devices `a` and `b` in step, with `files` files each.
fn in_step(files: usize) -> Devices {
    let devices = Devices::new(&["a", "b"]);
    for n in 0..files {
        devices.scene.write(&format!("da/f{n}"), format!("{n}"));
    }
    devices.settle(&["a", "b"]);
    devices
}

fn remove(devices: &Devices, name: &str) {
    std::fs::remove_file(devices.scene.path(&format!("da/{name}"))).unwrap();
}

fn confirm(devices: &Devices, more: &[&str]) -> Ran {
    devices.scene.on("a", &[&["folder", "confirm-deletions", "da"], more].concat())
}

fn is_in_step(devices: &Devices) -> bool {
    let list = devices.scene.on("a", &["--json", "folder", "list"]).json();
    list["folders"][0]["state"] == "inStep"
}

#[test]
fn held_deletions_wait_until_they_are_confirmed() {
    let devices = in_step(3);
    confirm(&devices, &["--yes"]).expect(0).says("no deletions are held");
    devices.scene.on("a", &["folder", "confirm-deletions", "db"]).expect(1).says("not kept");
    (0..3).for_each(|n| remove(&devices, &format!("f{n}")));
    // `up` has not looked: nobody was asked.
    confirm(&devices, &["--yes"]).expect(5).says("holds none of them");
    devices.once("a").expect(5).says("none was deleted").says("folder confirm-deletions");
    let list = devices.scene.on("a", &["--json", "folder", "list"]).expect(0).json();
    assert_eq!(list["folders"][0]["held"]["entries"], 3, "{list}");
    devices.scene.on("a", &["folder", "problems"]).expect(5).says("folder confirm-deletions");
    devices.scene.on("a", &["status"]).expect(5);
    confirm(&devices, &[]).expect(2).says("3 entries are gone of the 3").says("--yes");
    devices.once("b").expect(0);
    assert_eq!(devices.files("b").len(), 3);
    confirm(&devices, &["--yes"]).expect(0).says("3 deletions are queued");
    devices.settle(&["a", "b"]);
    assert_eq!(devices.files("b"), []);
    devices.scene.on("a", &["folder", "problems"]).expect(0);
}

#[test]
fn a_running_up_takes_a_confirmation_up_and_more_that_is_gone_is_not_confirmed() {
    let devices = in_step(5);
    let up = devices.up("a");
    for n in 0..5 {
        remove(&devices, &format!("f{n}"));
    }
    let held = || {
        let list = devices.scene.on("a", &["--json", "folder", "list"]).json();
        list["folders"][0]["held"]["entries"].as_u64()
    };
    wait_until("they are held", || held() == Some(5));
    // One came back, and was not looked at yet by an `up` that has ended.
    assert_eq!(up.interrupt(), 5);
    devices.scene.write("da/f0", "0");
    confirm(&devices, &["--yes"]).expect(5).says("4 entries are gone").says("had held 5");
    remove(&devices, "f0");
    let up = devices.up("a");
    wait_until("they are held again", || held() == Some(5));
    confirm(&devices, &["--yes"]).expect(0).says("5 deletions are queued");
    devices.scene.replica("look");
    wait_until("they are sent", || {
        devices.scene.on("look", &["sync"]).expect(0);
        devices.scene.on("look", &["ls"]).stdout.is_empty()
    });
    wait_until("it is in step", || is_in_step(&devices));
    assert_eq!(up.interrupt(), 0);
}

/// Runs the confirmation on a terminal; between the question and the answer `meanwhile` happens.
fn on_a_terminal(devices: &Devices, answer: &str, meanwhile: impl FnOnce()) -> (i32, String) {
    let command =
        format!("{} --replica a folder confirm-deletions da", env!("CARGO_BIN_EXE_vfs-sync"));
    let mut script = Command::new("script");
    script.args(["-qefc", &command, "/dev/null"]).current_dir(devices.scene.dir.path());
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(b"[y/N] ") {
        assert_eq!(output.read(&mut byte).unwrap(), 1, "{:?}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    meanwhile();
    let mut input = child.stdin.take().unwrap();
    input.write_all(format!("{answer}\n").as_bytes()).unwrap();
    output.read_to_end(&mut said).unwrap();
    drop(input);
    (child.wait().unwrap().code().unwrap(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
fn exactly_what_was_gone_when_it_asked_is_confirmed() {
    if Command::new("script").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIPPED: questions on a terminal: `script` is not installed");
        return;
    }
    let devices = in_step(100);
    for n in 0..60 {
        remove(&devices, &format!("f{n}"));
    }
    // 60 of 100 are not many yet: nothing is held.
    confirm(&devices, &["--yes"]).expect(0).says("no deletions are held");
    devices.once("a").expect(0);
    let left = || {
        devices.once("b");
        devices.files("b").len()
    };
    assert_eq!(left(), 40);
    for n in 60..100 {
        remove(&devices, &format!("f{n}"));
    }
    let (code, said) = on_a_terminal(&devices, "n", || {});
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("40 entries are gone of the 40"), "{said}");
    assert_eq!(left(), 40);
    // One comes back while it asks: the others are deleted.
    let (code, said) = on_a_terminal(&devices, "y", || {
        devices.scene.write("da/f60", "back");
    });
    assert_eq!(code, 0, "{said}");
    devices.once("a").expect(0);
    assert_eq!(left(), 1);
}

#[test]
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
fn what_goes_missing_between_question_and_answer_is_held_again() {
    if Command::new("script").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIPPED: questions on a terminal: `script` is not installed");
        return;
    }
    let devices = in_step(0);
    for n in 0..150 {
        devices.scene.write(&format!("da/f{n}"), format!("{n}"));
    }
    devices.settle(&["a", "b"]);
    for n in 0..120 {
        remove(&devices, &format!("f{n}"));
    }
    let (code, said) = on_a_terminal(&devices, "y", || {
        remove(&devices, "f149");
    });
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("121 entries are gone from"), "{said}");
    devices.once("b").expect(0);
    assert_eq!(devices.files("b").len(), 150);
    // The directory is another one: nothing is deleted, whatever the answer.
    let (code, said) = on_a_terminal(&devices, "y", || {
        std::fs::rename(devices.scene.path("da"), devices.scene.path("aside")).unwrap();
        std::fs::create_dir(devices.scene.path("da")).unwrap();
    });
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("is not the directory"), "{said}");
    devices.once("b").expect(0);
    assert_eq!(devices.files("b").len(), 150);
}

#[test]
fn while_deletions_are_held_everything_else_goes_on() {
    let devices = in_step(3);
    (0..3).for_each(|n| remove(&devices, &format!("f{n}")));
    devices.once("a").expect(5).says("none was deleted");
    devices.scene.write("db/new", "b's");
    devices.scene.write("db/f0", "edited meanwhile");
    devices.once("b").expect(0);
    devices.scene.write("da/own", "a's");
    devices.once("a").expect(5).says("none was deleted");
    let there = |device: &str| {
        let files = devices.files(device).into_iter();
        files.map(|(name, _)| name).collect::<Vec<_>>()
    };
    // The edit comes back. New entries do not make the others few: they are held until they are
    // confirmed, by a new `up` too.
    assert_eq!(there("a"), ["f0", "new", "own"]);
    devices.once("a").expect(5).says("none was deleted");
    devices.once("b").expect(0);
    assert_eq!(there("b"), ["f0", "f1", "f2", "new", "own"]);
    let up = devices.up("a");
    devices.scene.write("db/more", "b's");
    devices.once("b").expect(0);
    let more = devices.scene.path("da/more");
    wait_until("it is received", || more.exists());
    confirm(&devices, &["--yes"]).expect(0).says("2 deletions are queued");
    wait_until("it is in step", || is_in_step(&devices));
    assert_eq!(up.interrupt(), 0);
    devices.settle(&["a", "b"]);
    assert_eq!(there("a"), ["f0", "more", "new", "own"]);
    assert_eq!(devices.files("a"), devices.files("b"));
}
