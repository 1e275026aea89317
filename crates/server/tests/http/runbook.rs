//! The runbook's words: each signature, status, message, name and variable that operators look up is in the
//! documents and is what the product says.

use std::path::Path;

use serde_json::json;
use vfs_sync_blobs::{BlobError, BlobOperation, S3Config};
use vfs_sync_core::cursor::{Epoch, Position};
use vfs_sync_core::guardrail::{Stage, Violation};
use vfs_sync_core::id::{ReplicaId, WriteId};
use vfs_sync_core::time::Timestamp;
use vfs_sync_testkit as helpers;

use crate::blobs::{stage, upload};
use crate::scene::Scene;

/// A document, its white space made plain: a quote may be broken over lines.
fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/en").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn has(document: &str, quote: &str) {
    assert!(document.contains(quote), "the document lacks {quote:?}");
}

/// Every signature, the error text that operators see, and the violation that gives both.
fn signatures() -> Vec<(&'static str, &'static str, Violation)> {
    let replica = ReplicaId::new("laptop").unwrap();
    let (previous, incoming) = (WriteId::new(2).unwrap(), WriteId::new(1).unwrap());
    let regression = |stage| Violation::LastWriteIdRegression {
        stage,
        replica_id: replica.clone(),
        previous,
        incoming,
    };
    let position = Position { epoch: Epoch::from_u64(1).unwrap(), counter: 1 };
    let time = Timestamp::from_millis(0).unwrap();
    let cursor =
        vfs_sync_core::cursor::Cursor { changed_at: time, change_id: position.change_id() };
    let op_id = cursor.change_id.clone();
    let (previous, incoming) = (cursor.clone(), cursor.clone());
    vec![
        (
            "pull:pullPageInvariantViolation",
            "hasMore=true with an empty pull page",
            Violation::EmptyPageWithMore,
        ),
        (
            "pull:pullDuplicateOpReplay",
            "transport replayed opId",
            Violation::DuplicateOpReplay { op_id },
        ),
        (
            "pull:pullCursorRegression",
            "transport returned regressing sync cursor",
            Violation::PullCursorRegression { previous, incoming },
        ),
        ("pull:lastWriteIdRegression", "regressed lastReconciledWriteIds", regression(Stage::Pull)),
        (
            "pull:pullRematerializationRequired",
            "pull requires re-materialization from canonical state",
            Violation::RematerializationRequired { requested: None, oldest_available: None },
        ),
        (
            "reconcile:reconcileCursorRegression",
            "transport reconcile regressed sync cursor",
            Violation::ReconcileCursorRegression {
                previous: cursor.clone(),
                incoming: cursor.clone(),
            },
        ),
        (
            "reconcile:lastWriteIdRegression",
            "regressed lastReconciledWriteIds",
            regression(Stage::Reconcile),
        ),
        (
            "flush:staleWriteRecoveryExhausted",
            "stale write-id recovery exceeded max retry attempts without forward progress",
            Violation::StaleWriteRecoveryExhausted {
                attempts: 2,
                max_attempts: 2,
                stale_results: 1,
            },
        ),
        (
            "hydrate:hydrateGuardrailViolation",
            "names the field",
            Violation::Hydrate {
                field: "names the field".into(),
                index: None,
                reason: "is wrong".into(),
            },
        ),
    ]
}

#[test]
fn every_signature_and_error_text_is_the_products() {
    let runbook = document("vfs-sync-runbook.md");
    let mut emitted = Vec::new();
    for (signature, message, violation) in signatures() {
        has(&runbook, &format!("`{signature}`"));
        has(&runbook, message);
        assert_eq!(violation.signature(), signature);
        assert!(violation.message().contains(message), "{}", violation.message());
        emitted.push(violation);
    }
    let all: Vec<&str> = signatures().iter().map(|(signature, ..)| *signature).collect();
    helpers::expect_exact_guardrail_signatures(&emitted, &all);
    for signature in all {
        helpers::expect_guardrail_signature(&emitted, signature);
    }
    helpers::expect_pull_page_invariant_violation(&emitted, true, 0);
    helpers::expect_stale_write_recovery_exhausted_violation(&emitted, 2, 2);
    helpers::expect_hydrate_guardrail_violation(&emitted, "names the field");
    has(&runbook, "exceeds max retry attempts (2)");
    assert_eq!(vfs_sync_core::limits::MAX_STALE_RECOVERIES, 2);
}

