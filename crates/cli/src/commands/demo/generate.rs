//! Generates a tree with the usual contents of real trees, and with rare ones.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use vfs_sync_core::time::Timestamp;
use vfs_sync_folder::disk::dir::set_mode_and_mtime;

const FOLDERS: u64 = 120;
const FILES_IN_FOLDER: u64 = 20;
const DEPTH: usize = 60;

/// Returns names that software often handles wrongly. The disk may reject some.
fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        " leading space",
        "trailing space ",
        "new\nline",
        "escape \u{1b}[31mred",
        "backwards \u{202e}txt.exe",
        "quote ' \" `",
        "back\\slash",
        "-rf",
        "~",
        "*?[x]",
        "CON",
        "日本語.txt",
        "🦀🦀🦀",
        "cafe\u{301}",
        "caf\u{e9}",
        "UPPER",
        "upper",
        "%raw%looks escaped",
        "100%",
        "...",
        ".hidden",
        "a (conflict 12345678).txt",
    ]
    .into_iter()
    .map(|name| name.as_bytes().to_vec())
    .collect();
    names.push(vec![b'x'; 255]);
    names.push(b"not utf-8 \xff\xfe".to_vec());
    names.push(b"%raw%caf%E9".to_vec());
    names
}

/// Fills the existing directory `top`, always with the same tree.
pub(super) fn generate(top: &Path) -> io::Result<()> {
    for number in 0..FOLDERS {
        let folder = top.join(format!("group {}/folder {number:03}", number % 10));
        std::fs::create_dir_all(&folder)?;
        for file in 0..FILES_IN_FOLDER {
            let seed = number * FILES_IN_FOLDER + file;
            let size = match seed % 97 {
                0 => 0,
                1 => 700_000,
                rest => rest * 41,
            };
            write(&folder.join(format!("file {file:02}.txt")), size, seed)?;
        }
    }
    let mut deep = top.join("deep");
    for level in 0..DEPTH {
        deep.push(format!("level {level}"));
    }
    std::fs::create_dir_all(&deep)?;
    write(&deep.join("bottom.txt"), 100, 1)?;
    std::fs::create_dir_all(top.join("empty/inner"))?;
    let odd = top.join("odd names");
    std::fs::create_dir(&odd)?;
    for (number, name) in (0..).zip(odd_names()) {
        // Some disks reject some names; the demonstration continues without them.
        let _ = write(&odd.join(OsStr::from_bytes(&name)), 64 + number, number);
    }
    write(&top.join("large.bin"), 12_000_000, 7)
}

fn write(path: &Path, size: u64, seed: u64) -> io::Result<()> {
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    std::fs::write(path, bytes)?;
    let mode = [0o644, 0o755, 0o600, 0o444][usize::try_from(seed % 4).unwrap_or(0)];
    let millis = 946_684_800_000 + i64::try_from(seed).unwrap_or(0) * 86_399_123;
    set_mode_and_mtime(&std::fs::File::open(path)?, Some(mode), Timestamp::from_millis(millis))
}
