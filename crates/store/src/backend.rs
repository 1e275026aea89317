//! The parts that all back ends share: building a page, counting rows, checking a schema, noticing an
//! older database.

pub(crate) mod page;
pub(crate) mod plan_memory;
pub(crate) mod row_limit;
pub(crate) mod schema;
pub(crate) mod served;
