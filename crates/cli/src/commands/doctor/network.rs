//! Checks of the way to the server, step by step.

use std::time::Duration;

use vfs_sync_client::transport::{Probe, ProbeAnswer, ProbeStep, Probed};
use vfs_sync_client::{HttpConfig, HttpTransport};

use super::check::Check;
use super::site::Site;
use crate::replica::{self, Settings};

/// The longest time of each step.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// The difference of the clocks from which it is a note, in milliseconds.
const CLOCK_NOTE: i64 = 30_000;
/// The difference of the clocks from which it is a problem, in milliseconds.
const CLOCK_PROBLEM: i64 = 300_000;

const STEPS: [&str; 4] = ["network.name", "network.tcp", "network.tls", "network.http"];

/// Checks the way to the server. Returns the transport, and the answer if it is one of a vfs-sync
/// server.
pub(super) async fn checks(
    site: &Site<'_>,
    settings: &Settings,
    checks: &mut Vec<Check>,
) -> Option<(HttpTransport, ProbeAnswer)> {
    let mut settings = settings.clone();
    settings.insecure_http |= site.global.insecure_http;
    let mut config = HttpConfig::new(&settings.server);
    (config.connect_timeout, config.request_timeout) = (PATIENCE, PATIENCE);
    config.idle_timeout = PATIENCE;
    let transport = match replica::http(&settings, config) {
        Ok(transport) => transport,
        Err(failure) => {
            checks.push(
                Check::problem("network.address", failure.message.clone())
                    .name("server", &settings.server)
                    .explained("invalid_address")
                    .next(format!(
                        "${{EDITOR:-vi}} {}",
                        super::site::quoted(&site.directory.join("settings.json"))
                    )),
            );
            for id in STEPS.into_iter().chain(["server.kind", "server.clock"]) {
                checks.push(Check::skipped(id, "the server's address cannot be used"));
            }
            return None;
        }
    };
    let text = format!("the server is {}", settings.server);
    checks.push(Check::ok("network.address", text).name("server", &settings.server));
    let answer = probed(&settings, &transport, checks).await?;
    answer.is_vfs_sync.then_some((transport, answer))
}

/// Checks each step of the way to a server, and who answers.
pub(super) async fn probed(
    settings: &Settings,
    transport: &HttpTransport,
    checks: &mut Vec<Check>,
) -> Option<ProbeAnswer> {
    let probe = transport.probe(PATIENCE).await;
    steps(settings, &probe, checks);
    let Some(answer) = probe.answer else {
        for id in ["server.kind", "server.clock"] {
            checks.push(Check::skipped(id, "nothing answers at the server's address"));
        }
        return None;
    };
    checks.push(kind(settings, &answer));
    checks.push(clock(&answer));
    Some(answer)
}

fn steps(settings: &Settings, probe: &Probe, checks: &mut Vec<Check>) {
    match &probe.proxy {
        None => {
            checks.push(Check::ok("network.proxy", "there is no proxy for the server's address"))
        }
        Some(proxy) if probe.steps.iter().all(|(step, ..)| *step != ProbeStep::Proxy) => {
            let text = format!("the way goes through the proxy {proxy}, which is not reached");
            checks.push(Check::note("network.proxy", text).name("proxy", proxy));
        }
        Some(_) => {}
    }
    for (step, outcome, took) in &probe.steps {
        let id = match step {
            ProbeStep::Name => "network.name",
            ProbeStep::Tcp => "network.tcp",
            ProbeStep::Proxy => "network.proxy",
            ProbeStep::Tls => "network.tls",
            ProbeStep::Http => "network.http",
        };
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let check = match outcome {
            Probed::Ok(text) => Check::ok(id, format!("{text} ({millis} ms)"))
                .text("detail", text)
                .with("millis", millis),
            // The address says so, not a failure.
            Probed::Skipped(reason) if reason.contains("is not encrypted") => {
                Check::ok(id, format!("not needed: {reason}")).with("skipped", true)
            }
            Probed::Skipped(reason) => Check::skipped(id, reason),
            Probed::Failed(reason) => Check::problem(id, format!("{reason} ({millis} ms)"))
                .text("reason", reason)
                .with("millis", millis)
                .next(next(settings, *step)),
        };
        let check = match &probe.proxy {
            Some(proxy) if *step == ProbeStep::Proxy => check.name("proxy", proxy),
            _ => check,
        };
        checks.push(check);
    }
}

/// Returns the next step after a failed one.
fn next(settings: &Settings, step: ProbeStep) -> String {
    let host = settings.server.split("://").nth(1).unwrap_or_default();
    let host = host.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    let name = match host.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
        Some(name) => name,
        None => host.split(':').next().unwrap_or_default(),
    };
    let word = |text: &str| super::site::quoted(std::path::Path::new(text));
    match step {
        ProbeStep::Name => format!("getent hosts {}", word(name)),
        ProbeStep::Tcp | ProbeStep::Http => {
            format!("curl -v --max-time 10 {}/healthz", word(&settings.server))
        }
        ProbeStep::Proxy => "env | grep -i _proxy".to_owned(),
        ProbeStep::Tls => {
            let at = if host.contains(':') { host.to_owned() } else { format!("{host}:443") };
            format!("openssl s_client -connect {} -servername {} </dev/null", word(&at), word(name))
        }
    }
}

fn kind(settings: &Settings, answer: &ProbeAnswer) -> Check {
    const ID: &str = "server.kind";
    let what = answer.content_type.as_deref().unwrap_or("no media type").to_owned();
    let check = match (answer.is_vfs_sync, &answer.location) {
        (true, _) => Check::ok(ID, "a vfs-sync server answers"),
        (false, Some(location)) => Check::problem(
            ID,
            format!(
                "the answer is a redirect to {location}: a proxy or the log-in page of a network \
                 answers, no vfs-sync server"
            ),
        )
        .name("location", location)
        .explained("302"),
        (false, None) if answer.status == 407 => {
            Check::problem(ID, "a proxy on the way wants its own log-in").explained("407")
        }
        (false, None) if matches!(answer.status, 502..=504) => Check::problem(
            ID,
            format!("a proxy answers with status {}: it does not reach the server", answer.status),
        )
        .explained(&answer.status.to_string()),
        (false, None) => Check::problem(
            ID,
            format!("status {} with {what} is no answer of a vfs-sync server", answer.status),
        )
        .explained("malformedResponse"),
    };
    let check = check
        .with("status", answer.status)
        .text("contentType", &what)
        .text("program", &answer.server);
    if answer.is_vfs_sync {
        return check;
    }
    let url = super::site::quoted(std::path::Path::new(&settings.server));
    check.next(format!("curl -i --max-time 10 {url}/healthz"))
}

fn clock(answer: &ProbeAnswer) -> Check {
    const ID: &str = "server.clock";
    let Some(date) = answer.date else {
        return Check::note(ID, "the answer has no Date: the clocks cannot be compared");
    };
    // A Date has whole seconds.
    let ahead = answer.at.as_millis().saturating_sub(date.as_millis());
    let off = ahead.saturating_abs();
    let which = if ahead > 0 { "ahead of" } else { "behind" };
    let seconds = off / 1_000;
    let text = format!("this device's clock is {seconds} s {which} the server's");
    let check = if off >= CLOCK_PROBLEM {
        Check::problem(ID, text).next("timedatectl status")
    } else if off >= CLOCK_NOTE {
        Check::note(ID, text).next("timedatectl status")
    } else {
        Check::ok(ID, "this device's clock agrees with the server's")
    };
    check.with("millisAhead", ahead).with("serverTime", date)
}
