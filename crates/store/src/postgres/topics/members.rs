//! Groups and blocks, and the audiences that they determine.

use vfs_sync_core::access::{Principal, PrincipalType};
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::server::push::{Awaited, Changes, Needs, Rows, UsageChange};

use crate::encoding;
use crate::error::Result;
use crate::postgres::rows::Columns;
use crate::postgres::transaction::{PostgresTransaction, texts};
use crate::topics::Members;

impl Members for PostgresTransaction<'_> {
    async fn write_member(
        &mut self,
        group: &Principal,
        user: &UserId,
        present: bool,
    ) -> Result<bool> {
        let sql = if present {
            "INSERT INTO members (kind, group_id, user_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
        } else {
            "DELETE FROM members WHERE kind = $1 AND group_id = $2 AND user_id = $3"
        };
        let kind = encoding::principal_code(group.kind);
        Ok(self.execute(sql, &[&kind, &group.id.as_str(), &user.as_str()]).await? > 0)
    }

    async fn write_block(&mut self, user: &UserId, owner: &UserId, blocked: bool) -> Result<bool> {
        let sql = if blocked {
            "INSERT INTO blocks (owner, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING"
        } else {
            "DELETE FROM blocks WHERE owner = $1 AND user_id = $2"
        };
        Ok(self.execute(sql, &[&owner.as_str(), &user.as_str()]).await? > 0)
    }

    async fn members_after(
        &mut self,
        group: &Principal,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<UserId>> {
        let rows = self
            .query(
                "SELECT user_id FROM members WHERE kind = $1 AND group_id = $2 AND user_id > $3 \
                 ORDER BY user_id LIMIT $4",
                &[
                    &encoding::principal_code(group.kind),
                    &group.id.as_str(),
                    &after.map_or("", UserId::as_str),
                    &i64::from(limit),
                ],
            )
            .await?;
        rows.iter().map(|row| Columns { row, table: "members", key: &group.id }.parse(0)).collect()
    }

    async fn group_size(&mut self, group: &Principal, enough: u64) -> Result<u64> {
        let enough = i64::try_from(enough).unwrap_or(i64::MAX);
        let sql = "SELECT count(*) FROM \
             (SELECT 1 FROM members WHERE kind = $1 AND group_id = $2 LIMIT $3) AS present";
        let kind = encoding::principal_code(group.kind);
        self.query_count(sql, &[&kind, &group.id.as_str(), &enough]).await
    }

    async fn groups_of(&mut self, user: &UserId) -> Result<Vec<Principal>> {
        groups(self, user).await
    }

    async fn blocked_by(&mut self, user: &UserId) -> Result<Vec<UserId>> {
        let rows = self
            .query("SELECT owner FROM blocks WHERE user_id = $1 ORDER BY owner", &[&user.as_str()])
            .await?;
        rows.iter().map(|row| Columns { row, table: "blocks", key: user }.parse(0)).collect()
    }

    async fn knows(&mut self, principal: &Principal) -> Result<bool> {
        let id = principal.id.as_str();
        let found = match principal.kind {
            PrincipalType::User => {
                self.query_opt(
                    "SELECT 1 WHERE EXISTS (SELECT 1 FROM replicas WHERE user_id = $1) \
                     OR EXISTS (SELECT 1 FROM reconcile_state WHERE user_id = $1)",
                    &[&id],
                )
                .await?
            }
            PrincipalType::Group | PrincipalType::Organization => {
                let kind = encoding::principal_code(principal.kind);
                self.query_opt(
                    "SELECT 1 FROM members WHERE kind = $1 AND group_id = $2 LIMIT 1",
                    &[&kind, &id],
                )
                .await?
            }
        };
        Ok(found.is_some())
    }
}

/// Returns the groups and organizations of a user, ascending.
async fn groups(tx: &PostgresTransaction<'_>, user: &UserId) -> Result<Vec<Principal>> {
    let rows = tx
        .query("SELECT kind, group_id FROM members WHERE user_id = $1", &[&user.as_str()])
        .await?;
    let mut groups = Vec::with_capacity(rows.len());
    for row in &rows {
        let columns = Columns { row, table: "members", key: user };
        groups
            .push(Principal { kind: columns.code(0, encoding::principal)?, id: columns.parse(1)? });
    }
    groups.sort();
    Ok(groups)
}

