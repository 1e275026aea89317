//! The operator's side: what the registry of devices costs, how long it takes to list devices and to
//! examine a large user, and what others notice of that and of a user's deletion.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

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
use crate::workload::{Ids, Workload};
use crate::writer::{Writer, made};

/// The devices that are listed, and those of one user.
const DEVICES: usize = 10_000;
const OF_A_USER: usize = 50;
/// The items of the user who is deleted.
const DELETED: usize = 100_000;
/// Pairs of pushes, and of pulls, by which the registry's cost is found.
const PAIRS: usize = 400;
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
    let server = Server::start(data, database).await?;
    let http = reqwest::Client::builder().tcp_nodelay(true).build()?;
    let token = Server::operator_token()?;
    let ground = Ground { server, data, database, http, token };
    let name = |what: &str| format!("{what}, {engine}");
    registry(report, &ground, &name).await?;
    devices(report, &ground, &name).await?;
    deletion(report, &ground, &name).await?;
    doctor(report, &ground, &name, items).await
}

/// Measures pushes and pulls with and without the headers of a device, in turn.
async fn registry(
    report: &mut Report,
    ground: &Ground<'_>,
    name: &impl Fn(&str) -> String,
) -> Result<(), Failure> {
    let mut writers = ["known", "unknown"].map(|name| Workload::new(name, Ids::UuidV7));
    let mut times = [const { Vec::new() }; 4];
    for pair in 0..PAIRS {
        // Each is the first one in half of the pairs.
        for turn in [pair % 2, 1 - pair % 2] {
            let is_known = turn == 0;
            let sign = |request: reqwest::RequestBuilder| {
                let request = request.bearer_auth(&ground.server.token);
                match is_known {
                    true => request
                        .header(CLIENT_HEADER, "known")
                        .header(DEVICE_HEADER, "name=bench&version=1.0.0&platform=linux"),
                    false => request,
                }
            };
            let url = format!("{}/v1/vfs/crdt/", ground.server.url);
            let push = ground.http.post(format!("{url}push")).json(&writers[turn].push(BATCH / 10));
            let pull = ground.http.get(format!("{url}vfs-sync?limit=500&clientId=reader"));
            for (kind, request) in [push, pull].into_iter().enumerate() {
                let begun = Instant::now();
                sign(request).send().await?.error_for_status()?.bytes().await?;
                times[kind * 2 + turn].push(begun.elapsed().as_secs_f64());
            }
        }
    }
    times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
    let median = |times: &[f64]| percentile(times, 50).unwrap_or(f64::INFINITY);
    let [known_push, push, known_pull, pull] = times.each_ref().map(|times| median(times));
    report.note(&name("push of 50 without a device"), push * 1e3, "ms");
    report.at_most(&name("  from a device"), known_push / push, 1.03, "x");
    report.note(&name("pull of 500 without a device"), pull * 1e3, "ms");
    report.at_most(&name("  from a device"), known_pull / pull, 1.03, "x");
    Ok(())
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
    let begun = Instant::now();
    let (count, lags) = list().await?;
    let taken = begun.elapsed();
    // Those of the measurement before have acknowledged nothing.
    if lags < DEVICES {
        return Err(format!("{lags} of {count} devices have a lag").into());
    }
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
