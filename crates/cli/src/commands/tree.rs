//! Commands on items: listing, editing, contents, directories, the trash.

pub(super) mod content;
pub(super) mod directory;
pub(super) mod edit;
pub(super) mod inspect;
pub(super) mod trash;
pub(super) mod versions;