pub(super) async fn load(
    tx: &PostgresTransaction<'_>,
    needs: &Needs,
    found: &mut Rows,
) -> Result<()> {
    let among = needs.among.as_ref().map(texts);
    if !needs.access.is_empty() {
        let rows = tx
            .query(
                "SELECT item_id, user_id, level FROM access \
                 WHERE item_id = ANY($1) AND ($2::text[] IS NULL OR user_id = ANY($2))",
                &[&texts(&needs.access), &among],
            )
            .await?;
        for row in &rows {
            let item: ItemId = Columns { row, table: "access", key: "?" }.parse(0)?;
            let columns = Columns { row, table: "access", key: &item };
            let (user, level) = (columns.parse(1)?, columns.code(2, encoding::level)?);
            found.access.entry(item.clone()).or_default().insert(user, level);
        }
    }
    if !needs.members.is_empty() {
        let kinds: Vec<i64> =
            needs.members.iter().map(|one| encoding::principal_code(one.kind)).collect();
        let ids = texts(needs.members.iter().map(|one| &one.id));
        let rows = tx
            .query(
                "SELECT m.kind, m.group_id, m.user_id \
                 FROM unnest($1::bigint[], $2::text[]) AS g (kind, id) \
                 JOIN members m ON m.kind = g.kind AND m.group_id = g.id \
                 WHERE $3::text[] IS NULL OR m.user_id = ANY($3)",
                &[&kinds, &ids, &among],
            )
            .await?;
        for row in &rows {
            let columns = Columns { row, table: "members", key: "?" };
            let group =
                Principal { kind: columns.code(0, encoding::principal)?, id: columns.parse(1)? };
            found.members.entry(group).or_default().insert(columns.parse(2)?);
        }
    }
    for user in &needs.groups_of {
        let groups = groups(tx, user).await?;
        found.groups.insert(user.clone(), groups.into_iter().collect());
    }
    if !needs.blocks.is_empty() {
        let rows = tx
            .query(
                "SELECT owner, user_id FROM blocks \
                 WHERE owner = ANY($1) AND ($2::text[] IS NULL OR user_id = ANY($2))",
                &[&texts(&needs.blocks), &among],
            )
            .await?;
        for row in &rows {
            let columns = Columns { row, table: "blocks", key: "?" };
            found.blocks.entry(columns.parse(0)?).or_default().insert(columns.parse(1)?);
        }
    }
    if !needs.awaited.is_empty() {
        let rows = tx
            .query(
                "SELECT o, u FROM unnest($1::text[]) AS o, unnest($2::text[]) AS u \
                 WHERE NOT EXISTS (SELECT 1 FROM feed_head WHERE user_id = u) \
                 OR EXISTS (SELECT 1 FROM grantees \
                     WHERE owner = o AND user_id = u AND awaited <> 0)",
                &[&texts(&needs.awaited), &among.clone().unwrap_or_default()],
            )
            .await?;
        for row in &rows {
            let columns = Columns { row, table: "grantees", key: "?" };
            found.awaited.entry(columns.parse(0)?).or_default().insert(columns.parse(1)?);
        }
    }
    if !needs.user_grants.is_empty() {
        let owners = texts(needs.user_grants.iter().map(|(owner, _)| owner));
        let users = texts(needs.user_grants.iter().map(|(_, user)| user));
        let rows = tx
            .query(
                "SELECT g.owner, g.user_id, g.grants \
                 FROM unnest($1::text[], $2::text[]) AS k (owner, user_id) \
                 JOIN grantees g ON g.owner = k.owner AND g.user_id = k.user_id",
                &[&owners, &users],
            )
            .await?;
        for row in &rows {
            let columns = Columns { row, table: "grantees", key: "?" };
            let key = (columns.parse(0)?, columns.parse(1)?);
            found.user_grants.insert(key, columns.unsigned(2)?);
        }
    }
    Ok(())
}

/// Writes by how much what realms hold changed.
pub(super) async fn write_usage(tx: &PostgresTransaction<'_>, changes: &Changes) -> Result<()> {
    if changes.usage.is_empty() {
        return Ok(());
    }
    let column = |of: fn(&UsageChange) -> i64| changes.usage.values().map(of).collect::<Vec<_>>();
    tx.execute(
        "UPDATE realms r SET items = greatest(r.items + v.items, 0), \
         links = greatest(r.links + v.links, 0), grants = greatest(r.grants + v.grants, 0), \
         bytes = greatest(r.bytes + v.bytes, 0) \
         FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) \
         AS v (user_id, items, links, grants, bytes) WHERE r.user_id = v.user_id",
        &[
            &texts(changes.usage.keys()),
            &column(|change| change.items),
            &column(|change| change.links),
            &column(|change| change.grants),
            &column(|change| change.bytes),
        ],
    )
    .await?;
    Ok(())
}

