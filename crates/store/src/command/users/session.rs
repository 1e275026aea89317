//! Sessions of the operator's console.

use vfs_sync_core::server::session::MAX_SESSIONS;

use crate::command::{
    BeginSession, Command, DropEndedSessions, EndSession, ListSessions, ReadSession, one_call,
};
use crate::error::Result;
use crate::topics::Topics;

/// The ended sessions that one transaction removes.
const DROPPED_AT_ONCE: u32 = 100;

one_call! {
    ReadSession: |tx, it| tx.session(&it.id);
    ListSessions: |tx, it| tx.sessions(it.limit);
    EndSession: |tx, it| tx.drop_session(&it.id);
    DropEndedSessions: |tx, it| tx.drop_ended_sessions(it.now, DROPPED_AT_ONCE);
}

impl Command for BeginSession {
    async fn run<T: Topics>(&self, tx: &mut T) -> Result<()> {
        let Self { session } = self;
        tx.drop_ended_sessions(session.made_at, DROPPED_AT_ONCE).await?;
        let open = tx.sessions(MAX_SESSIONS).await?;
        if open.len() >= MAX_SESSIONS as usize
            && let Some(oldest) = open.last()
        {
            tx.drop_session(&oldest.id).await?;
        }
        tx.put_session(session).await
    }
}
