//! The directory of a replica on the disk.

use std::path::Path;

/// The folder of the contents in a replica's directory.
pub(crate) const CONTENTS: &str = "contents";

/// Creates a directory that only its owner may read, because the user's data is in it.
pub(crate) fn private_dir(dir: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}
