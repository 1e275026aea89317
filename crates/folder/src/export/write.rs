//! Writes the contents of an export to the disk, and the rows that record them.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;
use vfs_sync_client::{ClientError, EntryRecord, EntryState, LocalContent, RecordChange};

use super::super::destination::{self, NotWritten, Over};
use super::file::ToWrite;
use super::place::Unplaced;
use super::{Export, ExportReport};
use crate::disk::dir::Folder;
use crate::disk::names;
use crate::error::{Error, Result};
use crate::report::{Change, Problem, ProblemKind};

/// The number of files whose contents are prepared in advance. The client limits the downloads.
const READ_AHEAD: usize = 512;
/// The greatest total size of the contents prepared in advance; memory holds some of them, and only
/// a part of a large one.
const READ_AHEAD_BYTES: u64 = 32 * 1024 * 1024;
/// The number of bytes that a large content counts for.
pub(super) const LARGE: u64 = 1024 * 1024;
/// The number of files whose contents are requested together.
const ASKED_TOGETHER: usize = 128;
/// The number of rows that are written together, after one synchronisation of the disk.
const ROWS_TOGETHER: usize = 32_768;
/// The number of bytes after which the disk is synchronised.
const UNSYNCED_BYTES: u64 = 1024 * 1024 * 1024;

/// A file whose content is being read.
pub(super) struct Reading {
    disk: Folder,
    at: PathBuf,
    file: ToWrite,
    content: oneshot::Receiver<std::result::Result<LocalContent, ClientError>>,
    /// The task that reads the content; `None` until it was requested.
    reader: Option<Arc<AbortOnDropHandle<()>>>,
}

