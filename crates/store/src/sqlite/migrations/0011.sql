-- Owners whose grants to a user were too many to give effect to, for the user's status.
CREATE INDEX grantees_withheld ON grantees (user_id, owner) WHERE awaited = 2;
