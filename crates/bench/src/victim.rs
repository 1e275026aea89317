//! The victim's view: how long a user's requests take while another user attacks the server.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use comfy_table::Table;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use vfs_sync_core::cursor::Cursor;
use vfs_sync_core::wire::PullPage;

use crate::Failure;
use crate::attack::{self, Attack, Attackers};
use crate::process::Server;
use crate::report::{Report, percentile};
use crate::writer::{Writer, made, named};

/// The greatest ratio of a victim's time under an attack to that without one.
const BUDGET: f64 = 5.0;
/// The requests that a victim makes in turn.
const DEEDS: [&str; 4] = ["push", "pull", "small upload", "large download"];
const SMALL: usize = 4 << 10;
const LARGE: usize = 16 << 20;
/// The rounds that are measured without an attack, before each attack.
const ALONE: usize = 30;
/// The time for which an attack goes on before its victim is measured.
const RAMP: Duration = Duration::from_secs(2);
/// The time after which a measurement ends, however few rounds it had.
const PATIENCE: Duration = Duration::from_secs(16);

/// A user who goes on with ordinary work: a change, a look at the feed, a small and a large content.
pub(crate) struct Victim {
    name: String,
    writer: Writer,
    /// A client that opens a connection for each request.
    fresh: reqwest::Client,
    cursor: Option<Cursor>,
    turn: usize,
}

/// The times in seconds of a victim's requests, in the order of [`DEEDS`], and the failed ones.
#[derive(Default)]
pub(crate) struct View {
    times: [Vec<f64>; DEEDS.len()],
    pub(crate) failures: Vec<String>,
}

impl View {
    pub(crate) fn absorb(&mut self, other: Self) {
        for (all, more) in self.times.iter_mut().zip(other.times) {
            all.extend(more);
        }
        self.failures.extend(other.failures);
    }

    /// Returns the number of requests that succeeded.
    pub(crate) fn succeeded(&self) -> usize {
        self.times.iter().map(Vec::len).sum()
    }

    /// Returns the median and the 99 % of a kind of request, in milliseconds.
    fn median_and_99(&self, deed: usize) -> [f64; 2] {
        let mut times = self.times[deed].clone();
        times.sort_by(f64::total_cmp);
        [50, 99]
            .map(|percent| percentile(&times, percent).map_or(f64::INFINITY, |time| time * 1_000.0))
    }
}

impl Victim {
    /// Creates a user with a small file and a large one. The small one keeps its last eleven
    /// contents, which a soak has to fill.
    pub(crate) async fn new(server: &Server, name: &str) -> Result<Self, Failure> {
        let fresh = reqwest::Client::builder().pool_max_idle_per_host(0).tcp_nodelay(true);
        let mut victim = Self {
            name: name.into(),
            writer: Writer::new(&server.url, name)?,
            fresh: fresh.timeout(Duration::from_secs(60)).build()?,
            cursor: None,
            turn: 0,
        };
        victim.writer.push(vec![made(&victim.file(), "file", None)]).await?;
        let large = format!("{name}-large");
        victim.writer.push(vec![made(&large, "file", None)]).await?;
        let stage = json!({"stagingId": large, "blobId": large});
        ok(victim.writer.post("/v1/vfs/blobs/stage").json(&stage)).await?;
        let data = format!("{}/v1/vfs/blobs/stage/{large}/data", server.url);
        let data = victim.writer.http.put(data).bearer_auth(&victim.writer.token);
        ok(data.body(vec![7; LARGE])).await?;
        let attach = victim.writer.post(&format!("/v1/vfs/blobs/stage/{large}/attach"));
        ok(attach.json(&json!({"itemId": large}))).await?;
        Ok(victim)
    }

    /// Goes on at another process of the same server.
    pub(crate) fn move_to(&mut self, server: &Server) {
        self.writer.url.clone_from(&server.url);
    }

