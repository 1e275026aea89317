//! `up` as a systemd user service, with a `systemctl` that records its calls.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Ran, Scene};

const UNIT: &str = "config/systemd/user/vfs-sync.service";

struct Machine {
    scene: Scene,
    replica: PathBuf,
}

impl Machine {
    /// A machine with a replica whose name systemd would misread, and a live folder.
    fn new() -> Self {
        let scene = Scene::offline();
        let replica = scene.path("re plica 100%n \"$HOME\" \\x");
        std::fs::write(scene.path("token"), scene.token("alice")).unwrap();
        let machine = Self { scene, replica };
        machine.systemctl("echo \"$*\" >> calls; [ $2 != is-active ] || echo active");
        machine.run(&["init", "--server", "http://127.0.0.1:9", "--token-file", "token"]).expect(0);
        machine
    }

    /// Makes a script the `systemctl` of the machine.
    fn systemctl(&self, script: &str) {
        let path = self.scene.write("bin/systemctl", format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, &[])
    }

    fn run_with(&self, args: &[&str], environment: &[(&str, &str)]) -> Ran {
        let mut command = self.scene.command();
        let path = std::env::var("PATH").unwrap();
        command.arg("--replica").arg(&self.replica).args(args).envs(environment.iter().copied());
        command.env("PATH", format!("{}:{path}", self.scene.path("bin").display()));
        command.env("XDG_CONFIG_HOME", self.scene.path("config"));
        let output = command.output().unwrap();
        output.into()
    }

    fn calls(&self) -> String {
        let path = self.scene.path("calls");
        let calls = std::fs::read_to_string(&path).unwrap_or_default();
        let _ = std::fs::remove_file(path);
        calls
    }
}

/// Has systemd check a unit, where it is installed.
#[allow(clippy::print_stderr, reason = "a skipped check says so")]
fn verify(unit: &Path, runtime: &Path) {
    let mut command = Command::new("systemd-analyze");
    command.args(["--user", "verify"]).arg(unit).env("XDG_RUNTIME_DIR", runtime);
    let Ok(ran) = command.output() else {
        eprintln!("SKIPPED: systemd's check of the unit: `systemd-analyze` is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&ran.stderr);
    // These two are of version 254.
    let new = |line: &&str| !line.contains("RestartSteps") && !line.contains("RestartMaxDelaySec");
    let wrong: Vec<_> = said.lines().filter(new).collect();
    assert!(ran.status.success() && wrong.is_empty(), "{said}");
}

#[test]
fn the_service_is_installed_shown_and_removed() {
    let machine = Machine::new();
    machine.run(&["service", "install"]).expect(2).says("no directory").says("folder add");
    machine.run(&["service", "status"]).expect(5).says("not installed");
    machine.run(&["service", "uninstall"]).expect(0).says("not installed");
    assert_eq!(machine.calls(), "");
    machine.run(&["folder", "add", "d"]).expect(0);
    let printed = machine.run(&["service", "install", "--print"]).expect(0).stdout;
    assert!(!machine.scene.path("config").exists(), "nothing changes");
    let installed = machine.run(&["service", "install"]).expect(0).says("started");
    assert!(installed.stdout.contains("wrote "), "{installed:?}");
    assert_eq!(machine.calls(), "--user daemon-reload\n--user enable --now vfs-sync.service\n");
    let unit = machine.scene.read(UNIT);
    assert_eq!(printed, unit);
    let quoted = machine.replica.to_str().unwrap().replace('\\', "\\\\").replace('"', "\\\"");
    let quoted = format!("--replica \"{}\" up\n", quoted.replace('%', "%%"));
    assert!(unit.contains(&quoted), "{unit}");
    verify(&machine.scene.path(UNIT), machine.scene.dir.path());
    let status = machine.run(&["--json", "service", "status"]).expect(0).json();
    assert_eq!(status["active"], "active", "{status}");
    assert_eq!(status["live"]["folders"].as_array().unwrap().len(), 1, "{status}");
    machine.run(&["--transfers", "2", "service", "install"]).expect(0);
    assert!(machine.scene.read(UNIT).contains(" --transfers 2 up\n"));
    machine.calls();
    machine.run(&["service", "uninstall"]).expect(0).says("removed");
    assert_eq!(machine.calls(), "--user disable --now vfs-sync.service\n--user daemon-reload\n");
    assert!(!machine.scene.path(UNIT).exists());
    let left = std::fs::read_dir(machine.scene.path("config/systemd/user")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn a_service_needs_a_token_file_and_a_unit_of_its_own() {
    let machine = Machine::new();
    machine.run(&["folder", "add", "d"]).expect(0);
    std::fs::write(machine.scene.path("token"), "").unwrap();
    machine.run(&["service", "install"]).expect(2).says("has no token");
    std::fs::remove_file(machine.scene.path("token")).unwrap();
    machine.run(&["service", "install"]).expect(1).says("cannot read the token file");
    let settings = machine.replica.join("settings.json");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, text.replace("tokenFile", "unknown")).unwrap();
    let token = machine.scene.token("alice");
    let in_environment = [("VFS_SYNC_TOKEN", token.as_str())];
    let refused = machine.run_with(&["service", "install"], &in_environment);
    refused.expect(2).says("VFS_SYNC_TOKEN").says("tokenFile");
    std::fs::write(&settings, text).unwrap();
    std::fs::write(machine.scene.path("token"), token).unwrap();
    // Somebody else's unit stays.
    machine.scene.write(UNIT, "[Service]\nExecStart=/bin/true\n");
    machine.run(&["service", "install"]).expect(1).says("not written by vfs-sync");
    machine.run(&["service", "uninstall"]).expect(1).says("not written by vfs-sync");
    assert_eq!(machine.scene.read(UNIT), "[Service]\nExecStart=/bin/true\n");
    assert_eq!(machine.calls(), "");
    std::fs::remove_file(machine.scene.path(UNIT)).unwrap();
    // Without systemd's user manager the unit is written all the same.
    machine.systemctl("echo 'Failed to connect to bus' >&2; exit 1");
    let undone = machine.run(&["service", "install"]).expect(5).says("Failed to connect to bus");
    undone.says("systemctl --user enable --now vfs-sync.service");
    assert!(machine.scene.path(UNIT).exists());
    machine.run(&["service", "status"]).expect(5).says("systemd does not answer");
    machine.run(&["service", "uninstall"]).expect(5).says("may still run");
    assert!(!machine.scene.path(UNIT).exists());
}
