#![doc = include_str!("../../../docs/testing-applications.md")]

pub mod build;
mod device;
mod environment;
mod fault;
mod record;
mod scripted;
mod server;
mod violations;

use std::future::Future;

pub use vfs_sync_blobs::{BlobStore, ObjectBlobs};
pub use vfs_sync_client as client;
pub use vfs_sync_core as core;
pub use vfs_sync_server::auth::{AuthConfig, Secret};
pub use vfs_sync_server::{MetadataQuota, ServerConfig};
pub use vfs_sync_store::memory::{MemorySnapshot, MemoryStore};
pub use vfs_sync_store::{MetadataStore, Retention};

pub use device::{TestDevice, everything};
pub use environment::{Random, TestClock, TestEnvironment, number, seed, seeds};
pub use fault::{Direction, Fault, FaultyTransport, Proxy};
pub use record::Record;
pub use scripted::{Phase, ScriptedTransport, all_results};
pub use server::{TestServer, TestServerBuilder};
pub use violations::{
    ViolationCollector, expect_exact_guardrail_signatures, expect_guardrail_signature,
    expect_hydrate_guardrail_violation, expect_last_write_id_regression_violation,
    expect_pull_cursor_regression_violation, expect_pull_duplicate_op_replay_violation,
    expect_pull_page_invariant_violation, expect_pull_rematerialization_required_violation,
    expect_reconcile_cursor_regression_violation, expect_stale_write_recovery_exhausted_violation,
};

/// Runs an asynchronous test on a new runtime. Tests that already have a runtime do not need it.
pub fn run<F: Future>(test: F) -> F::Output {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(test)
}

#[cfg(doctest)]
#[doc = include_str!("../../../docs/embedding.md")]
struct EmbeddingGuide;

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