    /// Makes each request once, and notes its time or its failure.
    pub(crate) async fn round(&mut self, view: &mut View) {
        self.turn += 1;
        for (deed, name) in DEEDS.into_iter().enumerate() {
            let begun = Instant::now();
            let done = match deed {
                0 => self.push().await,
                1 => self.pull().await,
                2 => self.upload().await,
                _ => self.download().await,
            };
            match done {
                Ok(()) => view.times[deed].push(begun.elapsed().as_secs_f64()),
                Err(error) => {
                    let after = begun.elapsed().as_secs_f64();
                    view.failures.push(format!("{name} after {after:.1} s: {error:?}"));
                }
            }
        }
    }

    /// Returns the id of the small file.
    fn file(&self) -> String {
        format!("{}-small", self.name)
    }

    async fn push(&mut self) -> Result<(), Failure> {
        let renamed = named(&self.file(), "file", None, &format!("name {}", self.turn));
        self.writer.push(vec![renamed]).await.map(drop)
    }

    async fn pull(&mut self) -> Result<(), Failure> {
        let cursor = self.cursor.as_ref().map(|cursor| format!("&cursor={}", cursor.encode()));
        let url = format!(
            "{}/v1/vfs/crdt/vfs-sync?limit=100&clientId=r{}",
            self.writer.url,
            cursor.unwrap_or_default()
        );
        let page = ok(self.fresh.get(url).bearer_auth(&self.writer.token)).await?;
        let page: PullPage = serde_json::from_slice(&page)?;
        self.cursor = page.items.last().map(|entry| entry.position.clone()).or(self.cursor.take());
        Ok(())
    }

    async fn upload(&self) -> Result<(), Failure> {
        let id = uuid::Uuid::now_v7().to_string();
        let stage: Value =
            json!({"stagingId": id, "blobId": id, "dataBase64": "AAAA".repeat(SMALL / 3)});
        ok(self.writer.post("/v1/vfs/blobs/stage").json(&stage)).await?;
        let attach = self.writer.post(&format!("/v1/vfs/blobs/stage/{id}/attach"));
        ok(attach.json(&json!({"itemId": self.file()}))).await.map(drop)
    }

    async fn download(&self) -> Result<(), Failure> {
        let url = format!("{}/v1/vfs/blobs/{}-large", self.writer.url, self.name);
        match ok(self.writer.http.get(url).bearer_auth(&self.writer.token)).await?.len() {
            LARGE => Ok(()),
            length => Err(format!("{length} bytes came").into()),
        }
    }
}

/// Sends a request and reads its whole answer, which must be a success.
async fn ok(request: RequestBuilder) -> Result<bytes::Bytes, Failure> {
    let answer = request.send().await?;
    let status = answer.status();
    let body = answer.bytes().await?;
    if status.is_success() {
        Ok(body)
    } else {
        Err(format!("{status} {:.200}", String::from_utf8_lossy(&body)).into())
    }
}

/// The sizes of a run: rounds under each attack, and the size of the attacks in percent.
pub(crate) struct Sizes {
    pub(crate) rounds: usize,
    pub(crate) attacks: usize,
}

/// One row of the table: the view of a victim, and the answers to its attacker.
struct Row {
    name: &'static str,
    view: View,
    answers: BTreeMap<String, u64>,
}

/// Returns the environment of a server under attack: defaults, but for a quota of contents that an
/// attacker reaches, and the operator's listener.
pub(crate) fn environment() -> Vec<(&'static str, String)> {
    vec![
        ("VFS_SYNC_MAX_STAGED_BYTES", (64 << 20).to_string()),
        ("VFS_SYNC_ADMIN_LISTEN", "127.0.0.1:0".into()),
    ]
}

