//! `demo`: a server, two replicas, edits on both sides of a cut, identical trees, and two live folders
//! in the end.

mod compare;
mod cut;
mod edits;
mod generate;
mod live;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{HttpConfig, HttpTransport, StaticToken, SyncClient, SyncReport};
use vfs_sync_core::id::UserId;
use vfs_sync_server::auth::{AuthConfig, Secret};

use super::render::SyncProgress;
use crate::args::Demo;
use crate::error::{Failure, Kind, Result};
use crate::output::{Output, bytes_text, count_text};
use crate::replica::{self, Settings};
use crate::server::{self, Setup};
use crate::shutdown;
use cut::Cuttable;
use vfs_sync_folder::export::{self, ExportOptions, ExportReport};
use vfs_sync_folder::import::{self, ImportOptions, ImportReport};
use vfs_sync_folder::scan::Scanner;

const USER: &str = "demo";
/// The number of rounds after which two replicas that have not settled count as stuck.
const ROUNDS: usize = 20;
const TOKEN_TIME: Duration = Duration::from_secs(7 * 86_400);

/// A replica of the demonstration.
struct Side {
    name: &'static str,
    client: SyncClient,
    line: Arc<Cuttable>,
    shown: Arc<SyncProgress>,
}

struct Story {
    output: Output,
    stop: CancellationToken,
}

impl Story {
    /// Reports a step: a line for people, or a document.
    fn report(&self, step: &str, started: Instant, text: &str, more: Value) -> Result<()> {
        let seconds = started.elapsed().as_secs_f64();
        self.output.say(format_args!("{step:<12} {text} · {seconds:.1} s"))?;
        let mut document = json!({ "step": step, "seconds": seconds });
        if let (Value::Object(document), Value::Object(more)) = (&mut document, more) {
            document.extend(more);
        }
        self.output.json(&document)
    }

    fn go_on(&self) -> Result<()> {
        if self.stop.is_cancelled() { Err(shutdown::interrupted()) } else { Ok(()) }
    }

    async fn sync(&self, side: &Side) -> Result<SyncReport> {
        side.shown.with(Some(self.output.progress("syncing")));
        let report = shutdown::unless_stopped(&self.stop, side.client.sync()).await;
        side.shown.with(None);
        report
    }
}

pub(crate) async fn run(args: Demo, output: Output, stop: CancellationToken) -> Result<()> {
    let directory = tempfile::Builder::new()
        .prefix("vfs-sync-demo-")
        .tempdir()
        .map_err(Failure::io("cannot make a temporary directory"))?;
    let base = directory.path().to_owned();
    let ending = CancellationToken::new();
    let secret =
        format!("{0:x}{1:x}", uuid::Uuid::now_v7().as_u128(), uuid::Uuid::now_v7().as_u128());
    let secret = format!("{secret}{:x}", uuid::Uuid::now_v7().as_u128());
    let auth = AuthConfig::with_secret(Secret::new(secret.clone()))
        .map_err(|error| Failure::failed(error.to_string()))?;
    let user = UserId::new(USER).map_err(|error| Failure::failed(error.to_string()))?;
    let token = auth
        .mint(&user, None, TOKEN_TIME, server::now())
        .map_err(|error| Failure::failed(error.to_string()))?;
    let bound = server::bind(Setup {
        config: vfs_sync_server::ServerConfig::default(),
        auth,
        database: server::database_in(&base.join("server"))?,
        data: base.join("server"),
        new: false,
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        admin_listen: None,
        tls: None,
    })
    .await?;
    let url = format!("http://{}", bound.address);
    let serving = tokio::spawn(bound.server.serve(
        bound.listener,
        bound.admin,
        ending.clone().cancelled_owned(),
    ));
    secret_file(&base.join("token"), &token)?;
    let story = Story { output, stop: stop.clone() };
    story.report("server", Instant::now(), &url, json!({ "url": url, "directory": base }))?;

    let identical = play(&story, &base, &url, &user, &token, args.dir).await;
    if args.keep && !stop.is_cancelled() {
        keep(output, &base, &url, &secret)?;
        stop.cancelled().await;
        ending.cancel();
        let _ = serving.await;
        // The directory belongs to the user now.
        let _ = directory.keep();
        return identical;
    }
    ending.cancel();
    let _ = serving.await;
    output.note("removing the temporary directory");
    let removed = directory.close().map_err(Failure::io("cannot remove the temporary directory"));
    identical.and(removed)
}

