//! Runs `up` as a systemd user service: `service install`, `status`, `uninstall`.

mod unit;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use super::state::View;
use crate::args::{Global, ServiceAction, TOKEN_VARIABLE};
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::{Output, table};
use crate::replica::{self, Settings, handoff};

/// The name of the unit.
pub(in crate::commands) const UNIT: &str = "vfs-sync.service";

pub(in crate::commands) fn service(
    global: &Global,
    action: ServiceAction,
    output: Output,
) -> Result<()> {
    let service = Service { directory: unit_directory()?, output };
    match action {
        ServiceAction::Install { print } => service.install(global, print),
        ServiceAction::Status => service.status(global),
        ServiceAction::Uninstall => service.uninstall(),
    }
}

/// Returns the directory of the user's units.
fn unit_directory() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from) {
        // The specification says to ignore what is not absolute.
        Some(base) if base.is_absolute() => base,
        _ => std::env::home_dir()
            .filter(|home| home.is_absolute())
            .map(|home| home.join(".config"))
            .ok_or_else(|| {
                Failure::usage("there is no home directory for the service's unit")
                    .hint("set HOME or XDG_CONFIG_HOME")
            })?,
    };
    Ok(base.join("systemd/user"))
}

/// The service's unit file.
enum Unit {
    Missing,
    /// It was written by this program.
    Own(String),
    /// Somebody else wrote it.
    Foreign,
}

struct Service {
    /// The directory of the unit.
    directory: PathBuf,
    output: Output,
}

impl Service {
    fn path(&self) -> PathBuf {
        self.directory.join(UNIT)
    }

    fn read(&self) -> Result<Unit> {
        let path = self.path();
        match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Unit::Missing),
            Ok(meta) if !meta.is_file() => return Ok(Unit::Foreign),
            _ => {}
        }
        let what = format!("cannot read {}", path.display());
        let text = replica::read_bounded(&path).map_err(Failure::io(what))?;
        let own = text.lines().next() == Some(unit::MARK);
        Ok(if own { Unit::Own(text) } else { Unit::Foreign })
    }

    fn foreign(&self) -> Failure {
        let text = format!("{} was not written by vfs-sync", self.path().display());
        Failure::new(Kind::Exists, text).hint("move it away, and try again")
    }

    fn install(&self, global: &Global, print: bool) -> Result<()> {
        let directory = replica::directory(global)?;
        let settings = replica::read_settings(&directory)?;
        let what = format!("cannot use {}", directory.display());
        let replica = directory.canonicalize().map_err(Failure::io(what))?;
        let program = std::env::current_exe().map_err(Failure::io("cannot find vfs-sync"))?;
        let text = unit::text(&program, &replica, umask(), global)?;
        if print {
            self.output.json(&json!({ "unit": self.path(), "text": text }))?;
            if self.output.json {
                return Ok(());
            }
            return text.lines().try_for_each(|line| self.output.text(line));
        }
        can_run(&settings, &replica)?;
        match self.read()? {
            Unit::Foreign => return Err(self.foreign()),
            Unit::Own(before) if !before.contains(&unit::quoted_path(&replica)?) => {
                let text = "the service runs `up` on another replica";
                return Err(
                    Failure::new(Kind::Exists, text).hint("`vfs-sync service uninstall` ends that")
                );
            }
            _ => {}
        }
        self.write(&text)?;
        let shown = self.path();
        self.output.say(format_args!("wrote {}", escaped(&shown.to_string_lossy())))?;
        let by_hand = handoff::is_running(&replica);
        let commands = [&["daemon-reload"][..], &["enable", "--now", UNIT]];
        let done = commands.iter().try_for_each(|command| systemctl(command));
        let started = done.is_ok();
        self.output.json(&json!({ "unit": shown, "started": started }))?;
        if let Err(reason) = done {
            let text = format!("the service is not started: {reason}");
            return Err(Failure::new(Kind::Partial, text).hint(format!(
                "in a session of yours: `systemctl --user daemon-reload`, then `systemctl --user \
                 enable --now {UNIT}`"
            )));
        }
        self.output.say("started; it starts again whenever you log in")?;
        self.output.note("`loginctl enable-linger` keeps it running while you are logged out");
        if by_hand {
            self.output.note("`vfs-sync up` runs by hand: the service takes over after it ends");
        }
        Ok(())
    }

    fn write(&self, text: &str) -> Result<()> {
        let path = self.path();
        let what = || format!("cannot write {}", path.display());
        std::fs::create_dir_all(&self.directory).map_err(Failure::io(what()))?;
        let mut file =
            tempfile::NamedTempFile::new_in(&self.directory).map_err(Failure::io(what()))?;
        file.write_all(text.as_bytes()).map_err(Failure::io(what()))?;
        file.as_file().sync_all().map_err(Failure::io(what()))?;
        file.persist(&path).map_err(|error| Failure::io(what())(error.error))?;
        Ok(())
    }

    fn status(&self, global: &Global) -> Result<()> {
        let found = self.read()?;
        let installed = !matches!(found, Unit::Missing);
        let ask = |command| if installed { answer(command) } else { None };
        let (enabled, active) = (ask("is-enabled"), ask("is-active"));
        let directory = replica::directory(global)?;
        let client = replica::open(global, replica::config())?;
        let live = View::read(&client, &directory)?;
        drop(client);
        let path = self.path();
        self.output.json(&json!({
            "unit": path, "installed": installed, "own": matches!(found, Unit::Own(_)),
            "enabled": enabled, "active": active, "live": live.json(),
        }))?;
        if !self.output.json {
            let mut rows = table(&[], &[]);
            let state = match found {
                Unit::Missing => "not installed",
                Unit::Own(_) => "installed",
                Unit::Foreign => "written by somebody else",
            };
            rows.add_row(["unit", &format!("{}: {state}", path.display())]);
            for (name, state) in [("enabled", &enabled), ("active", &active)] {
                if installed {
                    rows.add_row([name, state.as_deref().unwrap_or("systemd does not answer")]);
                }
            }
            for (directory, state) in live.lines() {
                rows.add_row(["live folder", &format!("{directory}: {state}")]);
            }
            self.output.table(rows)?;
            if let Some(text) = live.not_running() {
                self.output.note(text);
            }
        }
        if !installed {
            return Err(Failure::new(Kind::Partial, "the service is not installed")
                .hint("`vfs-sync service install` installs it"));
        }
        if active.as_deref() != Some("active") {
            let text = "the service does not run";
            return Err(Failure::new(Kind::Partial, text)
                .hint(format!("`journalctl --user -u {UNIT}` has its messages")));
        }
        live.failure().or_else(|| live.paused()).map_or(Ok(()), Err)
    }

    fn uninstall(&self) -> Result<()> {
        let path = self.path();
        match self.read()? {
            Unit::Missing => {
                self.output.json(&json!({ "unit": path, "removed": false }))?;
                return self.output.say("the service is not installed");
            }
            Unit::Foreign => return Err(self.foreign()),
            Unit::Own(_) => {}
        }
        let stopped = systemctl(&["disable", "--now", UNIT]);
        let what = format!("cannot remove {}", path.display());
        std::fs::remove_file(&path).map_err(Failure::io(what))?;
        if stopped.is_err() {
            // The link by which `enable` starts it; without the unit it leads nowhere.
            let link = self.directory.join("default.target.wants").join(UNIT);
            if std::fs::symlink_metadata(&link).is_ok_and(|meta| meta.is_symlink()) {
                let what = format!("cannot remove {}", link.display());
                std::fs::remove_file(&link).map_err(Failure::io(what))?;
            }
        }
        let done = stopped.and_then(|()| systemctl(&["daemon-reload"]));
        self.output.json(&json!({ "unit": path, "removed": true }))?;
        self.output.say(format_args!("removed {}", escaped(&path.to_string_lossy())))?;
        done.map_err(|reason| {
            let text = format!("the service may still run: {reason}");
            Failure::new(Kind::Partial, text).hint(format!(
                "in a session of yours: `systemctl --user stop {UNIT}`, then `systemctl --user \
                 daemon-reload`"
            ))
        })
    }
}

