-- The time of the bytes, and what the attach said that it replaces: `*` nothing said, `-` no content,
-- `=` and a blob's id; NULL for what was attached before these columns were there.
ALTER TABLE blob_refs ADD COLUMN modified_at INTEGER;
ALTER TABLE blob_refs ADD COLUMN expected TEXT;