/// Runs the demonstration; fails if it does not end in equal trees.
async fn play(
    story: &Story,
    base: &Path,
    url: &str,
    user: &UserId,
    token: &str,
    dir: Option<PathBuf>,
) -> Result<()> {
    let begun = Instant::now();
    let source = match dir {
        Some(dir) => dir,
        None => {
            let started = Instant::now();
            let top = base.join("tree");
            std::fs::create_dir(&top)
                .and_then(|()| generate::generate(&top))
                .map_err(Failure::io("cannot generate a tree"))?;
            story.report("generate", started, "a tree of thousands of files", json!({}))?;
            top
        }
    };
    let one = side("one", base, url, user, token)?;
    let two = side("two", base, url, user, token)?;

    import(story, &one, &source)?;
    let stage = edits::prepare(&one.client)?;
    for side in [&one, &two] {
        let started = Instant::now();
        let report = story.sync(side).await?;
        report_sync(story, side.name, started, &report)?;
    }

    two.line.set_cut(true);
    let started = Instant::now();
    let refused = match two.client.sync().await {
        Err(error) if error.is_transient() => error.to_string(),
        Err(error) => return Err(error.into()),
        Ok(_) => return Err(Failure::failed("a disconnected replica has synchronised")),
    };
    story.report("cut", started, "two is disconnected", json!({ "error": refused }))?;
    edit(story, "one edits", || edits::on_one(&one.client, &stage))?;
    let started = Instant::now();
    let report = story.sync(&one).await?;
    report_sync(story, one.name, started, &report)?;
    edit(story, "two edits", || edits::on_two(&two.client, &stage))?;

    two.line.set_cut(false);
    settle(story, [&two, &one]).await?;

    let mut problems = 0;
    for side in [&one, &two] {
        problems += export(story, side, &base.join(format!("export-{}", side.name))).await?;
    }
    let started = Instant::now();
    let comparison = compare::compare(&base.join("export-one"), &base.join("export-two"))?;
    let identical = comparison.differing == 0 && problems == 0;
    let verdict = if identical { "identical" } else { "NOT IDENTICAL" };
    let text = format!(
        "{verdict}: {} files, {} folders, {} by digest, name, time and permission bits",
        count_text(comparison.files),
        count_text(comparison.folders),
        bytes_text(comparison.bytes),
    );
    let more = json!({ "identical": identical, "comparison": comparison, "problems": problems });
    story.report("compare", started, &text, more)?;
    if identical {
        live::play(story, base, [one, two]).await?;
        let total = begun.elapsed().as_secs_f64();
        story.output.json(&json!({ "step": "total", "seconds": total }))?;
        return story.output.say(format_args!("{:<12} {total:.1} s", "total"));
    }
    for difference in comparison.differences.iter().take(20) {
        story.output.note(crate::escape::escaped(difference));
    }
    let message = format!("{} differences, {problems} problems", comparison.differing);
    Err(Failure::new(Kind::Failed, message))
}

fn side(name: &'static str, base: &Path, url: &str, user: &UserId, token: &str) -> Result<Side> {
    let http = HttpTransport::new(HttpConfig::new(url), StaticToken::new(token))?;
    let line = Arc::new(Cuttable::new(Arc::new(http)));
    let directory = base.join(name);
    let (transport, config) = (line.clone(), replica::config());
    let client = SyncClient::builder(transport)
        .server(url)
        .config(config)
        .create(&directory, user.clone())?;
    Settings::new(url, Some(base.join("token"))).write(&directory)?;
    let shown = Arc::new(SyncProgress::default());
    client.observe(shown.clone());
    Ok(Side { name, client, line, shown })
}

fn import(story: &Story, side: &Side, source: &Path) -> Result<()> {
    let started = Instant::now();
    let scanner = Scanner::open(source, &[])
        .map_err(Failure::io(format!("cannot read {}", source.display())))?;
    let progress = story.output.progress("importing");
    let mut show = |report: &ImportReport| {
        progress.set(format!("{} files, {}", report.files_created, bytes_text(report.bytes)));
    };
    let options = ImportOptions::default();
    let report =
        import::import(&side.client, scanner, None, options, None, &story.stop, &mut show)?;
    drop(progress);
    story.go_on()?;
    let text = format!(
        "{} files, {} folders into one ({}){}",
        count_text(report.files_created),
        count_text(report.folders_created),
        rate(report.bytes, report.files_created, started),
        match report.problems.total() {
            0 => String::new(),
            left_out => format!(" · {left_out} left out"),
        }
    );
    story.report("import", started, &text, json!({ "report": report }))?;
    story.output.problems(&report.problems);
    Ok(())
}

fn edit(story: &Story, who: &str, edits: impl FnOnce() -> Result<edits::Edits>) -> Result<()> {
    story.go_on()?;
    let started = Instant::now();
    let edits = edits()?;
    let text = format!(
        "{}: {} renames, {} moves, {} deletes, {} new files, {} contents, {} times",
        edits.total(),
        edits.renames,
        edits.moves,
        edits.deletes,
        edits.new,
        edits.contents,
        edits.attributes
    );
    story.report(who, started, &text, json!({ "edits": edits }))
}

