//! Mending rows that something other than this program has written.

use vfs_sync_core::id::UserId;

use super::rows::Columns;
use super::transaction::PostgresTransaction;
use crate::{MalformedState, StoreError, codes};

/// Removes the malformed reconcile states of one user, or of all.
pub(super) async fn reconcile_states(
    tx: &mut PostgresTransaction<'_>,
    user: Option<&UserId>,
    dry_run: bool,
) -> Result<Vec<MalformedState>, StoreError> {
    let rows = tx
        .query(
            "SELECT changed_at, change_id, write_ids, client, user_id FROM reconcile_state \
             WHERE $1::text IS NULL OR user_id = $1 ORDER BY user_id, client FOR UPDATE",
            &[&user.map(UserId::as_str)],
        )
        .await?;
    let mut malformed = Vec::new();
    for row in &rows {
        let (key, user): (String, String) = (row.get(3), row.get(4));
        let columns = Columns { row, table: "reconcile_state", key: &key };
        let parse =
            || codes::reconcile_state(&key, columns.get(0)?, columns.get(1)?, columns.get(2)?);
        if let Err(StoreError::MalformedRow { reason, .. }) = parse() {
            malformed.push(MalformedState { user, key: key.clone(), reason });
        }
    }
    if !dry_run {
        for state in &malformed {
            tx.execute(
                "DELETE FROM reconcile_state WHERE user_id = $1 AND client = $2",
                &[&state.user, &state.key],
            )
            .await?;
        }
    }
    Ok(malformed)
}
