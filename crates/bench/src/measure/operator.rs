//! The operator's side: what metrics, audit log and registry of devices cost, how long it takes to list devices and to
//! examine a large user, and what others notice of that and of a user's deletion.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::oneshot;
use vfs_sync_core::wire::PullPage;
use vfs_sync_core::wire::device::{CLIENT_HEADER, DEVICE_HEADER};

use super::large::{Times, measure};
use crate::Failure;
use crate::measure::push::BATCH;
use crate::measure::sharing::make_tree;
use crate::process::{Server, binary};
use crate::report::{Report, percentile};
use crate::writer::{Writer, granted, made};

/// The devices that are listed, how often, and those of one user.
const DEVICES: usize = 10_000;
const LISTINGS: usize = 9;
const OF_A_USER: usize = 50;
/// The items of the user who is deleted.
const DELETED: usize = 100_000;
/// Pairs of pushes, and of pulls, by which the cost of records is found.
const PAIRS: usize = 1_000;
/// The time for which pushes are measured beside nothing.
const ALONE: Duration = Duration::from_secs(5);
/// The time within which each step must be done.
const PATIENCE: Duration = Duration::from_secs(900);

/// A server, and an operator of it.
struct Ground<'a> {
    server: Server,
    data: &'a Path,
    database: Option<&'a str>,
    http: reqwest::Client,
    token: String,
}

impl Ground<'_> {
    async fn get(&self, path: &str) -> Result<Value, Failure> {
        let url = format!("{}/v1/vfs/admin/{path}", self.server.url);
        let answer = self.http.get(url).bearer_auth(&self.token).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// Pushes as another user until `work` ends; returns the times of the pushes.
    async fn beside<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<(T, Times), Failure> {
        let (stop, stopped) = oneshot::channel();
        let victim = Writer::new(&self.server.url, "victim")?;
        let victim = victim.replica(&uuid::Uuid::now_v7().to_string());
        let pushes = tokio::spawn(measure(victim, stopped));
        let done = work.await?;
        let _ = stop.send(());
        Ok((done, pushes.await??.1))
    }

    async fn alone(&self) -> Result<Times, Failure> {
        let work = async {
            tokio::time::sleep(ALONE).await;
            Ok(())
        };
        Ok(self.beside(work).await?.1)
    }
}

/// Runs the measurements on a new server over `database`, with a user of `items` items.
pub(crate) async fn run(
    report: &mut Report,
    data: &Path,
    database: Option<&str>,
    engine: &str,
    items: usize,
) -> Result<(), Failure> {
    std::fs::create_dir(data)?;
    let server = Server::recording(data, database).await?;
    let http = reqwest::Client::builder().tcp_nodelay(true).build()?;
    let token = Server::operator_token()?;
    let ground = Ground { server, data, database, http, token };
    let name = |what: &str| format!("{what}, {engine}");
    recording(report, &ground, &name).await?;
    devices(report, &ground, &name).await?;
    deletion(report, &ground, &name).await?;
    doctor(report, &ground, &name, items).await
}