#[test]
fn every_helper_is_named_as_it_is_and_as_the_typescript_client_has_it() {
    let runbook = document("vfs-sync-runbook.md");
    for (helper, typescript) in [
        (
            "expect_pull_page_invariant_violation",
            "expectPullPageInvariantViolation({ violations, hasMore, itemsLength })",
        ),
        (
            "expect_pull_duplicate_op_replay_violation",
            "expectPullDuplicateOpReplayViolation({ violations, opId })",
        ),
        (
            "expect_pull_cursor_regression_violation",
            "expectPullCursorRegressionViolation({ violations, previousChangedAt, ... })",
        ),
        (
            "expect_reconcile_cursor_regression_violation",
            "expectReconcileCursorRegressionViolation({ violations, ... })",
        ),
        (
            "expect_last_write_id_regression_violation",
            "expectLastWriteIdRegressionViolation({ violations, stage, replicaId, ... })",
        ),
        (
            "expect_stale_write_recovery_exhausted_violation",
            "expectStaleWriteRecoveryExhaustedViolation({ violations, attempts, maxAttempts })",
        ),
        (
            "expect_hydrate_guardrail_violation",
            "expectHydrateGuardrailViolation({ violations, messagePattern? })",
        ),
        ("expect_guardrail_signature", "expectGuardrailSignature({ violations, signature })"),
        (
            "expect_exact_guardrail_signatures",
            "expectExactGuardrailSignatures({ violations, signatures })",
        ),
    ] {
        has(&runbook, &format!("`{helper}("));
        has(&runbook, &format!("`{typescript}`"));
    }
    has(&runbook, "sync-client-test-support-observers.ts");
    has(&runbook, "client.exportState()");
    has(&runbook, "docs/en/vfs-blob-persistence.md".trim_start_matches("docs/en/"));
}

#[test]
fn every_failure_of_the_object_store_is_named_as_it_is() {
    let runbook = document("vfs-sync-runbook.md");
    let persistence = document("vfs-blob-persistence.md");
    for operation in [BlobOperation::Persist, BlobOperation::Read, BlobOperation::Delete] {
        has(&runbook, &format!("`500 {}`", operation.failure()));
    }
    let failures = [BlobOperation::Persist, BlobOperation::Read, BlobOperation::Delete];
    assert_eq!(
        failures.map(BlobOperation::failure),
        ["Failed to persist blob data", "Failed to read blob data", "Failed to delete blob data"]
    );
    for (code, retryable) in [
        ("NoSuchKey", false),
        ("AccessDenied", false),
        ("ServiceUnavailable", true),
        ("SlowDown", true),
        ("InternalError", true),
        ("StorageFull", true),
    ] {
        has(&runbook, &format!("| `{code}` | 500 |"));
        has(&persistence, &format!("| `{code}` |"));
        assert_eq!(BlobError::new(BlobOperation::Read, code, "").retryable, retryable, "{code}");
    }
    for variable in ["VFS_BLOB_S3_BUCKET", "VFS_BLOB_S3_KEY_PREFIX"] {
        has(&runbook, &format!("`{variable}`"));
    }
    let config = S3Config::from_lookup(|name| match name {
        "VFS_BLOB_S3_BUCKET" => Some("bucket".to_owned()),
        "VFS_BLOB_S3_KEY_PREFIX" => Some("some/prefix".to_owned()),
        _ => None,
    });
    assert_eq!(config.unwrap().unwrap().bucket, "bucket");
}

