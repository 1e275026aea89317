//! Values that are valid by construction: identifiers, times, cursors, contents, access levels, and
//! the limits that bound them.

pub mod access;
pub mod content;
pub mod cursor;
pub mod id;
pub mod limits;
pub mod problem;
pub mod time;
