//! The tables that the steps of a schema create. A start can check that all exist, so that a
//! database which lost some is found then and not by the first request that needs them.

use std::collections::BTreeSet;

/// The oldest schema whose programs work on the present one: they neither fail on it, nor leave rows
/// that are wrong by it. A database keeps the number (`compatible` in `meta`), so that a program of
/// the version before can be started again on a database that this one has migrated.
pub(crate) const COMPATIBLE_SINCE: i64 = 14;
/// The number of steps for which [`COMPATIBLE_SINCE`] was decided: a new step is to be thought about.
pub(crate) const DECIDED_FOR: usize = 15;

/// Returns whether a program that knows the schema `known` works on a newer one, by the number that
/// the database keeps.
pub(crate) fn works_on_newer(known: i64, compatible_since: Option<i64>) -> bool {
    compatible_since.is_some_and(|since| since <= known)
}

/// Returns the tables that exist after `steps`; each statement begins a line.
pub(crate) fn tables<'a>(steps: &[&'a str]) -> BTreeSet<&'a str> {
    let mut tables = BTreeSet::new();
    let name = |rest: &'a str| rest.split([' ', '(', ';']).next().unwrap_or(rest);
    for line in steps.iter().flat_map(|step| step.lines()) {
        if let Some(rest) = line.strip_prefix("CREATE TABLE ") {
            tables.insert(name(rest));
        } else if let Some(rest) = line.strip_prefix("DROP TABLE ") {
            tables.remove(name(rest));
        }
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_say_which_tables_there_are() {
        let steps = [
            "CREATE TABLE a (\n  x INT\n);\nCREATE TABLE b(x INT);\nCREATE INDEX i ON a (x);",
            "-- A comment.\nDROP TABLE a;\nCREATE TABLE c (x INT);",
        ];
        assert_eq!(tables(&steps), BTreeSet::from(["b", "c"]));
    }
}
