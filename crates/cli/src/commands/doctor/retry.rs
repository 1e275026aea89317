//! The runbook's retry: one attempt, with the state exported before and after it.
//!
//! It works on the replica itself: an attempt of a copy would be one of a second installation with the
//! same client id.

use std::io::Write as _;
use std::path::Path;

use vfs_sync_client::{Attempt, ClientConfig, StateExport, SyncClient};

use super::check::Check;
use super::site::Site;
use crate::error::{Failure, Result};
use crate::output::counted;
use crate::replica;

/// The folder of the two states in the replica's directory.
pub(super) const FOLDER: &str = "retry";
/// The state before the attempt.
pub(super) const BEFORE: &str = "before.json";
/// The state after the attempt.
pub(super) const AFTER: &str = "after.json";

/// Retries once, on the replica itself. While it holds the replica, `up` pauses.
pub(super) async fn retry(site: &Site<'_>) -> Result<Check> {
    let config = ClientConfig { rematerialise: false, live: false, ..replica::config() };
    let client = replica::open(site.global, config)?;
    let before = export(&client)?;
    keep(&site.directory, BEFORE, &before)?;
    let attempt = client.attempt().await;
    let after = export(&client)?;
    keep(&site.directory, AFTER, &after)?;
    Ok(judge(site, &attempt, &before, &after))
}

fn export(client: &SyncClient) -> Result<Vec<u8>> {
    let mut state = Vec::new();
    client.export_state(StateExport::default(), &mut state)?;
    Ok(state)
}

/// Keeps a state beside the replica, in the place of the one of an earlier retry.
fn keep(directory: &Path, name: &str, state: &[u8]) -> Result<()> {
    let folder = directory.join(FOLDER);
    let what = || format!("cannot write {}", folder.join(name).display());
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700);
    builder.create(&folder).map_err(Failure::io(what()))?;
    // Only its owner may read it.
    let mut file = tempfile::NamedTempFile::new_in(&folder).map_err(Failure::io(what()))?;
    file.write_all(state).map_err(Failure::io(what()))?;
    file.as_file().sync_all().map_err(Failure::io(what()))?;
    file.persist(folder.join(name)).map_err(|error| Failure::io(what())(error.error))?;
    Ok(())
}

fn judge(site: &Site<'_>, attempt: &Attempt, before: &[u8], after: &[u8]) -> Check {
    const ID: &str = "retry";
    let identical = before == after;
    let committed = attempt.pages + attempt.pushes > 0;
    let check = match &attempt.error {
        None => Check::ok(
            ID,
            format!(
                "the attempt succeeded: {} and {}",
                counted(attempt.pushes, "push", "pushes"),
                counted(attempt.pages, "page", "pages"),
            ),
        )
        .with("verdict", "succeeded"),
        Some(error) if !committed && !identical => Check::problem(
            ID,
            format!(
                "the attempt failed, committed nothing, and changed the state: that is a defect of the \
                 client; {error}"
            ),
        )
        .with("verdict", "defect")
        .explained(&error.key())
        .next(site.command("doctor --bundle bug-report.tar.gz")),
        Some(error) => {
            let how = if identical { "left the state as it was" } else { "committed a part before" };
            Check::problem(ID, format!("the attempt failed, and {how}: {error}"))
                .with("verdict", if identical { "failedClosed" } else { "progressed" })
                .explained(&error.key())
                .next(site.command("doctor --bundle bug-report.tar.gz"))
        }
    };
    check
        .with("identical", identical)
        .with("pages", attempt.pages)
        .with("pushes", attempt.pushes)
        .with("bytesBefore", before.len())
        .with("bytesAfter", after.len())
        .text("error", attempt.error.as_ref().map(ToString::to_string))
}

#[cfg(test)]
mod tests {
    use vfs_sync_client::{ClientError, TransportError};

    use super::*;

    #[test]
    fn only_a_failed_attempt_that_committed_nothing_and_changed_the_state_is_a_defect() {
        let global = crate::args::Global {
            replica: None,
            json: false,
            quiet: false,
            insecure_http: false,
            transfers: None,
            cache_size: None,
            no_report: false,
        };
        let site = Site { global: &global, directory: "r".into() };
        let verdict = |failed: bool, pages: u64, pushes: u64, same: bool| {
            let error = failed.then(|| ClientError::Transport(TransportError::network("x")));
            let attempt = Attempt { error, pages, pushes };
            let check = judge(&site, &attempt, b"a", if same { b"a" } else { b"b" });
            check.evidence[0].value.as_str().unwrap().to_owned()
        };
        assert_eq!(verdict(true, 0, 0, false), "defect");
        assert_eq!(verdict(true, 0, 0, true), "failedClosed");
        assert_eq!(verdict(true, 1, 0, false), "progressed");
        assert_eq!(verdict(true, 0, 1, false), "progressed");
        assert_eq!(verdict(false, 0, 0, false), "succeeded");
    }
}
