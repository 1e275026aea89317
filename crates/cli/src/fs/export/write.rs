//! Writes the contents of an export to the disk, and the rows that record them.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;
use vfs_sync_client::{ClientError, EntryRecord, EntryState, LocalContent, RecordChange};

use super::super::destination::{self, NotWritten, Over, Placed};
use super::file::ToWrite;
use super::{Export, ExportReport};
use crate::error::{Failure, Result};
use crate::fs::disk::dir::Folder;
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
        let content = tokio::select! {
            content = content => content.map_err(|error| Failure::failed(error.to_string()))?,
            () = self.stop.cancelled() => return Ok(()),
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
        // Where the disk confuses two names, a file just written is not overwritten.
        let replaces = !matches!(file.over, Over::Nothing);
        if replaces && disk.stat(&file.name).is_ok_and(|stat| self.written.contains(&stat.id)) {
            let detail = "the disk confuses its name with that of a file beside it";
            self.problem(Problem::new(at, ProblemKind::Differs, detail));
            return Ok(());
        }
        if let Over::Expected(stat) = &file.over
            && self.stays_open(at, stat)
        {
            return Ok(());
        }
        let reader = content.reader()?;
        let (name, wanted, device) = (&file.name, &file.wanted, self.device.as_str());
        let aside = &mut self.aside;
        let mut dispose = |folder: &Folder, name: &OsStr| match aside {
            Some(aside) => aside.displace(folder, name, at).or_else(|_| folder.remove_file(name)),
            None => folder.remove_file(name),
        };
        let mut done = destination::write_file(
            disk,
            name,
            wanted,
            reader,
            file.over,
            device,
            &mut dispose,
            self.stop,
        );
        if self.options.force
            && matches!(&done, Err(NotWritten::Io(error)) if error.kind() == io::ErrorKind::AlreadyExists)
            && !disk.stat(name).is_ok_and(|stat| self.written.contains(&stat.id))
        {
            // It appeared since the folder was read: it is kept like one that was there before.
            let reader = content.reader()?;
            done = destination::write_file(
                disk,
                name,
                wanted,
                reader,
                Over::Anything,
                device,
                &mut dispose,
                self.stop,
            );
        }
        match done {
            Ok(Placed { stat, kept }) => {
                self.written.insert(stat.id);
                self.report.files_written += 1;
                self.report.bytes += file.wanted.size;
                self.unsynced += file.wanted.size;
                if let Some(copy) = kept {
                    self.kept(at, &copy);
                }
                if stat.size == file.wanted.size {
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
                    self.put(None, row)?;
                } else {
                    self.rows.push(RecordChange::Remove(file.row));
                }
            }
            Err(NotWritten::Interrupted) => {}
            Err(NotWritten::WrongBytes) => {
                let detail = "the content is not the one that the tree names";
                self.problem(Problem::new(at, ProblemKind::Unreadable, detail));
            }
            Err(NotWritten::Io(error)) if error.kind() == io::ErrorKind::AlreadyExists => {
                let detail = "another file appeared in its place during the export";
                self.problem(Problem::new(at, ProblemKind::Differs, detail));
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
        if self.rows.len() >= ROWS_TOGETHER || self.unsynced >= UNSYNCED_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Synchronises the disk, then writes the rows of the written entries.
    pub(super) fn flush(&mut self) -> Result<()> {
        if self.options.dry_run {
            self.rows.clear();
        }
        if self.rows.is_empty() && self.unsynced == 0 {
            return Ok(());
        }
        let what = format!("cannot write to {}", self.root.path().display());
        let top = self.root.folder(Path::new(""));
        top.and_then(|top| top.sync_disk()).map_err(Failure::io(what))?;
        self.unsynced = 0;
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