#[tokio::test]
async fn an_attach_is_refused_in_the_runbooks_words() {
    let runbook = document("vfs-sync-runbook.md");
    let scene = Scene::new().await;
    let alice = scene.user("alice");
    let item = alice.file(1).await;
    let staged = stage(&alice, "s", "b").await.ok();
    assert_eq!(staged["status"], "blob-stage:staged");
    has(&runbook, "`blob-stage:staged`");
    upload(&alice, "s", b"bytes").await.ok();
    let head = alice.pull_all().await["baseline"].clone();
    let attach = json!({
        "itemId": item, "clientId": "laptop", "requiredCursor": head,
        "requiredLastReconciledWriteIds": {"laptop": 1},
    });
    let refused = alice.post("/v1/vfs/blobs/stage/s/attach", attach).await;
    let refused = refused.refused(409, "reconcile_state_behind");
    let sentence = "Client reconcile state is behind required visibility";
    assert_eq!(refused["error"], sentence);
    has(&runbook, &format!("`409 {sentence}`"));
    // What is behind a malformed row, and its key, are in `malformed`.
    for quote in [
        "`500 Failed to attach staged blob`",
        "`crdt:<clientId>`",
        "`requiredCursor`",
        "`requiredLastReconciledWriteIds`",
        "`replicaId -> positive integer`",
        "`500 malformed_row`",
        "`403 wrong_user`",
        "`507 storage_full`",
        "`413 quota_exceeded`",
    ] {
        has(&runbook, quote);
    }
}

/// The codes in the sources of the server: the names of `wire::code` are checked in `core`.
fn codes_in_sources(directory: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            codes_in_sources(&path, found);
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        // An error is made from a status, then a code; or, from a status alone, from a pair.
        let is_code = |text: &str| {
            text.contains('_') && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        };
        for (at, _) in source.match_indices("StatusCode::") {
            let rest = &source[at + "StatusCode::".len()..];
            let name = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_').unwrap_or(0);
            let rest = rest[name..].trim_start().trim_start_matches([',', '=', '>', '(']);
            let literal = rest.trim_start().trim_start_matches('(').strip_prefix('"');
            let literal = literal.and_then(|text| text.split('"').next());
            found.extend(literal.filter(|text| is_code(text)).map(str::to_owned));
        }
    }
}

#[test]
fn every_code_of_the_server_and_of_its_store_is_in_the_runbook() {
    use vfs_sync_core::runbook::{Kind, entry_of};
    let mut codes = Vec::new();
    codes_in_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut codes);
    for known in ["database_unavailable", "not_found", "unsupported_media_type"] {
        assert!(codes.iter().any(|code| code == known), "{codes:?}");
    }
    codes.extend(["overloaded".to_owned(), "timeout".to_owned(), "internal_error".to_owned()]);
    for code in &codes {
        assert!(entry_of(Kind::Code, code).is_some(), "{code} has no entry");
    }
    use strum::VariantArray as _;
    for error in vfs_sync_server::auth::TokenError::VARIANTS {
        let entry = entry_of(Kind::TokenReason, error.reason());
        let entry = entry.or_else(|| entry_of(Kind::Code, error.reason()));
        assert!(entry.is_some(), "{error:?}");
        assert_eq!(entry, vfs_sync_core::runbook::find(&error.to_string()).first().copied());
    }
    for code in vfs_sync_blobs::STORAGE_CODES {
        assert!(entry_of(Kind::StorageCode, code).is_some(), "{code} has no entry");
    }
    for operation in [BlobOperation::Persist, BlobOperation::Read, BlobOperation::Delete] {
        let found = vfs_sync_core::runbook::find(&format!("500 {}", operation.failure()));
        assert_eq!(found[0].key, "blob_store_error");
    }
}
