//! Mending rows that something other than this program has written.

use rusqlite::params;
use vfs_sync_core::id::UserId;

use super::rows::Columns;
use super::transaction::SqliteTransaction;
use crate::{MalformedState, StoreError, codes};

/// Removes the malformed reconcile states of one user, or of all.
pub(super) fn reconcile_states(
    tx: &mut SqliteTransaction<'_>,
    user: Option<&UserId>,
    dry_run: bool,
) -> Result<Vec<MalformedState>, StoreError> {
    let mut malformed = Vec::new();
    {
        let mut select = tx.prepare(
            "SELECT s.changed_at, s.change_id, s.write_ids, s.client, u.user_id \
             FROM reconcile_state s JOIN realms u ON u.uid = s.uid \
             WHERE ?1 IS NULL OR u.user_id = ?1 ORDER BY u.user_id, s.client",
        )?;
        let mut rows = select.query(params![user.map(UserId::as_str)])?;
        while let Some(row) = rows.next()? {
            let (key, user): (String, String) = (row.get(3)?, row.get(4)?);
            let columns = Columns { row, table: "reconcile_state", key: &key };
            let parse = || {
                let (changed_at, change_id) = (columns.integer(0)?, columns.text(1)?);
                codes::reconcile_state(&key, changed_at, change_id, columns.text(2)?)
            };
            if let Err(StoreError::MalformedRow { reason, .. }) = parse() {
                malformed.push(MalformedState { user, key: key.clone(), reason });
            }
        }
    }
    if !dry_run {
        let mut delete = tx.prepare(
            "DELETE FROM reconcile_state \
             WHERE uid = (SELECT uid FROM realms WHERE user_id = ?1) AND client = ?2",
        )?;
        for state in &malformed {
            delete.execute(params![state.user, state.key])?;
        }
    }
    Ok(malformed)
}
