//! Confirms the deletions that a live folder holds: `folder confirm-deletions`.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use vfs_sync_client::SyncClient;
use vfs_sync_folder::import::{self, ImportOptions, ImportReport, Looks};
use vfs_sync_folder::scan::Scanner;

use super::{check, chosen};
use crate::args::Global;
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::{Output, count_text, counted};
use crate::replica::live_state::{self, Held};
use crate::replica::{self, LiveFolder};
use crate::shutdown;
use crate::stdin::Stdin;

/// The greatest size of an answer.
const MAX_ANSWER_BYTES: u64 = 1_024;

/// The confirmation of the deletions of one replica's live folders.
pub(super) struct Confirmation<'a> {
    pub(super) global: &'a Global,
    /// The directory of the replica.
    pub(super) replica: &'a Path,
    pub(super) output: Output,
    pub(super) stop: &'a CancellationToken,
    /// The reader of the answers, from the first question on.
    pub(super) answers: Option<BufReader<Stdin>>,
}

impl Confirmation<'_> {
    /// Confirms the deletions of the folder at `dir`, or of each without one; with `yes` it does
    /// not ask.
    pub(super) fn run(&mut self, dir: Option<&Path>, yes: bool) -> Result<()> {
        let mut done = Vec::new();
        let mut failure = None;
        for live in chosen(&replica::read_settings(self.replica)?, dir)? {
            match self.one(&live, yes) {
                Ok(document) => done.push(document),
                Err(error) if error.kind == Kind::Partial => {
                    failure = failure.or(Some(error));
                }
                Err(error) => return Err(error),
            }
        }
        self.output.json(&json!({ "folders": done }))?;
        failure.map_or(Ok(()), Err)
    }

    fn one(&mut self, live: &LiveFolder, yes: bool) -> Result<Value> {
        let dir = live.directory.to_string_lossy();
        let document = |report: &ImportReport| {
            json!({
                "directory": live.directory, "deleted": report.deleted, "kept": report.kept,
            })
        };
        // Another command may have the replica while the user thinks about the answer.
        let state = live_state::read(self.replica);
        let before = state.as_ref().ok().and_then(|state| state.as_ref()?.of(live)?.held.clone());
        let asked = self.import(live, Looks::for_question(before.is_some()), true)?;
        if asked.held_rows.is_empty() {
            self.output.say(format_args!("no deletions are held in {}", escaped(&dir)))?;
            return Ok(document(&asked));
        }
        let held = Held::new(asked.held, asked.recorded, &asked.held_rows);
        let entries = counted(held.entries, "entry is", "entries are");
        let gone = format!("{entries} gone of the {} that {dir} had", count_text(held.of));
        if yes {
            state?;
            is_as_held(before.as_ref(), &held, &gone)?;
        } else if !self.output.can_ask() {
            return Err(Failure::usage(format!("{gone}; none was deleted elsewhere"))
                .hint("to delete them in the tree and on all devices, add --yes"));
        } else {
            let question =
                format!("{}. Delete them in the tree and on all devices?", escaped(&gone));
            if !self.ask(&question)? {
                return Err(Failure::new(Kind::Partial, "nothing was deleted: they are held")
                    .hint("put the entries back, and the directory is in step again"));
            }
        }
        let report = self.import(live, Looks::after_question(asked.held_rows), false)?;
        if report.held > 0 {
            let entries = counted(report.held, "entry is", "entries are");
            let text = format!("{entries} gone from {dir} now, more than were confirmed");
            return Err(again(&format!("{text}: nothing was deleted")));
        }
        let deleted = counted(report.deleted, "deletion is", "deletions are");
        self.output.say(format_args!("{deleted} queued in {}", escaped(&dir)))?;
        if report.kept > 0 {
            self.output.problems(&report.problems);
            let count = counted(report.kept, "entry was", "entries were");
            let text = format!("{count} not deleted: changed elsewhere, or not yours to delete");
            return Err(Failure::new(Kind::Partial, text).hint("`vfs-sync up` writes them again"));
        }
        Ok(document(&report))
    }

    /// Asks a question on the terminal, and returns whether the answer is yes.
    fn ask(&mut self, question: &str) -> Result<bool> {
        self.output.prompt(format_args!("{question} [y/N]"))?;
        let new = || BufReader::new(Stdin::new(self.stop.clone()));
        let answers = self.answers.get_or_insert_with(new);
        let mut line = String::new();
        if let Err(error) = answers.take(MAX_ANSWER_BYTES).read_line(&mut line) {
            return Err(match self.stop.is_cancelled() {
                true => shutdown::interrupted(),
                false => Failure::io("cannot read the answer")(error),
            });
        }
        Ok(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"))
    }

    /// Imports a folder; `looks` have what the user confirmed, and a dry run only lists what is
    /// held.
    fn import(&self, live: &LiveFolder, mut looks: Looks, dry_run: bool) -> Result<ImportReport> {
        let client: SyncClient = replica::open(self.global, replica::config())?;
        let what = format!("cannot read {}", live.directory.display());
        let mut scanner = Scanner::open(&live.directory, &[self.replica.to_owned()])
            .map_err(Failure::io(what))?;
        check(&client, scanner.root(), live)?;
        let options = ImportOptions { delete: live.joined, dry_run, ..ImportOptions::default() };
        let progress = self.output.progress("scanning");
        let mut show = |report: &ImportReport| {
            progress.set(format!("{} entries", count_text(report.seen())));
        };
        let (item, looks) = (live.item.clone(), Some(&mut looks));
        let report = import::import(&client, scanner, item, options, looks, self.stop, &mut show)?;
        if report.interrupted { Err(shutdown::interrupted()) } else { Ok(report) }
    }
}

/// Fails unless exactly these deletions are held by `up`.
fn is_as_held(before: Option<&Held>, held: &Held, gone: &str) -> Result<()> {
    let with = match before {
        Some(before) if (before.entries, &before.digest) == (held.entries, &held.digest) => {
            return Ok(());
        }
        Some(before) => format!("had held {}", count_text(before.entries)),
        None => "holds none of them".to_owned(),
    };
    Err(again(&format!("{gone}; `up` {with}: nothing was deleted")))
}

/// Returns the failure of a confirmation that no longer fits.
fn again(text: &str) -> Failure {
    Failure::new(Kind::Partial, text).hint(
        "look at `vfs-sync folder list` after the next `vfs-sync up --once`, and confirm again",
    )
}