fn report_sync(story: &Story, name: &str, started: Instant, report: &SyncReport) -> Result<()> {
    let mut parts = Vec::new();
    let mut part = |count: u64, what: &str| {
        if count > 0 {
            parts.push(format!("{} {what}", count_text(count)));
        }
    };
    part(report.applied, "pushed");
    part(report.outdated, "overridden");
    part(report.rejected, "rejected");
    part(report.pulled, "pulled");
    part(report.uploaded, "contents uploaded");
    let mut text = parts.join(", ");
    if report.uploaded > 0 {
        text.push_str(&format!(" ({})", rate(report.uploaded_bytes, report.uploaded, started)));
    } else {
        let entries = report.applied + report.pulled;
        text.push_str(&format!(" ({}/s)", per_second(entries, started)));
    }
    story.report(&format!("sync {name}"), started, &text, json!({ "report": report }))
}

/// Formats an amount and its rate.
fn rate(bytes: u64, files: u64, started: Instant) -> String {
    let megabytes = per_second(bytes / 100_000, started);
    format!(
        "{}, {} files/s, {}.{} MB/s",
        bytes_text(bytes),
        per_second(files, started),
        megabytes / 10,
        megabytes % 10
    )
}

fn per_second(count: u64, started: Instant) -> u64 {
    let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
    count.saturating_mul(1_000) / millis
}

/// Synchronises both sides until neither has anything to send or receive.
async fn settle(story: &Story, sides: [&Side; 2]) -> Result<()> {
    for round in 1..=ROUNDS {
        let mut quiet = true;
        for side in sides {
            let started = Instant::now();
            let report = story.sync(side).await?;
            let status = side.client.status()?;
            let said = report.applied + report.outdated + report.pulled + report.uploaded;
            let waits = status.pending + status.acknowledged + status.uploads;
            quiet &= said == 0 && waits == 0;
            if said > 0 {
                report_sync(story, side.name, started, &report)?;
            }
        }
        if quiet {
            let text = format!("both settled after {round} rounds");
            return story.report("joined", Instant::now(), &text, json!({ "rounds": round }));
        }
    }
    Err(Failure::failed(format!("the replicas are not settled after {ROUNDS} rounds")))
}

/// Exports a side; returns the number of entries that were left out.
async fn export(story: &Story, side: &Side, to: &Path) -> Result<u64> {
    let started = Instant::now();
    let progress = story.output.progress("exporting");
    let mut show = |report: &ExportReport| {
        progress.set(format!("{} files, {}", report.files_written, bytes_text(report.bytes)));
    };
    let options = ExportOptions::default();
    let report = export::export(&side.client, None, to, options, &story.stop, &mut show).await?;
    drop(progress);
    story.go_on()?;
    let text = format!(
        "{} files, {} folders ({})",
        count_text(report.files_written),
        count_text(report.folders_created),
        rate(report.bytes, report.files_written, started)
    );
    let step = format!("export {}", side.name);
    story.report(&step, started, &text, json!({ "report": report }))?;
    story.output.problems(&report.problems);
    Ok(report.problems.failures())
}

/// Writes a file that only the user may read.
fn secret_file(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| writeln!(file, "{text}"))
        .map_err(Failure::io(format!("cannot write {}", path.display())))
}

/// Leaves everything in place and prints the next steps.
fn keep(output: Output, base: &Path, url: &str, secret: &str) -> Result<()> {
    secret_file(&base.join("secret"), secret)?;
    let base = base.display();
    output.json(&json!({
        "step": "kept", "url": url, "directory": base.to_string(),
        "replicas": [format!("{base}/one"), format!("{base}/two")],
    }))?;
    let text = format!(
        "\nThe server keeps running at {url} until Ctrl-C. In another terminal:\n  \
         vfs-sync --replica {base}/one tree --depth 1\n  \
         vfs-sync --replica {base}/one mkdir /hello\n  \
         vfs-sync --replica {base}/one sync\n  \
         vfs-sync --replica {base}/two sync && vfs-sync --replica {base}/two ls\n  \
         vfs-sync --replica {base}/one up     # keeps {base}/export-one in step\n\
         To serve it again later:\n  \
         VFS_SYNC_JWT_SECRET_FILE={base}/secret vfs-sync serve --listen {} --data {base}/server\n\
         Everything is in {base}; remove it when you are done.",
        url.trim_start_matches("http://")
    );
    text.lines().try_for_each(|line| output.say(line))
}
