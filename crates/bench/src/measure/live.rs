//! Live updates: the time until an edit is on another device, the cost of idle streams, and pushes
//! beside listeners.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use vfs_sync_client::transport::{HttpConfig, HttpTransport, StaticToken};
use vfs_sync_client::{ChangeEvent, ClientConfig, Connectivity, SyncClient};
use vfs_sync_core::id::UserId;
use vfs_sync_core::item::Name;

use crate::Failure;
use crate::measure::push;
use crate::process::Server;
use crate::report::{Report, percentile};
use crate::workload::Ids;

/// Edits whose way to the other device is measured.
const EDITS: usize = 300;
/// The pause between two of them.
const PAUSE: Duration = Duration::from_millis(30);
/// Streams of one user, below the server's bound.
const STREAMS_OF_A_USER: usize = 50;
/// The time for which idle streams are watched.
const IDLE: Duration = Duration::from_secs(60);
/// Streams that listen while others push.
const LISTENERS: usize = 1_000;
/// Operations that are pushed beside them.
const PUSHED: usize = 200_000;

/// Runs the measurements, each on a server of its own.
pub(crate) async fn run(
    report: &mut Report,
    dir: &Path,
    postgres: Option<&str>,
    streams: usize,
    connections: usize,
) -> Result<(), Failure> {
    let start = async |name: &str, database: Option<&str>| {
        let data = dir.join(name);
        std::fs::create_dir(&data)?;
        Server::start(&data, database).await
    };
    {
        let server = start("latency", None).await?;
        latency(report, [&server, &server], "SQLite", 10.0, Some(50.0)).await?;
    }
    if let Some(url) = postgres {
        let servers = [start("one", Some(url)).await?, start("other", Some(url)).await?];
        latency(report, [&servers[0], &servers[1]], "two processes, PostgreSQL", 25.0, None)
            .await?;
    }
    {
        let server = start("idle", None).await?;
        idle(report, &server, streams).await?;
    }
    let alone = {
        let server = start("alone", None).await?;
        push::run(&server, "r", Ids::UuidV7, PUSHED, connections).await?.all
    };
    let server = start("listeners", None).await?;
    let open = open(&server, LISTENERS).await?;
    let beside = push::run(&server, "r", Ids::UuidV7, PUSHED, connections).await?.all;
    drop(open);
    report.note("push, no streams", alone, "op/s");
    report.note("push, 1,000 streams listening", beside, "op/s");
    report.at_least("  with streams against without", beside / alone, 0.9, "x");
    Ok(())
}

/// Creates a device of the user `bench` that holds a stream.
async fn device(server: &Server) -> Result<SyncClient, Failure> {
    let config = HttpConfig::new(&server.url);
    let transport = Arc::new(HttpTransport::new(config, StaticToken::new(&server.token))?);
    let day = Duration::from_secs(24 * 3_600);
    let config = ClientConfig { interval: day, ..ClientConfig::default() };
    let client = SyncClient::builder(transport).config(config).in_memory(UserId::new("bench")?)?;
    client.start_background()?;
    let mut connection = client.connection();
    connection.wait_for(|connection| connection.state == Connectivity::Live).await?;
    Ok(client)
}

/// Measures the time from an edit on one device to its appearance on another.
async fn latency(
    report: &mut Report,
    servers: [&Server; 2],
    engine: &str,
    median: f64,
    longest: Option<f64>,
) -> Result<(), Failure> {
    let (one, other) = (device(servers[0]).await?, device(servers[1]).await?);
    let mut changes = other.subscribe();
    let mut times = Vec::new();
    for n in 0..EDITS {
        let begun = Instant::now();
        let made = one.create_folder(None, Name::new(format!("f{n}"))?)?;
        while changes.recv().await? != ChangeEvent::Appeared(made.clone()) {}
        times.push(begun.elapsed().as_secs_f64() * 1_000.0);
        tokio::time::sleep(PAUSE).await;
    }
    one.stop_background().await;
    other.stop_background().await;
    times.sort_by(f64::total_cmp);
    let [p50, p99] = [50, 99].map(|at| percentile(&times, at).unwrap_or(f64::INFINITY));
    report.at_most(&format!("an edit on another device, {engine}, median"), p50, median, "ms");
    match longest {
        Some(longest) => report.at_most("  99 %", p99, longest, "ms"),
        None => report.note("  99 %", p99, "ms"),
    }
    Ok(())
}

/// Opens `count` streams, those of one user up to a bound.
async fn open(server: &Server, count: usize) -> Result<Vec<TcpStream>, Failure> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let address = server.url.strip_prefix("http://").ok_or("the URL is not of http")?;
    let mut open = Vec::with_capacity(count);
    let mut token = String::new();
    for n in 0..count {
        if n % STREAMS_OF_A_USER == 0 {
            token = Server::token_of(&format!("listener-{}", n / STREAMS_OF_A_USER))?;
        }
        let mut stream = TcpStream::connect(address).await?;
        let request = format!(
            "GET /v1/vfs/crdt/events?clientId=c{n} HTTP/1.1\r\nhost: bench\r\n\
             authorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).contains("event: head") {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(String::from_utf8_lossy(&answer).into());
            }
        }
        open.push(stream);
    }
    Ok(open)
}

/// Measures the memory and the processor time of idle streams.
async fn idle(report: &mut Report, server: &Server, count: usize) -> Result<(), Failure> {
    let before = server.memory()?;
    let mut open = open(server, count).await?;
    let (cpu, begun) = (server.cpu()?, Instant::now());
    while begun.elapsed() < IDLE {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let mut comments = [0; 4_096];
        for stream in &mut open {
            let _ = stream.try_read(&mut comments);
        }
    }
    let core = (server.cpu()? - cpu).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
    let memory = server.memory()?;
    report.at_most(&format!("server memory with {count} idle streams"), memory, 200.0, "MB");
    report.note("  of one stream", (memory - before) * 1_024.0 / count as f64, "KB");
    report.at_most("  processor time", core, 2.0, "% of a core");
    Ok(())
}
