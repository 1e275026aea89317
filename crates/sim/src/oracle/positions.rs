//! Checks that a position of a feed has one meaning in all epochs of the database: it is never
//! handed out again for another entry, and no client continues from a position that the database
//! lost.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_core::cursor::{Cursor, Position};
use vfs_sync_core::id::{ChangeId, UserId};
use vfs_sync_store::{PullAnswer, PullRequest};

use crate::oracle::coverage::Kind;
use crate::oracle::failure::FailureKind;
use crate::oracle::ledger::Book;

/// The positions that were handed out, in all epochs of the database.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    handed: BTreeMap<UserId, BTreeMap<ChangeId, String>>,
    /// The heads that pages named.
    heads: BTreeMap<UserId, BTreeSet<ChangeId>>,
    lost: BTreeMap<UserId, BTreeSet<ChangeId>>,
}

impl Positions {
    pub(crate) fn users(&self) -> Vec<UserId> {
        self.handed.keys().cloned().collect()
    }

    /// Records that a backup replaced the database: its feed ends at `head`.
    pub(crate) fn cut(&mut self, user: &UserId, head: Option<&Cursor>) {
        let last = head.and_then(|head| Position::parse(&head.change_id));
        let handed = self.handed.get(user).into_iter().flatten().map(|(id, _)| id);
        let named = handed.chain(self.heads.get(user).into_iter().flatten());
        let gone: Vec<_> = named.filter(|id| Position::parse(id) > last).cloned().collect();
        self.lost.entry(user.clone()).or_default().extend(gone);
    }
}

/// Compares a page with all earlier pages.
pub(crate) fn pull(book: &mut Book, user: &UserId, request: &PullRequest, answer: &PullAnswer) {
    let PullAnswer::Page(page) = answer else { return };
    let lost = book.positions.lost.get(user);
    let mut given = request.positions();
    let wrong = given.find(|one| lost.is_some_and(|lost| lost.contains(&one.change_id)));
    if let Some(cursor) = wrong {
        let message = format!("{user} goes on from {cursor}, which the database has lost");
        return book.fail(FailureKind::Answer, message);
    }
    let heads = page.baseline.iter().chain(&page.head).map(|head| head.change_id.clone());
    book.positions.heads.entry(user.clone()).or_default().extend(heads);
    for json in &page.items {
        let Ok(entry) = book.entry(json) else { continue };
        let handed = book.positions.handed.entry(user.clone()).or_default();
        let before = handed.entry(entry.position.change_id.clone()).or_insert_with(|| json.clone());
        if before != json {
            let message = format!("a position of {user} is handed out twice: {before} and {json}");
            return book.fail(FailureKind::Answer, message);
        }
    }
    book.coverage.count(Kind::Check, "positions: each stands for one thing");
}