/// Writes how many grants of owners to users there are, and which wait for a call.
pub(super) async fn write_grantees(tx: &PostgresTransaction<'_>, changes: &Changes) -> Result<()> {
    if !changes.user_grants.is_empty() {
        let owners = texts(changes.user_grants.keys().map(|(owner, _)| owner));
        let users = texts(changes.user_grants.keys().map(|(_, user)| user));
        let deltas: Vec<i64> = changes.user_grants.values().copied().collect();
        tx.execute(
            "INSERT INTO grantees (owner, user_id, grants, awaited) \
             SELECT v.owner, v.user_id, greatest(v.change, 0), 0 \
             FROM unnest($1::text[], $2::text[], $3::bigint[]) AS v (owner, user_id, change) \
             WHERE v.change > 0 ON CONFLICT (owner, user_id) \
             DO UPDATE SET grants = grantees.grants + excluded.grants",
            &[&owners, &users, &deltas],
        )
        .await?;
        if deltas.iter().any(|delta| *delta < 0) {
            tx.execute(
                "UPDATE grantees g SET grants = greatest(g.grants + v.change, 0) \
                 FROM unnest($1::text[], $2::text[], $3::bigint[]) AS v (owner, user_id, change) \
                 WHERE g.owner = v.owner AND g.user_id = v.user_id AND v.change < 0",
                &[&owners, &users, &deltas],
            )
            .await?;
        }
    }
    if !changes.awaited.is_empty() {
        let owners = texts(changes.awaited.keys().map(|(owner, _)| owner));
        let users = texts(changes.awaited.keys().map(|(_, user)| user));
        let codes: Vec<i64> =
            changes.awaited.values().map(|awaited| encoding::awaited_code(*awaited)).collect();
        tx.execute(
            "INSERT INTO grantees (owner, user_id, grants, awaited) \
             SELECT v.owner, v.user_id, 0, v.awaited \
             FROM unnest($1::text[], $2::text[], $3::bigint[]) AS v (owner, user_id, awaited) \
             ON CONFLICT (owner, user_id) DO UPDATE SET awaited = excluded.awaited",
            &[&owners, &users, &codes],
        )
        .await?;
    }
    let shrinks = changes.user_grants.iter().filter(|(_, change)| **change < 0);
    let settles = changes.awaited.iter().filter(|(_, awaited)| **awaited == Awaited::No);
    let (owners, users): (Vec<&str>, Vec<&str>) = shrinks
        .map(|(pair, _)| pair)
        .chain(settles.map(|(pair, _)| pair))
        .map(|(owner, user)| (owner.as_str(), user.as_str()))
        .unzip();
    if !owners.is_empty() {
        tx.execute(
            "DELETE FROM grantees g USING unnest($1::text[], $2::text[]) AS k (owner, user_id) \
             WHERE g.owner = k.owner AND g.user_id = k.user_id \
             AND g.grants = 0 AND g.awaited = 0",
            &[&owners, &users],
        )
        .await?;
    }
    Ok(())
}

pub(super) async fn write_access(tx: &PostgresTransaction<'_>, changes: &Changes) -> Result<()> {
    let (mut items, mut users, mut levels) = (Vec::new(), Vec::new(), Vec::new());
    let (mut lost, mut losers) = (Vec::new(), Vec::new());
    for (item, changed) in &changes.access {
        for (user, level) in changed {
            match level {
                Some(level) => {
                    items.push(item.as_str());
                    users.push(user.as_str());
                    levels.push(encoding::level_code(*level));
                }
                None => {
                    lost.push(item.as_str());
                    losers.push(user.as_str());
                }
            }
        }
    }
    if !items.is_empty() {
        tx.execute(
            "INSERT INTO access (item_id, user_id, level) \
             SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) \
             ON CONFLICT (item_id, user_id) DO UPDATE SET level = excluded.level",
            &[&items, &users, &levels],
        )
        .await?;
    }
    if !lost.is_empty() {
        tx.execute(
            "DELETE FROM access a USING unnest($1::text[], $2::text[]) AS k (item_id, user_id) \
             WHERE a.item_id = k.item_id AND a.user_id = k.user_id",
            &[&lost, &losers],
        )
        .await?;
    }
    Ok(())
}
