//! A device with one live folder, whose agent makes rounds as `vfs-sync up` does.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{ClientConfig, ClientError, SyncClient, Transport};
use vfs_sync_core::id::UserId;
use vfs_sync_folder::export::{ExportOptions, ExportReport, export};
use vfs_sync_folder::import::{ImportOptions, ImportReport, Looks, import};
use vfs_sync_folder::merge::merge;
use vfs_sync_folder::report::{ProblemKind, Problems};
use vfs_sync_folder::scan::Scanner;
use vfs_sync_folder::{Error, aside};
use vfs_sync_testkit::Random;

use super::disk::{Killed, Surroundings};
use super::plan::Trouble;
use crate::actor::byzantine_server::Hostile;
use crate::actor::device::user;
use crate::infra::environment::Machine;
use crate::infra::network::Link;
use crate::infra::server::Cluster;
use crate::infra::transport::{SimTransport, Token};
use crate::oracle::failure::FailureKind;
use crate::oracle::ledger::Ledger;

/// The outcome of a round.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Round {
    /// True if import, synchronisation and export came to their ends.
    pub(crate) complete: bool,
    /// The number of changes taken from the directory.
    pub(crate) imported: u64,
    /// The number of changes made in the directory.
    pub(crate) exported: u64,
    /// True if something waits for another look, or for another device.
    pub(crate) waits: bool,
}

pub(crate) struct Device {
    pub(crate) index: usize,
    user: UserId,
    machine: Arc<Machine>,
    pub(crate) link: Arc<Link>,
    transport: Arc<SimTransport>,
    pub(crate) client: SyncClient,
    /// The directory of the replica, unless it is in memory.
    replica: Option<PathBuf>,
    pub(crate) root: PathBuf,
    ledger: Ledger,
    around: Rc<Surroundings>,
    /// The lead of the system's clock, in milliseconds.
    pub(crate) skew: i64,
    pub(crate) joined: bool,
    seen: bool,
    looks: Looks,
    /// True before the first synchronisation of a process.
    starts: bool,
    /// The entries that the server refused for good, as of the last look.
    pub(crate) refused: BTreeSet<PathBuf>,
}

impl Device {
    pub(crate) fn new(
        index: usize,
        cluster: &Arc<Cluster>,
        around: &Rc<Surroundings>,
        ledger: &Ledger,
        mut random: Random,
        replica: Option<PathBuf>,
    ) -> Self {
        let user = user(0);
        let id = u16::try_from(100 + index).unwrap_or(u16::MAX);
        let machine = Arc::new(Machine::new(id, random.fork(), 0));
        let link = Link::new(index, Arc::clone(cluster), ledger.clone(), random.fork(), false);
        let link = Arc::new(link);
        let bearer = format!("Bearer {}", cluster.token(&user, None));
        let token = Token { bearer, of: user.clone() };
        let hostile = Arc::new(Hostile::new(ledger.clone()));
        let transport = SimTransport::new(Arc::clone(&link), ledger.clone(), hostile, token, None);
        let transport = Arc::new(transport);
        let to = Arc::clone(&transport) as Arc<dyn Transport>;
        let config = config(index, &machine);
        let builder = SyncClient::builder(to).server("sim").config(config);
        let client = match &replica {
            Some(directory) => builder.create(directory, user.clone()),
            None => builder.in_memory(user.clone()),
        };
        let client = client.expect("a good configuration");
        ledger.book().replicas.insert(client.client_id(), user.clone());
        Self {
            index,
            user,
            machine,
            link,
            transport,
            client,
            replica,
            root: around.roots[index].clone(),
            ledger: ledger.clone(),
            around: Rc::clone(around),
            skew: 0,
            joined: false,
            seen: false,
            looks: Looks::default(),
            starts: true,
            refused: BTreeSet::new(),
        }
    }

    /// Moves the clocks of the device.
    pub(crate) fn shift(&mut self, millis: i64) {
        self.skew += millis;
        self.machine.shift(millis);
    }

    /// Imports, synchronises and exports, in the midst of trouble.
    pub(crate) async fn round(&mut self, trouble: Trouble, mut random: Random) -> Round {
        self.ledger.note(|| format!("device {}: round, {trouble:?}", self.index));
        self.around.begin(self.index, trouble, random.fork(), self.skew);
        let done = AssertUnwindSafe(self.steps()).catch_unwind().await;
        self.around.end();
        let round = match done {
            Ok(Ok(round)) => round,
            Ok(Err(error)) => {
                // The directory is at another place in each run.
                let text = error.to_string().replace(&*self.root.to_string_lossy(), "DIR");
                self.ledger.note(|| format!("device {}: {text}", self.index));
                Round::default()
            }
            Err(payload) if payload.is::<Killed>() => {
                self.restart();
                Round::default()
            }
            Err(payload) => std::panic::resume_unwind(payload),
        };
        self.ledger.note(|| format!("device {}: {round:?}", self.index));
        round
    }

