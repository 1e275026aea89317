//! The tree that a client shows, as a whole.

use vfs_sync_client::core::id::UserId;
use vfs_sync_client::{ClientError, SyncClient, TreeEntry, TreePath};

/// Returns everything that a client shows: the user's own tree, then what each owner shares, with
/// paths that begin with `shared:<owner>/`.
///
/// # Errors
/// Only if the replica cannot be read.
pub fn everything(client: &SyncClient) -> Result<Vec<TreeEntry>, ClientError> {
    let mut entries: Vec<TreeEntry> = client.walk(None)?.collect::<Result<_, _>>()?;
    for owner in client.shared_owners()? {
        let before = shared(&owner);
        for entry in client.walk_shared(&owner)? {
            let mut entry = entry?;
            entry.path = format!("{before}/{}", entry.path);
            entry.linked_again = entry.linked_again.map(|first| format!("{before}/{first}"));
            entries.push(entry);
        }
    }
    Ok(entries)
}

fn shared(owner: &UserId) -> String {
    TreePath::Shared { owner: owner.clone(), steps: Vec::new() }.to_string()
}
