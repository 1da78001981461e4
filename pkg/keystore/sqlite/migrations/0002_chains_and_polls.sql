-- Keys that replace one another are a chain: chain is the id of its first key, NULL for a key that was never rolled
-- or rolled to. replaced_by is the successor's id.
ALTER TABLE keys ADD COLUMN replaced_by TEXT;
ALTER TABLE keys ADD COLUMN chain TEXT;

CREATE INDEX keys_by_chain ON keys (chain, revoked_at, expires_at) WHERE chain IS NOT NULL;

-- Rolls of the time before are in the audit. A key could be rolled more than once then: all its successors are of its chain.
UPDATE keys SET replaced_by = (SELECT json_extract(e.detail, '$.successor') FROM events e
    WHERE e.key = keys.id AND e.action = 'key.roll' ORDER BY e.seq DESC LIMIT 1)
WHERE id IN (SELECT key FROM events WHERE action = 'key.roll');

WITH RECURSIVE chains (id, first) AS (
    SELECT key, key FROM events
    WHERE action = 'key.roll' AND key NOT IN (SELECT json_extract(detail, '$.successor') FROM events WHERE action = 'key.roll')
    UNION
    SELECT json_extract(e.detail, '$.successor'), c.first FROM chains c JOIN events e ON e.key = c.id AND e.action = 'key.roll')
UPDATE keys SET chain = c.first FROM chains c WHERE c.id = keys.id;

-- Counts an account's keys that are in force without reading the others.
CREATE INDEX keys_in_force ON keys (account, expires_at) WHERE revoked_at IS NULL;

-- The newest poll number of the sidecar. Once it has left or was forgotten, every poll of that name is refused.
ALTER TABLE sidecars ADD COLUMN poll INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sidecars ADD COLUMN gone INTEGER NOT NULL DEFAULT 0 CHECK (gone IN (0, 1));

-- How many rows of sidecars are not gone, and how many are, so that no poll counts them.
ALTER TABLE head ADD COLUMN sidecars INTEGER NOT NULL DEFAULT 0;
ALTER TABLE head ADD COLUMN gone_sidecars INTEGER NOT NULL DEFAULT 0;
UPDATE head SET sidecars = (SELECT count(*) FROM sidecars);

-- The largest lease + max_stale ever given, in microseconds, and when it was last given: a new epoch waits for it.
ALTER TABLE head ADD COLUMN largest_grant INTEGER NOT NULL DEFAULT 0;
ALTER TABLE head ADD COLUMN largest_grant_at INTEGER;

-- How far the wall clock was put forward (negative: back) since the process that runs was started, in microseconds. Times of
-- leases are not by the wall clock: the next process corrects them by this.
ALTER TABLE head ADD COLUMN clock_step INTEGER NOT NULL DEFAULT 0;
