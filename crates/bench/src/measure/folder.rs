//! Live folders: two `up` processes on one machine, and how soon what one directory gets is in the
//! other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::peers;
use crate::Failure;
use crate::process::{Server, binary, cpu_of, memory_of};
use crate::report::{Report, percentile};

/// Saves whose way to the other directory is measured.
const SAVES: usize = 40;
/// The pause between two of them, after which both directories are quiet.
pub(super) const PAUSE: Duration = Duration::from_millis(700);
/// The time within which each step must be done.
const PATIENCE: Duration = Duration::from_secs(600);
/// The files of a directory that is renamed.
const RENAMED: usize = 10_000;
/// The files in each folder of the tree.
const IN_FOLDER: usize = 40;
/// The time for which the idle processes are watched.
const IDLE: Duration = Duration::from_secs(20);
/// The time without a change after which `up` takes a file, in seconds.
const QUIET: f64 = 0.5;

/// A running `up`, killed when dropped.
struct Up {
    child: Child,
    replica: PathBuf,
    directory: PathBuf,
}

impl Up {
    fn start(server: &Server, dir: &Path, name: &str) -> Result<Self, Failure> {
        let (replica, directory) = (dir.join(format!("replica {name}")), dir.join(name));
        fs::create_dir(&directory)?;
        let token = dir.join("token");
        fs::write(&token, &server.token)?;
        let mut command = Command::new(binary()?);
        command.args(["--json", "--replica"]).arg(&replica).arg("up").arg(&directory);
        command.args(["--server", &server.url, "--token-file"]).arg(&token);
        command.env("RUST_LOG", "off").stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { child: command.spawn()?, replica, directory })
    }

    /// Runs `folder` with these arguments beside the process.
    fn folder(&self, args: &[&str]) -> Result<Value, Failure> {
        let mut command = Command::new(binary()?);
        command.args(["--json", "--replica"]).arg(&self.replica).arg("folder").args(args);
        Ok(serde_json::from_slice(&command.output()?.stdout)?)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.join(path)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a condition, and returns the time since `begun`.
pub(super) fn until(begun: Instant, mut is_so: impl FnMut() -> bool) -> Result<f64, Failure> {
    while !is_so() {
        if begun.elapsed() > PATIENCE {
            return Err("the other directory did not follow".into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// Counts the files and folders in a directory.
pub(super) fn entries(top: &Path) -> usize {
    let (mut count, mut folders) = (0, vec![top.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            // The agent's own folder is none of the user's.
            if entry.file_name() == ".vfs-sync" {
                continue;
            }
            count += 1;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    count
}

/// Writes a tree with `files` files of some kilobytes; returns its size in bytes.
fn make_tree(top: &Path, files: usize) -> Result<u64, Failure> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut size = 0;
    let mut bytes = vec![0; 64 * 1024];
    for file in 0..files {
        let folder = top.join(format!("{}/{}", file % 50, file / IN_FOLDER / 50));
        let length = [200, 2_000, 9_000, 40_000][random.usize(..4)];
        random.fill(&mut bytes[..length]);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("f{file}")), &bytes[..length])?;
        size += length as u64;
    }
    Ok(size)
}

fn run_command(program: &str, args: &[&Path]) -> Result<f64, Failure> {
    let begun = Instant::now();
    let done = Command::new(program).args(["-a"]).args(args).status()?;
    if !done.success() {
        return Err(format!("{program} failed").into());
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// Copies a tree into one directory; returns the time until it is whole in the other one.
pub(super) fn copied(source: &Path, here: &Path, there: &Path) -> Result<f64, Failure> {
    let all = entries(source);
    let begun = Instant::now();
    run_command("cp", &[source, here])?;
    let mut look = Duration::from_millis(10);
    until(begun, || {
        // Looks take a twentieth of a processor, whatever their cost.
        std::thread::sleep(look * 20);
        let begun = Instant::now();
        let is_whole = entries(there) >= all;
        look = begun.elapsed();
        is_whole
    })
}

/// Saves 4 KiB to a new file; returns the time until they are whole in the other directory.
pub(super) fn saved(here: &Path, there: &Path) -> Result<f64, Failure> {
    let mut bytes = [0; 4_096];
    fastrand::fill(&mut bytes);
    let begun = Instant::now();
    fs::write(here, bytes)?;
    until(begun, || fs::read(there).is_ok_and(|found| found == bytes))
}

/// Measures saves of 4 KiB to new files in `folder` until they are whole in the other directory.
fn saves(a: &Up, b: &Up, folder: &str) -> Result<Vec<f64>, Failure> {
    let mut taken = Vec::new();
    fs::create_dir_all(a.at(folder))?;
    until(Instant::now(), || b.at(folder).is_dir())?;
    for number in 0..SAVES {
        std::thread::sleep(PAUSE);
        let path = format!("{folder}/new{number}");
        taken.push(saved(&a.at(&path), &b.at(&path))?);
    }
    taken.sort_by(f64::total_cmp);
    Ok(taken)
}

/// Runs the measurements with a tree of `files` files.
pub(crate) async fn run(report: &mut Report, dir: &Path, files: usize) -> Result<(), Failure> {
    let data = dir.join("folders");
    fs::create_dir(&data)?;
    let server = Server::start(&data, None).await?;
    let (a, b) = (Up::start(&server, dir, "a")?, Up::start(&server, dir, "b")?);
    let before = saves(&a, &b, "small")?;

    let source = dir.join("source");
    let size = make_tree(&source, files)?;
    let local = run_command("cp", &[&source, &dir.join("copy")])?;
    let all = entries(&source);
    let whole = copied(&source, &a.at("tree"), &b.at("tree"))?;
    report.note("files of the tree", files as f64, "");
    report.note("  their size", size as f64 / 1e6, "MB");
    report.note("copied by cp -a", local, "s");
    report.note("copied into one live folder, until whole in the other", whole, "s");

    let taken = saves(&a, &b, "tree/0/0")?;
    let median = percentile(&taken, 50).ok_or("nothing was saved")?;
    report.at_most("new file of 4 KiB, median", median, 0.7, "s");
    report.at_most("  beyond the quiet time", median - QUIET, 0.2, "s");
    report.at_most("  99 %", percentile(&taken, 99).ok_or("nothing was saved")?, 1.5, "s");
    let small = percentile(&before, 50).ok_or("nothing was saved")?;
    report.at_most("  against a directory of a few files", median / small, 1.2, "x");

    fs::create_dir(a.at("many"))?;
    for number in 0..RENAMED {
        fs::write(a.at(&format!("many/{number}")), format!("{number}"))?;
    }
    until(Instant::now(), || entries(&b.at("many")) >= RENAMED)?;
    std::thread::sleep(PAUSE * 6);
    let begun = Instant::now();
    fs::rename(a.at("many"), a.at("renamed"))?;
    let taken = until(begun, || b.at("renamed").is_dir() && !b.at("many").exists())?;
    let left = entries(&b.at("renamed"));
    if left != RENAMED {
        return Err(format!("{left} of {RENAMED} files were renamed").into());
    }
    report.at_most("a directory of 10,000 files is renamed", taken, 1.0, "s");

    // Attributes that are two seconds old are not read again.
    std::thread::sleep(PAUSE * 6);
    let begun = Instant::now();
    let scanned = a.folder(&["scan"])?;
    let taken = begun.elapsed().as_secs_f64();
    let looked = scanned["folders"][0]["entries"].as_f64().ok_or("the scan has no entries")?;
    report.at_most("scan of 100,000 entries in step", taken / looked * 100_000.0, 1.5, "s");

    let cpu = || -> Result<Duration, Failure> { Ok(cpu_of(a.child.id())? + cpu_of(b.child.id())?) };
    let before = cpu()?;
    std::thread::sleep(IDLE);
    let used = (cpu()? - before).as_secs_f64() / 2.0 / IDLE.as_secs_f64();
    report.at_most("idle: part of a processor", used * 100.0, 0.1, "%");
    report.note("memory of the agent", memory_of(a.child.id(), "VmRSS:")?, "MB");

    // Fewer than half of all entries: more would wait for a confirmation.
    let folders = all / 3;
    for number in 0..folders {
        fs::create_dir_all(a.at(&format!("empty/{}/{number}", number % 100)))?;
        fs::create_dir_all(dir.join(format!("local/{}/{number}", number % 100)))?;
    }
    until(Instant::now(), || entries(&b.at("empty")) >= folders)?;
    std::thread::sleep(PAUSE * 6);
    let begun = Instant::now();
    fs::remove_dir_all(dir.join("local"))?;
    let local = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    fs::remove_dir_all(a.at("empty"))?;
    let taken = until(begun, || !b.at("empty").exists())?;
    report.note("removing folders", folders as f64, "");
    report.note("  by rm -r", local, "s");
    // Two looks, two seconds apart, come before a deletion.
    report.note("  until they are gone in the other directory", taken, "s");
    drop((a, b, server));
    peers::run(report, dir, &source, whole, median)
}
