//! A short soak of the built server: all attacks at once, and the work of their victims.

#![allow(clippy::print_stdout)]

use std::path::Path;
use std::process::Command;

/// The length of the soak, such as `30m`.
const LENGTH: &str = "VFS_SYNC_TEST_SOAK";
/// The size of what attackers prepare, in percent: a server without optimisation is slow.
const SIZE: &str = "10";

#[test]
#[ignore = "takes the time that VFS_SYNC_TEST_SOAK names, and two processors"]
fn the_server_does_not_grow_and_no_victim_fails_under_all_attacks_at_once() {
    let length = std::env::var(LENGTH).unwrap_or_default();
    if matches!(&*length, "" | "0") {
        println!("skipped: {LENGTH} names no time");
        return;
    }
    let bench = Path::new(env!("CARGO_BIN_EXE_vfs-sync-bench"));
    let server = bench.with_file_name("vfs-sync");
    assert!(server.exists(), "{} is missing: cargo build --workspace", server.display());
    let soak = Command::new(bench).args(["--soak", &length, "--attack-size", SIZE]).status();
    assert!(soak.expect("the bench starts").success(), "see the table above: what MISSED its rule");
}
