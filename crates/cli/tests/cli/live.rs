//! Live updates: replicas that are watched, and a server that says how it hears of others.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::support::{Scene, signal};

/// A replica that is watched, and does not poll within a test.
pub(crate) struct Watch {
    child: Child,
    lines: Box<dyn Iterator<Item = Value>>,
}

impl Watch {
    pub(crate) fn of(scene: &Scene, name: &str) -> Self {
        let mut command = scene.command();
        command.args(["--replica", name, "--json", "sync", "--watch", "--interval", "86400"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap());
        Self { child, lines: Box::new(lines) }
    }

    fn wait_for(&mut self, is: impl Fn(&Value) -> bool) -> Value {
        self.lines.find(is).expect("the watch goes on")
    }

    pub(crate) fn wait_until_live(&mut self) {
        let live = self.wait_for(|line| line["more"]["state"] == "live");
        assert_eq!(live["event"], "connection");
        assert!(live["more"]["inStepAt"].is_string(), "{live}");
    }

    pub(crate) fn wait_for_path(&mut self, event: &str, path: &str) {
        self.wait_for(|line| line["event"] == event && line["path"] == path);
    }

    pub(crate) fn stop(mut self) {
        signal(&self.child, "INT");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn an_edit_of_one_watched_replica_appears_at_the_other_without_a_poll() {
    let scene = Scene::with_server();
    for name in ["one", "two"] {
        scene.replica(name);
    }
    let mut two = Watch::of(&scene, "two");
    two.wait_until_live();
    scene.on("one", &["mkdir", "/from-one"]).expect(0);
    let mut one = Watch::of(&scene, "one");
    two.wait_for_path("appeared", "/from-one");
    one.wait_until_live();
    two.stop();
    scene.write("file", "text");
    scene.on("two", &["put", "file", "/from-one/file"]).expect(0);
    let mut two = Watch::of(&scene, "two");
    one.wait_for_path("appeared", "/from-one/file");
    two.wait_until_live();
    // Another command of the same user is seen by both.
    scene.replica("three");
    scene.on("three", &["sync"]).expect(0);
    scene.on("three", &["mkdir", "/from-three"]).expect(0);
    scene.on("three", &["sync"]).expect(0);
    one.wait_for_path("appeared", "/from-three");
    two.wait_for_path("appeared", "/from-three");
    one.stop();
    two.stop();
}

#[test]
fn a_watch_says_when_the_server_goes_and_comes_back() {
    let mut scene = Scene::with_server();
    scene.replica("one");
    let mut command = scene.command();
    command.args(["--replica", "one", "sync", "--watch", "--interval", "1"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut wait_for = |text: &str| assert!(said.any(|line| line.contains(text)), "{text}");
    wait_for("live: changes of others arrive at once");
    let address = scene.url().strip_prefix("http://").unwrap().to_owned();
    assert_eq!(scene.terminate_server(), 0);
    wait_for("offline since ");
    scene.start_server(&address);
    wait_for("live: ");
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_bound_of_streams_is_an_option_and_beyond_it_a_watch_polls() {
    let mut scene = Scene::offline();
    let bound = [("VFS_SYNC_MAX_USER_EVENT_STREAMS", "1"), ("VFS_SYNC_EVENTS_KEEPALIVE", "1s")];
    scene.start_server_with("127.0.0.1:0", &bound);
    for name in ["one", "two"] {
        scene.replica(name);
    }
    let mut one = Watch::of(&scene, "one");
    one.wait_until_live();
    let mut two = Watch::of(&scene, "two");
    let polling = two.wait_for(|line| line["more"]["state"] == "polling");
    assert_eq!(polling["more"]["reason"], "refused");
    one.stop();
    two.wait_until_live();
    two.stop();
}
