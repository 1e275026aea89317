//! The index of shown items, in SQLite.

use rusqlite::params_from_iter;
use rusqlite::types::Value;
use vfs_sync_core::id::ItemId;

use super::SqliteRows;
use crate::api::{NameIs, Query, SortBy};
use crate::replica::rows::{FoundRow, Result};

/// The statement of a query, and its parameters.
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) params: Vec<Value>,
}

/// The conditions of a statement, as they are added.
struct Conditions {
    text: Vec<String>,
    params: Vec<Value>,
}

impl Conditions {
    fn add(&mut self, condition: &str, value: impl Into<Value>) {
        self.params.push(value.into());
        self.text.push(condition.replace('?', &format!("?{}", self.params.len())));
    }
}

/// Builds the statement of a query: a range of the index that the narrowest condition and the order
/// determine. Without `INDEXED BY` SQLite would guess.
pub(super) fn statement(query: &Query) -> Statement {
    let (key, by) = match query.sort_by {
        SortBy::Name => ("name", ""),
        SortBy::ModifiedAt => ("modified", "_modified"),
    };
    let mut conditions = Conditions { text: Vec::new(), params: Vec::new() };
    let by_metadata = query.metadata.is_some();
    let (table, index) = if by_metadata {
        ("found_metadata", format!("found_metadata_by{}", if by.is_empty() { "_name" } else { by }))
    } else if query.object_type.is_some() {
        ("found", format!("found_by_type{by}"))
    } else if query.owner.is_some() {
        ("found", format!("found_by_owner{by}"))
    } else {
        ("found", format!("found_by_{key}"))
    };
    if let Some((key, value)) = &query.metadata {
        conditions.add("key = ?", key.clone());
        conditions.add("value = ?", value.to_string());
    }
    if let Some(object_type) = query.object_type {
        conditions.add("type = ?", object_type.as_str().to_owned());
    }
    if let Some(owner) = &query.owner {
        conditions.add("owner = ?", owner.as_str().to_owned());
    }
    match &query.name {
        Some(NameIs::Exactly(name)) => conditions.add("name = ?", name.clone()),
        Some(NameIs::StartsWith(prefix)) => {
            conditions.add("name >= ?", prefix.clone());
            // No character comes after this one.
            conditions.add("name < ?", format!("{prefix}\u{10ffff}"));
        }
        None => {}
    }
    if let Some(since) = query.modified_since {
        conditions.add("modified >= ?", since.as_millis());
    }
    let (order, beyond) = if query.descending { (" DESC", "<") } else { ("", ">") };
    if let Some(after) = &query.after {
        let value: Value = match query.sort_by {
            SortBy::Name => after.name.clone().into(),
            SortBy::ModifiedAt => after.modified_at.as_millis().into(),
        };
        conditions.params.push(value);
        conditions.params.push(after.id.as_str().to_owned().into());
        let last = conditions.params.len();
        conditions.text.push(format!("({key}, id) {beyond} (?{}, ?{last})", last - 1));
    }
    let place = match conditions.text.is_empty() {
        true => String::new(),
        false => format!("WHERE {}", conditions.text.join(" AND ")),
    };
    let limit = query.page_size();
    let sql = format!(
        "SELECT id FROM {table} INDEXED BY {index} {place} \
         ORDER BY {key}{order}, id{order} LIMIT {limit}"
    );
    Statement { sql, params: conditions.params }
}

impl SqliteRows {
    pub(super) fn find_ids(&self, query: &Query) -> Result<Vec<ItemId>> {
        let Statement { sql, params } = statement(query);
        self.all(&sql, params_from_iter(params), |row| self.id(row, 0))
    }

    pub(super) fn insert_found(&self, row: &FoundRow) -> Result<()> {
        let (id, name, owner) = (row.id.as_str(), row.name.as_str(), row.owner.as_str());
        let (kind, modified) = (row.object_type.as_str(), row.modified_at.as_millis());
        self.run(
            "INSERT INTO found (id, name, type, owner, modified) VALUES (?1, ?2, ?3, ?4, ?5)",
            rusqlite::params![id, name, kind, owner, modified],
        )?;
        for (key, value) in &row.metadata {
            self.run(
                "INSERT INTO found_metadata (id, key, value, name, type, owner, modified)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                rusqlite::params![id, &**key, value.to_string(), name, kind, owner, modified],
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;
    use vfs_sync_core::id::UserId;
    use vfs_sync_core::item::ObjectType;
    use vfs_sync_core::time::Timestamp;

    use super::*;
    use crate::api::QueryCursor;
    use crate::replica::sqlite::schema;

    /// Returns every combination of conditions, orders and pages.
    fn queries() -> Vec<Query> {
        let name = [None, Some(NameIs::Exactly("a".into())), Some(NameIs::StartsWith("a".into()))];
        let after = QueryCursor {
            name: "a".into(),
            modified_at: Timestamp::from_millis(7).unwrap(),
            id: ItemId::new("x").unwrap(),
        };
        let mut all = Vec::new();
        for bits in 0..128_u32 {
            let bit = |at: u32| bits & 1 << at != 0;
            for name in &name {
                all.push(Query {
                    name: name.clone(),
                    object_type: bit(0).then_some(ObjectType::Photo),
                    owner: bit(1).then(|| UserId::new("bob").unwrap()),
                    metadata: bit(2).then(|| ("stars".into(), 5.into())),
                    modified_since: bit(3).then(|| Timestamp::from_millis(5).unwrap()),
                    sort_by: if bit(4) { SortBy::ModifiedAt } else { SortBy::Name },
                    descending: bit(5),
                    after: bit(6).then(|| after.clone()),
                    limit: 10,
                });
            }
        }
        all
    }

    #[test]
    fn every_query_is_a_range_of_an_index_in_its_order() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&schema::create()).unwrap();
        for query in queries() {
            let Statement { sql, params } = statement(&query);
            let mut plan = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let steps = plan.query_map(params_from_iter(params), |row| row.get(3)).unwrap();
            let steps: Vec<String> = steps.map(|step| step.unwrap()).collect();
            // Without any condition on the index, its beginning is read, up to the limit.
            let narrowed = query.metadata.is_some()
                || query.object_type.is_some()
                || query.owner.is_some()
                || query.after.is_some();
            assert_eq!(steps.len(), 1, "{sql}: {steps:?}");
            assert!(steps[0].contains("USING COVERING INDEX") || steps[0].contains("USING INDEX"));
            assert!(!narrowed || steps[0].starts_with("SEARCH"), "{sql}: {steps:?}");
        }
    }
}
