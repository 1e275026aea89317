//! The check of what the database derives, by the walk of the operator's doctor: after all faults have
//! ended it finds nothing.

use vfs_sync_store::{Extent, MetadataStore, examine};

use crate::oracle::coverage::Kind;
use crate::oracle::failure::FailureKind;
use crate::oracle::ledger::Ledger;

/// Checks that levels of access, feeds and numbers follow from the registers, and that every row can
/// be read.
pub(crate) async fn follows(ledger: &Ledger, store: &dyn MetadataStore) {
    ledger.count(Kind::Check, "an operator's doctor finds nothing");
    let (found, walked) = examine(store, &Extent::All, async |_, _| {}).await;
    if let Err(error) = walked {
        return ledger.fail(FailureKind::Derived, format!("the examination ended early: {error}"));
    }
    if !found.is_clean() || found.busy > 0 {
        ledger.fail(FailureKind::Derived, format!("{found:#?}"));
    }
}
