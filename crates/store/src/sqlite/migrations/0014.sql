-- Users who were deleted, by the keyed hash of their names: the progress, and at last the receipt, as
-- JSON. `due_at` is the time of the next step.
CREATE TABLE deletions (
    pseudonym TEXT PRIMARY KEY,
    due_at    INTEGER,
    body      TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX deletions_due ON deletions (due_at) WHERE due_at IS NOT NULL;
-- Set while a user is being removed: no push of theirs is applied.
ALTER TABLE realms ADD COLUMN leaving INTEGER NOT NULL DEFAULT 0;
-- What a user has, for the removal.
CREATE INDEX items_by_owner ON items (owner, item_id);
CREATE INDEX blob_stages_by_owner ON blob_stages (owner, staging_id);
CREATE INDEX blobs_by_charged ON blobs (charged) WHERE charged IS NOT NULL;
