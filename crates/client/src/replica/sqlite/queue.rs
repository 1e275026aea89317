//! The queue, the rejected list and the queued contents, in SQLite.

use rusqlite::{Params, params};
use vfs_sync_core::id::{OpId, WriteId};
use vfs_sync_core::operation::Operation;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::PushReason;

use super::SqliteRows;
use crate::api::node::{QueuedOp, QueuedState, RejectedOp};
use crate::replica::rows::Result;
use crate::replica::store::{Counts, MoveId, Upload, UploadState};

fn queued_number(state: QueuedState) -> i64 {
    match state {
        QueuedState::Pending => 0,
        QueuedState::Acknowledged => 1,
        QueuedState::Held => 2,
    }
}

fn state_number(state: UploadState) -> i64 {
    match state {
        UploadState::Queued => 0,
        UploadState::Attached => 1,
        UploadState::Rejected => 2,
    }
}

impl SqliteRows {
    pub(super) fn insert_queued(
        &self,
        of: Option<&MoveId>,
        op: &Operation,
        state: QueuedState,
    ) -> Result<()> {
        let state = queued_number(state);
        let write_id = i64::try_from(op.write_id.get()).expect("a write id has 53 bits");
        self.run(
            "INSERT INTO queue (op_id, item, parent, state, write_id, occurred_at, op, moved)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                op.op_id.as_str(),
                op.item_id.as_str(),
                op.parent().map(vfs_sync_core::id::ItemId::as_str),
                state,
                write_id,
                op.occurred_at.as_millis(),
                op.to_json(),
                of.map(OpId::as_str),
            ],
        )
        .map(drop)
    }

    /// Reads a queued operation in the form in which it was sent, or will be.
    pub(super) fn sent(&self, text: &str) -> Result<Operation> {
        Operation::parse(text).map_err(|error| self.corrupt("a queued operation", error))
    }

    fn operation(&self, text: &str, write_id: i64, occurred_at: i64) -> Result<Operation> {
        let mut op = self.sent(text)?;
        op.write_id = u64::try_from(write_id)
            .ok()
            .and_then(WriteId::new)
            .ok_or_else(|| self.corrupt("a queued operation's write id", write_id))?;
        op.occurred_at = Timestamp::from_millis(occurred_at)
            .ok_or_else(|| self.corrupt("a queued operation's time", occurred_at))?;
        Ok(op)
    }

    pub(super) fn queued(&self, clause: &str, params: impl Params) -> Result<Vec<QueuedOp>> {
        let sql = format!("SELECT op, write_id, occurred_at, state FROM queue {clause}");
        self.all(&sql, params, |row| {
            let text: String = self.get(row, 0)?;
            let operation = self.operation(&text, self.get(row, 1)?, self.get(row, 2)?)?;
            let state = match self.get::<i64>(row, 3)? {
                0 => QueuedState::Pending,
                1 => QueuedState::Acknowledged,
                2 => QueuedState::Held,
                other => return Err(self.corrupt("a queued operation's state", other)),
            };
            Ok(QueuedOp { operation, state })
        })
    }

    pub(super) fn pending_operations(&self, at_most: usize) -> Result<Vec<(Operation, usize)>> {
        let limit = i64::try_from(at_most).unwrap_or(i64::MAX);
        let sql =
            "SELECT op, write_id, occurred_at FROM queue WHERE state = 0 ORDER BY seq LIMIT ?1";
        self.all(sql, [limit], |row| {
            let text: String = self.get(row, 0)?;
            let operation = self.operation(&text, self.get(row, 1)?, self.get(row, 2)?)?;
            Ok((operation, text.len()))
        })
    }

    pub(super) fn take_covered(&self, through: WriteId) -> Result<Vec<Operation>> {
        let through = i64::try_from(through.get()).expect("a write id has 53 bits");
        let end: Option<i64> =
            self.one("SELECT min(seq) FROM queue WHERE state = 0", [], |row| row.get(0))?.flatten();
        let which = "WHERE state = 1 AND write_id <= ?1 AND seq < ?2";
        let params = [through, end.unwrap_or(i64::MAX)];
        let covered = self.queued(&format!("{which} ORDER BY seq"), params)?;
        if !covered.is_empty() {
            self.run(&format!("DELETE FROM queue {which}"), params)?;
        }
        Ok(covered.into_iter().map(|one| one.operation).collect())
    }

    pub(super) fn shift(&self, by: u64) -> Result<()> {
        let by = i64::try_from(by).unwrap_or(i64::MAX);
        self.run("UPDATE queue SET write_id = write_id + ?1 WHERE state = 0", [by]).map(drop)
    }

    pub(super) fn insert_rejected(&self, one: &RejectedOp) -> Result<()> {
        let reason =
            one.reason.map(|reason| serde_json::to_string(&reason).expect("a reason serializes"));
        let op = &one.operation;
        self.run(
            "INSERT INTO rejected (op_id, op, reason, detail) VALUES (?1, ?2, ?3, ?4)",
            params![op.op_id.as_str(), op.to_json(), reason, one.detail],
        )
        .map(drop)
    }

    pub(super) fn rejected_where(
        &self,
        clause: &str,
        params: impl Params,
    ) -> Result<Vec<RejectedOp>> {
        let sql = format!("SELECT op, reason, detail FROM rejected {clause}");
        self.all(&sql, params, |row| {
            let text: String = self.get(row, 0)?;
            let operation = Operation::parse(&text)
                .map_err(|error| self.corrupt("a rejected operation", error))?;
            let reason: Option<String> = self.get(row, 1)?;
            let parse = |text: String| self.json::<PushReason>("a reason", &text);
            let reason = reason.map(parse).transpose()?;
            Ok(RejectedOp { operation, reason, detail: self.get(row, 2)? })
        })
    }

    pub(super) fn write_upload(&self, upload: &Upload) -> Result<()> {
        let seq = (upload.seq != 0).then_some(upload.seq);
        let body = serde_json::to_string(upload).expect("an upload serializes");
        self.run(
            "INSERT OR REPLACE INTO uploads (seq, item, blob_id, state, body)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                seq,
                upload.item.as_str(),
                upload.blob_id.as_str(),
                state_number(upload.state),
                body
            ],
        )
        .map(drop)
    }

    pub(super) fn uploads_where(&self, clause: &str, params: impl Params) -> Result<Vec<Upload>> {
        let sql = format!("SELECT seq, body FROM uploads {clause}");
        self.all(&sql, params, |row| {
            let text: String = self.get(row, 1)?;
            let upload: Upload = self.json("an upload", &text)?;
            Ok(Upload { seq: self.get(row, 0)?, ..upload })
        })
    }

    /// Resets all uploads: after a rematerialisation the server may know none of them.
    pub(super) fn reset_all_uploads(&self) -> Result<()> {
        for mut upload in self.uploads_where("WHERE state < 2 ORDER BY seq", [])? {
            upload.send_anew();
            self.write_upload(&upload)?;
        }
        Ok(())
    }

    pub(super) fn count_all(&self) -> Result<Counts> {
        let count = |sql: &str| -> Result<u64> {
            let count: Option<i64> = self.one(sql, [], |row| row.get(0))?;
            Ok(count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0))
        };
        Ok(Counts {
            pending: count("SELECT count(*) FROM queue WHERE state IN (0, 2)")?,
            acknowledged: count("SELECT count(*) FROM queue WHERE state = 1")?,
            rejected: count("SELECT count(*) FROM rejected")?,
            uploads: count("SELECT count(*) FROM uploads WHERE state = 0")?,
            rejected_uploads: count("SELECT count(*) FROM uploads WHERE state = 2")?,
            lost: count("SELECT count(*) FROM lost")?,
        })
    }
}
