//! Programs of the same kind, beside which live folders are measured: Syncthing, between two processes
//! as ours are, and Unison, between two directories.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::folder::{PAUSE, copied, entries, saved, until};
use crate::Failure;
use crate::report::{Report, percentile};

/// Saves whose way to the other directory is measured.
const SAVES: usize = 20;

/// A running Syncthing, killed when dropped.
struct Syncthing(Child);

impl Drop for Syncthing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A Syncthing that is set up and does not run yet.
struct Node {
    home: PathBuf,
    id: String,
    port: u16,
    directory: PathBuf,
}

impl Node {
    fn new(dir: &Path, name: &str) -> Result<Self, Failure> {
        let home = dir.join(format!("syncthing {name}"));
        let directory = dir.join(format!("syncthing-{name}"));
        fs::create_dir(&directory)?;
        let run = |args: &[&str]| -> Result<String, Failure> {
            let done = Command::new("syncthing").args(args).arg("--home").arg(&home).output()?;
            match done.status.success() {
                true => Ok(String::from_utf8(done.stdout)?.trim().to_owned()),
                false => {
                    Err(format!("syncthing: {}", String::from_utf8_lossy(&done.stderr)).into())
                }
            }
        };
        run(&["generate", "--no-default-folder"])?;
        let id = run(&["--device-id"])?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok(Self { home, id, port, directory })
    }

    /// Starts it with one folder, which it has in common with `other`. It speaks to nobody else.
    fn start(&self, other: &Self) -> Result<Syncthing, Failure> {
        let [own, others] = [self, other].map(|node| {
            let Self { id, port, .. } = node;
            format!("<device id=\"{id}\"><address>tcp://127.0.0.1:{port}</address></device>")
        });
        let path = self.directory.display();
        let configuration = format!(
            "<configuration version=\"36\">\
             <folder id=\"tree\" path=\"{path}\" type=\"sendreceive\" rescanIntervalS=\"3600\" \
             fsWatcherEnabled=\"true\" fsWatcherDelayS=\"1\">\
             <device id=\"{}\"/><device id=\"{}\"/></folder>{own}{others}\
             <gui enabled=\"false\"/>\
             <options><listenAddress>tcp://127.0.0.1:{}</listenAddress>\
             <globalAnnounceEnabled>false</globalAnnounceEnabled>\
             <localAnnounceEnabled>false</localAnnounceEnabled>\
             <relaysEnabled>false</relaysEnabled><natEnabled>false</natEnabled>\
             <crashReportingEnabled>false</crashReportingEnabled><urAccepted>-1</urAccepted>\
             <autoUpgradeIntervalH>0</autoUpgradeIntervalH><startBrowser>false</startBrowser>\
             <reconnectionIntervalS>1</reconnectionIntervalS></options></configuration>",
            self.id, other.id, self.port
        );
        fs::write(self.home.join("config.xml"), configuration)?;
        let mut command = Command::new("syncthing");
        command.args(["serve", "--no-browser", "--no-restart", "--no-upgrade", "--home"]);
        command.arg(&self.home).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Syncthing(command.spawn()?))
    }
}

fn is_there(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Measures what our live folders did with the tree in `source` in `whole` seconds, and with a new
/// file in `median` seconds.
pub(super) fn run(
    report: &mut Report,
    dir: &Path,
    source: &Path,
    whole: f64,
    median: f64,
) -> Result<(), Failure> {
    match is_there("syncthing") {
        true => syncthing(report, dir, source, whole, median)?,
        false => report.skipped("Syncthing", "it is not installed"),
    }
    match is_there("unison") {
        true => unison(report, dir, source, whole)?,
        false => report.skipped("Unison", "it is not installed"),
    }
    Ok(())
}

fn syncthing(
    report: &mut Report,
    dir: &Path,
    source: &Path,
    ours: f64,
    our_median: f64,
) -> Result<(), Failure> {
    let (a, b) = (Node::new(dir, "a")?, Node::new(dir, "b")?);
    let _running = (a.start(&b)?, b.start(&a)?);
    let first = a.directory.join("first");
    fs::write(&first, "1")?;
    until(Instant::now(), || b.directory.join("first").exists())?;
    std::thread::sleep(PAUSE * 6);
    let whole = copied(source, &a.directory.join("tree"), &b.directory.join("tree"))?;
    report.note("Syncthing: the tree, until whole in the other", whole, "s");
    report.at_least("  against ours", whole / ours, 4.0, "x");
    std::thread::sleep(Duration::from_secs(5));
    let mut taken = Vec::new();
    for number in 0..SAVES {
        std::thread::sleep(PAUSE);
        let path = format!("tree/0/0/new{number}");
        taken.push(saved(&a.directory.join(&path), &b.directory.join(&path))?);
    }
    taken.sort_by(f64::total_cmp);
    let median = percentile(&taken, 50).ok_or("nothing was saved")?;
    report.note("Syncthing: a new file of 4 KiB, median", median, "s");
    report.note("  against ours", median / our_median, "x");
    Ok(())
}

fn unison(report: &mut Report, dir: &Path, source: &Path, ours: f64) -> Result<(), Failure> {
    let (target, archive) = (dir.join("unison"), dir.join("unison archive"));
    [&target, &archive].into_iter().try_for_each(fs::create_dir)?;
    let mut command = Command::new("unison");
    command.args(["-batch", "-silent", "-times"]).arg(source).arg(&target);
    command.env("UNISON", &archive).stdin(Stdio::null()).stdout(Stdio::null());
    let begun = Instant::now();
    let status = command.status()?;
    let whole = begun.elapsed().as_secs_f64();
    if !status.success() || entries(&target) != entries(source) {
        return Err(format!("unison: {status}").into());
    }
    report.note("Unison: the tree, between two directories", whole, "s");
    report.at_most("  ours against that", ours / whole, 1.0, "x");
    Ok(())
}
