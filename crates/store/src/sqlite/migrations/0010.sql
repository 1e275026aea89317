-- What a realm holds, kept incrementally: items until they are forgotten, registers of links from
-- its items and of grants on them, and about how many bytes the registers of its items have.
ALTER TABLE realms ADD COLUMN items INTEGER NOT NULL DEFAULT 0;
ALTER TABLE realms ADD COLUMN links INTEGER NOT NULL DEFAULT 0;
ALTER TABLE realms ADD COLUMN grants INTEGER NOT NULL DEFAULT 0;
ALTER TABLE realms ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE realms SET items = i.items, bytes = i.bytes FROM
    (SELECT owner, count(*) AS items, sum(length(fields)) AS bytes FROM items GROUP BY owner) AS i
WHERE i.owner = realms.uid;
UPDATE realms SET links = l.links FROM
    (SELECT i.owner, count(*) AS links FROM links k JOIN items i ON i.item_id = k.parent
     GROUP BY i.owner) AS l
WHERE l.owner = realms.uid;
UPDATE realms SET grants = g.grants FROM
    (SELECT i.owner, count(*) AS grants FROM grants k JOIN items i ON i.item_id = k.item_id
     GROUP BY i.owner) AS g
WHERE g.owner = realms.uid;