/// Measures pushes and pulls of a device at a server with metrics and the audit log, against those
/// without a device at one that records nothing, in turn.
async fn recording(
    report: &mut Report,
    ground: &Ground<'_>,
    name: &impl Fn(&str) -> String,
) -> Result<(), Failure> {
    let bare = Server::bare(&ground.data.join("bare"), ground.database).await?;
    let headers =
        [(CLIENT_HEADER, "r"), (DEVICE_HEADER, "name=bench&version=1.0.0&platform=linux")];
    let headers = headers.map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes());
        name.map(|name| (name, HeaderValue::from_static(value)))
    });
    let headers = headers.into_iter().collect::<Result<HeaderMap, _>>()?;
    let client = |headers| {
        let client = reqwest::Client::builder().tcp_nodelay(true);
        client.default_headers(headers).build()
    };
    let mut recorded = Writer::new(&ground.server.url, "recorded")?;
    recorded.http = client(headers)?;
    let mut unrecorded = Writer::new(&bare.url, "unrecorded")?;
    unrecorded.http = client(HeaderMap::new())?;
    let mut writers = [recorded, unrecorded];
    let cpu = || Ok::<_, Failure>([ground.server.cpu()?, bare.cpu()?]);
    let (mut times, mut spent) = ([const { Vec::new() }; 4], [Duration::ZERO; 4]);
    for kind in [0, 1] {
        let before = cpu()?;
        for pair in 0..PAIRS {
            // Each is the first one in half of the pairs.
            for turn in [pair % 2, 1 - pair % 2] {
                let begun = Instant::now();
                match kind {
                    0 => drop(writers[turn].push(batch()).await?),
                    _ => pull(&writers[turn]).await?,
                }
                times[kind * 2 + turn].push(begun.elapsed().as_secs_f64());
            }
        }
        for (turn, (after, before)) in cpu()?.into_iter().zip(before).enumerate() {
            spent[kind * 2 + turn] = after - before;
        }
    }
    times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
    let median = |times: &[f64]| percentile(times, 50).unwrap_or(f64::INFINITY);
    let times = times.each_ref().map(|times| median(times));
    let spent = spent.map(|spent| spent.as_secs_f64() / PAIRS as f64);
    for (kind, what) in ["push of 50", "pull of 500"].into_iter().enumerate() {
        let (recorded, bare) = (kind * 2, kind * 2 + 1);
        report.note(&name(&format!("{what}, nothing recorded")), times[bare] * 1e3, "ms");
        let ratio = times[recorded] / times[bare];
        report.at_most(&name("  with metrics, audit and registry"), ratio, 1.03, "x");
        report.note(&name("  server's CPU, nothing recorded"), spent[bare] * 1e3, "ms");
        let ratio = spent[recorded] / spent[bare];
        report.note(&name("  the same with all of that"), ratio, "x");
    }
    Ok(())
}

async fn pull(reader: &Writer) -> Result<(), Failure> {
    let url = format!("{}/v1/vfs/crdt/vfs-sync?limit=500&clientId=r", reader.url);
    let page = reader.http.get(url).bearer_auth(&reader.token).send().await?;
    page.error_for_status()?.bytes().await?;
    Ok(())
}

/// Returns new files, of which one is shared: the audit log notes that.
fn batch() -> Vec<Value> {
    let id = || uuid::Uuid::now_v7().to_string();
    let shared = id();
    let mut operations = vec![made(&shared, "file", None), granted(&shared, "guest")];
    operations.extend((2..BATCH / 10).map(|_| made(&id(), "file", None)));
    operations
}

