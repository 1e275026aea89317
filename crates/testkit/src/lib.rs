//! What the tests of applications need as well as ours: a server in the test's own process, a
//! transport that follows a script, one that a test can cut, random numbers that a seed repeats, and
//! assertions on guardrail violations.

mod faulty;
mod random;
mod scripted;
mod server;
mod violations;

pub use faulty::{DownloadFault, FaultyTransport};
pub use random::Random;
pub use scripted::{ScriptedTransport, all_results};
pub use server::{TestClock, TestServer, TestServerBuilder};
pub use violations::{
    ViolationCollector, expect_exact_guardrail_signatures, expect_guardrail_signature,
    expect_hydrate_guardrail_violation, expect_last_write_id_regression_violation,
    expect_pull_cursor_regression_violation, expect_pull_duplicate_op_replay_violation,
    expect_pull_page_invariant_violation, expect_pull_rematerialization_required_violation,
    expect_reconcile_cursor_regression_violation, expect_stale_write_recovery_exhausted_violation,
};

#[cfg(doctest)]
#[doc = include_str!("../../../docs/embedding.md")]
struct EmbeddingGuide;