    /// Starts a new process on the same directory and replica.
    fn restart(&mut self) {
        (self.looks, self.seen, self.starts) = (Looks::default(), self.joined, true);
        let Some(directory) = &self.replica else { return };
        let config = config(self.index, &self.machine);
        let to = Arc::clone(&self.transport) as Arc<dyn Transport>;
        // The lock of the replica goes with the client that has it.
        let nothing = SyncClient::builder(Arc::clone(&to)).config(config.clone());
        self.client = nothing.in_memory(self.user.clone()).expect("a good configuration");
        match SyncClient::builder(to).config(config).open(directory) {
            Ok(client) => self.client = client,
            Err(error) => {
                let message = format!("device {}: its replica is lost: {error}", self.index);
                self.ledger.fail(FailureKind::Lost, message);
            }
        }
    }

    async fn steps(&mut self) -> Result<Round, Error> {
        if std::mem::take(&mut self.starts) && self.sync().await.is_err() {
            self.starts = true;
        }
        let taken = self.import()?;
        let now = vfs_sync_folder::seam::Simulator::now(&*self.around);
        if let Err(error) = aside::tidy(&self.root, &self.client.device(), true, now) {
            self.ledger.note(|| format!("device {}: tidy: {error}", self.index));
        }
        if let Err(error) = self.sync().await {
            self.ledger.note(|| format!("device {}: {error}", self.index));
            return Ok(Round { imported: taken.changes(), waits: true, ..Round::default() });
        }
        let written = self.export().await?;
        let status = self.client.status()?;
        let waits = taken.missing + taken.stale + written.missing > 0
            || status.pending + status.uploads > 0
            || self.looks.due().is_some();
        Ok(Round { complete: true, imported: taken.changes(), exported: written.changes(), waits })
    }

    fn import(&mut self) -> Result<ImportReport, Error> {
        let options = ImportOptions {
            delete: self.joined,
            forget_missing: !self.seen,
            ..ImportOptions::default()
        };
        let mut report = self.import_with(options, None)?;
        if report.held > 0 {
            // The user has seen what is gone, and that it was meant.
            let looks = Looks::after_question(std::mem::take(&mut report.held_rows));
            report = self.import_with(options, Some(looks))?;
        }
        self.seen |= report.problems.failures() == 0;
        let refused = report.problems.first.iter().filter(|one| one.kind == ProblemKind::Refused);
        self.refused = refused.map(|one| PathBuf::from(&one.path)).collect();
        self.note("import", &report.problems);
        Ok(report)
    }

    fn import_with(
        &mut self,
        options: ImportOptions,
        mut looks: Option<Looks>,
    ) -> Result<ImportReport, Error> {
        let own: Vec<PathBuf> = self.replica.iter().cloned().collect();
        let opened = Scanner::open(&self.root, &own);
        let scanner =
            opened.map_err(|source| Error::Io { what: "cannot open".to_owned(), source })?;
        let stop = CancellationToken::new();
        let looks = looks.as_mut().unwrap_or(&mut self.looks);
        import(&self.client, scanner, None, options, Some(looks), &stop, &mut |_| {})
    }

    async fn sync(&self) -> Result<(), ClientError> {
        self.client.sync().await?;
        let merged = match merge(&self.client) {
            Ok(merged) => merged,
            Err(Error::Client(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        if merged.merged + merged.renamed > 0 {
            self.client.sync().await?;
        }
        Ok(())
    }

    async fn export(&mut self) -> Result<ExportReport, Error> {
        let options = ExportOptions {
            replica: self.replica.clone(),
            delete: true,
            live: true,
            leave_missing: self.seen,
            ..ExportOptions::default()
        };
        let stop = CancellationToken::new();
        let report = export(&self.client, None, &self.root, options, &stop, &mut |_| {}).await?;
        self.joined = true;
        self.note("export", &report.problems);
        Ok(report)
    }

    fn note(&self, step: &str, problems: &Problems) {
        for problem in &problems.first {
            self.ledger.note(|| {
                let kind = problem.kind.as_str();
                format!(
                    "device {}: {step}: {kind}: {}: {}",
                    self.index, problem.path, problem.detail
                )
            });
        }
    }

    /// Puts an empty directory in the place of the device's, for a look of the engine, and takes it
    /// away again.
    pub(crate) async fn look_at_nothing(&mut self, random: Random) -> Round {
        let away = self.root.with_extension("away");
        let swap = |from: &Path, to: &Path| std::fs::rename(from, to).expect("a directory");
        swap(&self.root, &away);
        std::fs::create_dir(&self.root).expect("a directory");
        let round = self.round(Trouble::None, random).await;
        std::fs::remove_dir_all(&self.root).expect("a directory");
        swap(&away, &self.root);
        round
    }
}

fn config(index: usize, machine: &Arc<Machine>) -> ClientConfig {
    ClientConfig {
        device: Some(["laptop", "desk", "tablet"][index % 3].to_owned()),
        live: false,
        report: false,
        environment: Arc::clone(machine) as Arc<dyn vfs_sync_client::Environment>,
        ..ClientConfig::default()
    }
}