/// Has devices call, and lists them.
async fn devices(
    report: &mut Report,
    ground: &Ground<'_>,
    name: &impl Fn(&str) -> String,
) -> Result<(), Failure> {
    let url = format!("{}/v1/vfs/crdt", ground.server.url);
    for user in 0..DEVICES / OF_A_USER {
        let mut writer = Writer::new(&ground.server.url, &format!("user{user}"))?;
        writer.push(vec![made(&format!("item-{user}"), "file", None)]).await?;
        let pull = ground.http.get(format!("{url}/vfs-sync")).bearer_auth(&writer.token);
        let page: PullPage = pull.send().await?.json().await?;
        let cursor = page.items.last().ok_or("the feed is empty")?.position.clone();
        let calls = (0..OF_A_USER).map(|device| {
            let device = format!("device-{user}-{device}");
            let call = ground.http.post(format!("{url}/reconcile"));
            call.bearer_auth(&writer.token)
                .json(&json!({"clientId": device, "cursor": cursor}))
                .header(CLIENT_HEADER, &device)
                .header(DEVICE_HEADER, "name=a%20device&version=1.0.0&platform=linux&queue=3")
                .send()
        });
        for answer in futures::future::join_all(calls).await {
            answer?.error_for_status()?;
        }
    }
    let list = async || {
        let (mut count, mut lags) = (0, 0);
        let mut place = String::new();
        loop {
            let page = ground.get(&format!("devices?limit=500{place}")).await?;
            let devices = page["devices"].as_array().ok_or("no devices")?;
            count += devices.len();
            lags += devices
                .iter()
                .filter(|device| device.get("lag").is_some_and(|lag| !lag.is_null()))
                .count();
            let Some(next) = page["nextCursor"].as_str() else { break };
            place = format!("&cursor={next}");
        }
        Ok::<_, Failure>((count, lags))
    };
    let begun = Instant::now();
    while list().await?.0 < DEVICES {
        if begun.elapsed() > PATIENCE {
            return Err("the devices were not written".into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut times = Vec::new();
    for _ in 0..LISTINGS {
        let begun = Instant::now();
        let (count, lags) = list().await?;
        times.push(begun.elapsed());
        // Those of the measurement before have acknowledged nothing.
        if lags < DEVICES {
            return Err(format!("{lags} of {count} devices have a lag").into());
        }
    }
    times.sort();
    let taken = percentile(&times, 50).ok_or("nothing was listed")?;
    report.at_most(
        &name("listing 10,000 devices with lag"),
        taken.as_secs_f64() * 1e3,
        200.0,
        "ms",
    );
    Ok(())
}

/// Deletes a user beside pushes of another one.
async fn deletion(
    report: &mut Report,
    ground: &Ground<'_>,
    name: &impl Fn(&str) -> String,
) -> Result<(), Failure> {
    make_tree(&mut Writer::new(&ground.server.url, "leaver")?, "left", DELETED).await?;
    let alone = ground.alone().await?;
    let url = format!("{}/v1/vfs/admin/users/leaver", ground.server.url);
    let work = async {
        let begun = Instant::now();
        let delete = ground.http.post(format!("{url}/delete")).bearer_auth(&ground.token);
        let body = json!({"waitSeconds": 0});
        delete.json(&body).send().await?.error_for_status()?;
        loop {
            let user = ground.get("users/leaver").await?;
            if user["deletion"]["state"] == "done" {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("the user is not deleted: {user}").into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (taken, pushes) = ground.beside(work).await?;
    report.note(&name("deleting a user of 100,000 items"), taken.as_secs_f64(), "s");
    compare(report, name, &alone, &pushes, 1.5);
    Ok(())
}

/// Notes the pushes of another user beside some work, against those beside nothing.
fn compare(
    report: &mut Report,
    name: &impl Fn(&str) -> String,
    alone: &Times,
    beside: &Times,
    budget: f64,
) {
    report.note(&name("  pushes beside that, number"), beside.0.len() as f64, "");
    report.note(&name("  median beside nothing"), alone.millis(50), "ms");
    let times = beside.millis(50) / alone.millis(50);
    report.at_most(&name("  median against that"), times, budget, "x");
    report.note(&name("  99 % against that"), beside.millis(99) / alone.millis(99), "x");
}

/// Examines a large user beside pushes of another one.
async fn doctor(
    report: &mut Report,
    ground: &Ground<'_>,
    name: &impl Fn(&str) -> String,
    items: usize,
) -> Result<(), Failure> {
    make_tree(&mut Writer::new(&ground.server.url, "large")?, "all", items).await?;
    let alone = ground.alone().await?;
    let work = async {
        let mut command = Command::new(binary()?);
        command.args(["--json", "admin", "doctor", "--user", "large", "--data"]).arg(ground.data);
        command.envs(ground.database.map(|url| ("VFS_SYNC_DATABASE_URL", url)));
        command.env("RUST_LOG", "off").stdin(Stdio::null()).stderr(Stdio::null());
        let begun = Instant::now();
        let found: Value = serde_json::from_slice(&command.output().await?.stdout)?;
        Ok((begun.elapsed(), found))
    };
    let ((taken, found), pushes) = ground.beside(work).await?;
    let is_ok = |check: &&Value| check["outcome"] == "ok";
    let checks = found["checks"].as_array().ok_or("the doctor made no checks")?;
    let state =
        checks.iter().filter(|one| one["id"].as_str().is_some_and(|id| id.starts_with("state.")));
    let (all, well) = (state.clone().count(), state.filter(is_ok).count());
    if all != 4 || well != all {
        return Err(format!("the doctor found something: {found}").into());
    }
    report.note(&name("items of the user that the doctor examines"), items as f64, "");
    report.at_most(&name("  the examination"), taken.as_secs_f64(), 30.0, "s");
    compare(report, name, &alone, &pushes, 1.0 / 0.8);
    Ok(())
}
