//! Streams of changes, events, states and results.

use std::sync::Arc;

use serde::Deserialize;
use vfs_sync_ffi::Subscription;

use crate::value::{Child, Item, Progress, SyncEvent, SyncState, TreeChange};
use crate::{Cancellation, Result, parsed, token};

/// The difference between two results of a query.
#[derive(Debug, Clone, PartialEq, Deserialize, uniffi::Record)]
pub struct ResultChange {
    /// The items that the query finds now.
    pub added: Vec<Item>,
    /// The items that it still finds, and that changed.
    pub changed: Vec<Item>,
    /// The items that it does not find any more.
    pub removed: Vec<String>,
    /// All items of the result in their order.
    pub order: Vec<String>,
}

macro_rules! streams {
    ($($(#[doc = $doc:literal])+ $stream:ident of $value:ty;)+) => {$(
        $(#[doc = $doc])+
        #[derive(uniffi::Object)]
        pub struct $stream(pub(crate) Subscription);

        #[uniffi::export]
        impl $stream {
            /// Returns the next value; none means the end. Of several calls, an earlier one gets the earlier value.
            #[uniffi::method(default(cancel = None))]
            pub async fn next(&self, cancel: Option<Arc<Cancellation>>) -> Result<Option<$value>> {
                let next = self.0.next(token(cancel)).await?;
                next.map(|json| parsed(&json)).transpose()
            }

            /// Ends the stream; a call that waits for the next value gets the end.
            pub fn end(&self) {
                self.0.close();
            }
        }
    )+};
}

streams! {
    /// The changes of the tree, each with the item before and after.
    ChangeStream of TreeChange;
    /// The events of synchronisation: rejected edits, conflicts, pauses, stops.
    EventStream of SyncEvent;
    /// The state of synchronisation, at first and after each change.
    SyncStateStream of SyncState;
    /// The progress of syncs and downloads.
    ProgressStream of Progress;
    /// The children of a container, at first and after each change of them.
    ChildrenStream of Vec<Child>;
    /// The first result of a query, all of it added, and each difference after it.
    ResultStream of ResultChange;
}