/// Raises this process's limit of open files, for attacks that hold connections.
pub(crate) fn raise_descriptor_limit() -> Result<(), Failure> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// Measures a victim alone and under each attack that `only` names, or all; prints the table.
pub(crate) async fn run(
    report: &mut Report,
    data: &Path,
    database: Option<&str>,
    engine: &str,
    only: Option<&str>,
    sizes: &Sizes,
) -> Result<(), Failure> {
    raise_descriptor_limit()?;
    std::fs::create_dir(data)?;
    let mut environment = environment();
    environment.extend(database.map(|url| ("VFS_SYNC_DATABASE_URL", url.to_owned())));
    let first = Server::start_with(data, environment.clone()).await?;
    let mut victim = Victim::new(&first, "victim").await?;
    drop(first);
    let (mut alone, mut rows) = (View::default(), Vec::new());
    for attack in attack::ALL.iter().filter(|attack| only.is_none_or(|only| attack.name == only)) {
        // A process for each attack: nothing that one has left open is in the next one's figures.
        let server = Server::start_with(data, environment.clone()).await?;
        victim.move_to(&server);
        rows.push(under(&server, attack, &mut victim, &mut alone, sizes).await?);
    }
    judge(report, engine, &alone, &rows);
    println!("{}\n\n{}\n", engine, table(&alone, &rows));
    Ok(())
}

async fn under(
    server: &Server,
    attack: &Attack,
    victim: &mut Victim,
    alone: &mut View,
    sizes: &Sizes,
) -> Result<Row, Failure> {
    let mut attackers = Attackers::new(server, std::slice::from_ref(&victim.name), sizes.attacks)?;
    attackers.prepare(attack).await?;
    eprintln!("under attack: {}", attack.name);
    // A server that has just started and filled its caches is not the one that is compared.
    let mut warm = View::default();
    for _ in 0..3 {
        victim.round(&mut warm).await;
    }
    for _ in 0..ALONE {
        victim.round(alone).await;
    }
    attackers.begin();
    tokio::time::sleep(RAMP).await;
    let (mut view, begun) = (View::default(), Instant::now());
    for _ in 0..sizes.rounds {
        victim.round(&mut view).await;
        if begun.elapsed() > PATIENCE {
            break;
        }
    }
    let tallies = attackers.stop().await?;
    let answers = tallies.iter().flat_map(|(_, tally)| tally.counts()).collect();
    Ok(Row { name: attack.name, view, answers })
}

/// Compares each row with the victim's times alone.
fn judge(report: &mut Report, engine: &str, alone: &View, rows: &[Row]) {
    for Row { name, view, answers } in rows {
        let ratios = |which: usize| {
            (0..DEEDS.len())
                .map(|deed| view.median_and_99(deed)[which] / alone.median_and_99(deed)[which])
                .fold(0.0, f64::max)
        };
        let what = format!("{name}, {engine}: slowest median against alone");
        report.at_most(&what, ratios(0), BUDGET, "x");
        report.at_most("  slowest 99 % against alone", ratios(1), BUDGET, "x");
        report.at_most("  failed requests of the victim", view.failures.len() as f64, 0.0, "");
        report.at_most("  undocumented answers", attack::undocumented(answers) as f64, 0.0, "");
        for failure in view.failures.iter().take(3) {
            eprintln!("  {failure}");
        }
    }
}

/// Builds the table of medians and 99 % in milliseconds; those beyond the budget are bold.
fn table(alone: &View, rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    let head = ["attack"].into_iter().chain(DEEDS).chain(["failed", "answers to the attacker"]);
    table.set_header(head);
    let cells = |view: &View| -> Vec<String> {
        let (failed, succeeded) = (view.failures.len(), view.succeeded());
        let failed = format!("{failed} of {}", failed + succeeded);
        let cell = |deed| {
            let (times, base) = (view.median_and_99(deed), alone.median_and_99(deed));
            let [median, most] = [0, 1].map(|n| match times[n] > BUDGET * base[n] {
                true => format!("**{:.1}**", times[n]),
                false => format!("{:.1}", times[n]),
            });
            format!("{median} / {most}")
        };
        (0..DEEDS.len()).map(cell).chain([failed]).collect()
    };
    let row = |name: &str, view: &View, answers: String| -> Vec<String> {
        [name.to_owned()].into_iter().chain(cells(view)).chain([answers]).collect()
    };
    table.add_row(row("none", alone, String::new()));
    for Row { name, view, answers } in rows {
        let answers: Vec<_> =
            answers.iter().map(|(answer, count)| format!("{answer}: {count}")).collect();
        table.add_row(row(name, view, answers.join(", ")));
    }
    table
}