/// Fails if a service could not run `up` on the replica.
fn can_run(settings: &Settings, replica: &Path) -> Result<()> {
    if settings.folders.is_empty() {
        return Err(Failure::usage("no directory is kept in step yet")
            .hint("name one: `vfs-sync folder add DIR`"));
    }
    let file = replica.join("settings.json");
    let Some(token_file) = &settings.token_file else {
        let text =
            format!("the replica has no token file, and a service does not have {TOKEN_VARIABLE}");
        return Err(Failure::usage(text).hint(format!(
            "put the token into a file that only you can read, and its path into {}: \
             \"tokenFile\": \"/path/to/token\"",
            file.display()
        )));
    };
    let what = format!("cannot read the token file {}", token_file.display());
    let text = replica::read_bounded(token_file).map_err(Failure::io(what))?;
    match text.trim().is_empty() {
        true => Err(Failure::usage(format!("{} has no token in it", token_file.display()))
            .hint("put the token into it")),
        false => Ok(()),
    }
}

/// Returns the mask of the permission bits of new files.
fn umask() -> rustix::fs::RawMode {
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::umask(mask);
    mask.as_raw_mode()
}

/// Runs a command of systemd's user manager. Fails with the reason in words.
fn systemctl(args: &[&str]) -> Result<(), String> {
    let command = format!("systemctl --user {}", args.join(" "));
    let ran = Command::new("systemctl").arg("--user").args(args).stdin(Stdio::null()).output();
    match ran {
        Ok(ran) if ran.status.success() => Ok(()),
        Ok(ran) => {
            let said = String::from_utf8_lossy(&ran.stderr);
            let said = said.lines().next().unwrap_or("it failed without a message");
            Err(format!("`{command}`: {said}"))
        }
        Err(error) => Err(format!("cannot run `{command}`: {error}")),
    }
}

/// Returns the answer of systemd's user manager about the unit; `None` if there is none.
fn answer(question: &str) -> Option<String> {
    let mut command = Command::new("systemctl");
    let ran = command.args(["--user", question, UNIT]).stdin(Stdio::null()).output().ok()?;
    let word = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
    (!word.is_empty()).then_some(word)
}