impl Export<'_> {
    /// Schedules the contents of files; writes earlier files to make room.
    pub(super) async fn read_all(
        &mut self,
        disk: &Folder,
        path: &Path,
        files: Vec<ToWrite>,
        progress: &mut (dyn FnMut(&ExportReport) + Send),
    ) -> Result<()> {
        if self.options.dry_run {
            files.iter().for_each(|file| self.list_written(&path.join(&file.name), file));
            return Ok(());
        }
        for file in files {
            while (self.reading.len() >= READ_AHEAD || self.ahead >= READ_AHEAD_BYTES)
                && !self.stop.is_cancelled()
            {
                self.write_next().await?;
                progress(&self.report);
            }
            if self.options.live && !disk.has_room(self.ahead + file.wanted.size) {
                let detail = "the disk is almost full: it waits, and what is here is still sent";
                self.problem(Problem::new(&path.join(&file.name), ProblemKind::Unwritable, detail));
                continue;
            }
            self.ahead += file.wanted.size.min(LARGE);
            let (sender, content) = oneshot::channel();
            self.unasked.push((file.item.clone(), sender));
            let (disk, at) = (disk.clone(), path.join(&file.name));
            self.reading.push_back(Reading { disk, at, file, content, reader: None });
            if self.unasked.len() >= ASKED_TOGETHER {
                self.ask()?;
            }
        }
        Ok(())
    }

    /// Lists a file that a dry run would write.
    fn list_written(&mut self, at: &Path, file: &ToWrite) {
        self.report.files_written += 1;
        self.report.bytes += file.wanted.size;
        match file.over {
            Over::Nothing => self.change(Change::NewFile, at),
            Over::Expected(_) => self.change(Change::Content, at),
            Over::Anything => {
                self.change(Change::Copy, at);
                self.change(Change::Content, at);
            }
        }
    }

    /// Requests the contents of the last scheduled files, whose rows announce the new digests.
    fn ask(&mut self) -> Result<()> {
        let (client, asked) = (self.client.clone(), std::mem::take(&mut self.unasked));
        let first = self.reading.len() - asked.len();
        let reader = tokio::spawn(async move {
            let (items, senders): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
            for (content, sender) in
                client.contents().read_uncached(&items).await.into_iter().zip(senders)
            {
                // A receiver that no longer waits was interrupted.
                let _ = sender.send(content);
            }
        });
        let reader = Arc::new(AbortOnDropHandle::new(reader));
        let mut coming = Vec::new();
        for reading in self.reading.range_mut(first..) {
            reading.reader = Some(Arc::clone(&reader));
            coming.push(RecordChange::Put(Box::new(reading.file.coming())));
        }
        self.client.directories().write(self.record.directory.id, coming, false)?;
        Ok(())
    }

    pub(super) async fn write_next(&mut self) -> Result<()> {
        if self.reading.front().is_some_and(|reading| reading.reader.is_none()) {
            self.ask()?;
        }
        let Some(Reading { disk, at, file, content, reader: _reader }) = self.reading.pop_front()
        else {
            return Ok(());
        };
        self.ahead -= file.wanted.size.min(LARGE);
        let mut content = content;
        let content = loop {
            let due = self.waiting.due();
            let is_due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                content = &mut content => {
                    break content.map_err(|error| Error::Ended(error.to_string()))?;
                }
                () = self.stop.cancelled() => return Ok(()),
                // Those that are complete do not wait for one that is slow to come.
                () = is_due => self.place_all()?,
            }
        };
        match content {
            Ok(content) => self.write(&disk, &at, &file, &content),
            Err(error) if ends_it(&error) => Err(error.into()),
            Err(error) => {
                self.problem(Problem::new(&at, ProblemKind::Unreadable, error.to_string()));
                Ok(())
            }
        }
    }

    fn write(
        &mut self,
        disk: &Folder,
        at: &Path,
        file: &ToWrite,
        content: &LocalContent,
    ) -> Result<()> {
        let reader = content.reader()?;
        let unique = names::unique();
        match destination::write_file(disk, &unique, &file.wanted, reader, self.stop) {
            Ok(stat) => {
                let row = EntryRecord {
                    id: file.row,
                    parent: file.parent,
                    name: file.name.as_bytes().to_vec(),
                    disk: self.record.disk(&stat, Some(file.wanted.digest)),
                    tree: file.tree.clone(),
                    state: EntryState::Agreed,
                    coming: None,
                    made: false,
                };
                let (folder, at, over) = (disk.clone(), at.to_owned(), file.over);
                let (before, bytes) = (file.before.clone(), file.wanted.size);
                self.wait_to_place(Unplaced {
                    folder,
                    at,
                    unique,
                    over,
                    stat,
                    row,
                    before,
                    bytes,
                })?;
            }
            Err(NotWritten::Interrupted) => {}
            Err(NotWritten::WrongBytes) => {
                let detail = "the content is not the one that the tree names";
                self.problem(Problem::new(at, ProblemKind::Unreadable, detail));
            }
            Err(NotWritten::Io(error)) => self.unwritable(at, error)?,
        }
        Ok(())
    }

    /// Writes a row if it differs from the previous one.
    pub(super) fn put(&mut self, before: Option<&EntryRecord>, row: EntryRecord) -> Result<()> {
        if before != Some(&row) {
            self.rows.push(RecordChange::Put(Box::new(row)));
        }
        self.flush_if_full()
    }

    pub(super) fn flush_if_full(&mut self) -> Result<()> {
        if self.rows.len() < ROWS_TOGETHER && self.unsynced < UNSYNCED_BYTES {
            return Ok(());
        }
        self.place_all()?;
        self.flush()
    }

    /// Synchronises the disk, then writes the rows of the placed entries.
    pub(super) fn flush(&mut self) -> Result<()> {
        if self.options.dry_run {
            self.rows.clear();
        }
        if self.rows.is_empty() && self.unsynced == 0 {
            return Ok(());
        }
        self.sync_disk()?;
        let rows = std::mem::take(&mut self.rows);
        if !rows.is_empty() {
            self.client.directories().write(self.record.directory.id, rows, true)?;
        }
        Ok(())
    }
}

/// Returns whether the error prevents reading any other content too.
fn ends_it(error: &ClientError) -> bool {
    use vfs_sync_client::TransportError as T;
    match error {
        ClientError::Transport(error) => {
            matches!(
                error,
                T::Network { .. } | T::Unauthorized(_) | T::WrongUser { .. } | T::Denied { .. }
            )
        }
        ClientError::NoContent(_) | ClientError::UnknownItem(_) => false,
        ClientError::Violation(_) | ClientError::Storage(_) | ClientError::Stopped(_) => true,
        _ => false,
    }
}
