//! Devices that write all the time, and what they were promised.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::core::client::offer::{LostChange, LostReason};
use vfs_sync_client::{ClientConfig, ClientError, LostEntry, TransportError};
use vfs_sync_testkit::{Random, TestDevice};

use crate::processes::cluster::{Cluster, Line};
use crate::processes::ledger::Ledger;
use crate::processes::view::View;

/// The time that all devices may take to agree once everything works.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// The time that a server process may take to do anything at all.
const ANYTHING_WITHIN: Duration = Duration::from_secs(60);
/// The only guardrail that may fire: the position is not of the new primary's history.
const BEYOND_HISTORY: &str = "pull:pullRematerializationRequired";

/// What the server processes have done so far.
pub(super) struct Pace {
    calls: watch::Sender<u64>,
    /// For each server process, the beginning of the last call that succeeded.
    last: Vec<watch::Sender<Option<Instant>>>,
}

impl Pace {
    pub(super) fn new(servers: usize) -> Self {
        let last = (0..servers).map(|_| watch::Sender::new(None)).collect();
        Self { calls: watch::Sender::new(0), last }
    }

    /// Waits for a number of calls.
    pub(super) async fn reached(&self, calls: u64) {
        let mut seen = self.calls.subscribe();
        let reached = seen.wait_for(|done| *done >= calls);
        tokio::time::timeout(ANYTHING_WITHIN, reached).await.expect("work goes on").unwrap();
    }

    /// Waits for a call to a server process that began after `since` and succeeded; returns when.
    pub(super) async fn goes_on(&self, server: usize, since: Instant) -> Option<Instant> {
        let mut last = self.last[server].subscribe();
        let on = last.wait_for(|at| at.is_some_and(|at| at > since));
        tokio::time::timeout(ANYTHING_WITHIN, on).await.ok()?.unwrap();
        Some(Instant::now())
    }
}

pub(super) struct Device {
    pub(super) number: usize,
    user: &'static str,
    device: TestDevice,
    ledger: Ledger,
    random: Random,
    /// The one server process that it calls, if it does not call them all.
    server: Option<usize>,
    /// Changes that a new primary lacked.
    offered: AtomicU64,
}

fn config() -> ClientConfig {
    let backoff = (Duration::from_millis(10), Duration::from_millis(50));
    ClientConfig { rematerialise: true, backoff, ..ClientConfig::default() }
}

impl Device {
    pub(super) fn new(
        cluster: &Arc<Cluster>,
        user: &'static str,
        number: usize,
        random: Random,
    ) -> Self {
        let server = number.is_multiple_of(2).then_some(number / 2);
        let servers = server.map_or(0..cluster.len(), |server| server..server + 1);
        let urls = servers.map(|server| cluster.url(server));
        let line = Line::through(urls, user, random.clone());
        let device = TestDevice::new(number.is_multiple_of(3), user, Arc::new(line), config());
        let ledger = Ledger::open(&device, number);
        Self { number, user, device, ledger, random, server, offered: AtomicU64::new(0) }
    }

    /// Writes and synchronises until it is told to stop.
    pub(super) async fn work(mut self, stop: CancellationToken, pace: &Pace) -> Self {
        while !stop.is_cancelled() {
            for _ in 0..=self.random.below(4) {
                self.ledger.write(&self.device, &mut self.random);
            }
            let began = Instant::now();
            if self.sync().await {
                pace.calls.send_modify(|calls| *calls += 1);
                if let Some(server) = self.server {
                    pace.last[server].send_replace(Some(began));
                }
            }
        }
        self
    }

    /// Returns whether everything was acknowledged.
    async fn sync(&self) -> bool {
        match self.device.sync().await {
            Ok(report) => {
                let offered = report.offered;
                let offered = offered.deletions + offered.items + offered.links + offered.contents;
                self.offered.fetch_add(offered, Ordering::Relaxed);
                true
            }
            Err(ClientError::Transport(TransportError::Network { .. })) => false,
            Err(error) => panic!("device {} of {}: {error}", self.number, self.user),
        }
    }

    /// Returns how many changes it has offered again since this was last asked.
    pub(super) fn take_offered(&self) -> u64 {
        self.offered.swap(0, Ordering::Relaxed)
    }

    /// Returns whether nothing waits, and nothing was refused or lost.
    fn is_idle(&self) -> bool {
        for violation in self.device.violations().violations() {
            assert_eq!(violation.signature(), BEYOND_HISTORY, "{}: {violation:?}", self.user);
        }
        let status = self.device.status().unwrap();
        let rejected = self.device.queue().rejected(10).unwrap();
        let lost = self.device.lost().list(0, 1_000).unwrap();
        // It lists contents that it was told of and never had; whoever wrote them offers them.
        let elsewhere = |lost: &LostEntry| {
            matches!(lost.lost.change, LostChange::Content { here: false, .. })
                && lost.lost.reason == LostReason::NoBytes
        };
        let nothing_else = rejected.is_empty() && lost.iter().all(elsewhere);
        assert!(nothing_else, "device {}: {rejected:#?} {lost:#?}", self.number);
        (status.pending, status.acknowledged, status.uploads) == (0, 0, 0)
    }
}

/// Everybody synchronises until nothing waits and nothing comes any more.
pub(super) async fn settle(devices: &[Device]) {
    let until = Instant::now() + SETTLED_WITHIN;
    let mut quiet = 0;
    while quiet < 2 {
        let mut before = Vec::new();
        let mut all = true;
        for device in devices {
            before.push(View::of(&device.device));
            all &= device.sync().await && device.is_idle();
        }
        let same = devices.iter().zip(&before).all(|(one, view)| View::of(&one.device) == *view);
        quiet = if all && same { quiet + 1 } else { 0 };
        assert!(Instant::now() < until, "the devices do not settle");
    }
}

/// Fails unless each device has what a new one of its user has, and that is all that was promised.
/// If deletions may have been lost (`lossy`), their items may be back; returns how many are.
pub(super) async fn check(cluster: &Arc<Cluster>, devices: &mut [Device], lossy: bool) -> u64 {
    let mut fresh = BTreeMap::new();
    let (mut revived, mut lost) = (0, 0);
    for device in devices {
        if !fresh.contains_key(device.user) {
            let line = Line::new(cluster, device.user, Random::new(1));
            let new = TestDevice::new(false, device.user, Arc::new(line), config());
            new.sync().await.unwrap();
            fresh.insert(device.user, new);
        }
        let new = &fresh[device.user];
        assert_eq!(View::of(&device.device), View::of(new), "{}", device.user);
        lost += device.device.lost().list(0, 1_000).unwrap().len();
        if lossy {
            revived += device.ledger.take_revived(new).await;
        }
        device.ledger.check(new).await;
    }
    println!("{lost} contents are listed as lost");
    revived
}
