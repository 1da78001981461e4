-- Times are integers: microseconds since 1970-01-01 UTC. NULL: it has not happened, or never will.
-- State is not stored beside them: a key with revoked_at is revoked.

-- "phky": tells our files from those of other programs.
PRAGMA application_id = 0x70686b79;

-- The end of the change log, one row. Every mutation raises revision in its own transaction.
CREATE TABLE head (
    only          INTEGER PRIMARY KEY CHECK (only = 1),
    epoch         TEXT    NOT NULL,
    revision      INTEGER NOT NULL,
    not_before    INTEGER,
    cursor_secret BLOB    NOT NULL -- signs the cursors of lists
) STRICT;

INSERT INTO head VALUES (1, lower(hex(randomblob(16))), 0, NULL, randomblob(32));

-- seq is the order of creation and never told outside.
CREATE TABLE accounts (
    seq           INTEGER PRIMARY KEY,
    id            TEXT    NOT NULL UNIQUE,
    name          TEXT    NOT NULL,
    created_at    INTEGER NOT NULL,
    terminated_at INTEGER,
    revision      INTEGER NOT NULL
) STRICT;

CREATE TABLE keys (
    seq          INTEGER PRIMARY KEY,
    id           TEXT    NOT NULL UNIQUE,
    account      INTEGER NOT NULL REFERENCES accounts (seq),
    digest       BLOB    NOT NULL UNIQUE CHECK (length(digest) = 32),
    label        TEXT    NOT NULL,
    hint         TEXT    NOT NULL,
    scopes       TEXT    NOT NULL, -- sorted, separated by spaces
    created_at   INTEGER NOT NULL,
    created_by   TEXT    NOT NULL,
    expires_at   INTEGER,
    revoked_at   INTEGER,
    last_used_at INTEGER,
    revision     INTEGER NOT NULL
) STRICT;

CREATE INDEX keys_by_account ON keys (account);

CREATE TABLE sessions (
    seq        INTEGER PRIMARY KEY,
    id         TEXT    NOT NULL UNIQUE,
    account    INTEGER NOT NULL REFERENCES accounts (seq),
    digest     BLOB    NOT NULL UNIQUE CHECK (length(digest) = 32),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    ended_at   INTEGER,
    revision   INTEGER NOT NULL -- of its end, 0 before
) STRICT;

CREATE INDEX sessions_by_expiry ON sessions (expires_at);
CREATE INDEX sessions_by_account ON sessions (account);

-- The change log: a gapless run of revisions up to head.revision.
CREATE TABLE log (
    revision INTEGER PRIMARY KEY,
    at       INTEGER NOT NULL,
    account  TEXT CHECK (account != ''),
    digest   BLOB CHECK (length(digest) = 32),
    CHECK ((account IS NULL) != (digest IS NULL))
) STRICT;

CREATE TABLE events (
    seq     INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    actor   TEXT    NOT NULL,
    action  TEXT    NOT NULL,
    account TEXT    NOT NULL,
    key     TEXT, -- NULL: the event is not about a key
    detail  TEXT    NOT NULL CHECK (json_type(detail) = 'object')
) STRICT;

CREATE INDEX events_by_account ON events (account);
CREATE INDEX events_by_key ON events (key) WHERE key IS NOT NULL;

CREATE TABLE sidecars (
    name          TEXT    PRIMARY KEY,
    revision      INTEGER NOT NULL,
    lease_ends_at INTEGER NOT NULL,
    stale_ends_at INTEGER NOT NULL,
    grants        TEXT    NOT NULL CHECK (json_type(grants) = 'array') -- of [covers, stale_ends_at]
) STRICT, WITHOUT ROWID;

-- How often a key was used, by the hour of the report (its first microsecond).
CREATE TABLE usage (
    key     INTEGER NOT NULL REFERENCES keys (seq),
    hour    INTEGER NOT NULL,
    allowed INTEGER NOT NULL,
    denied  INTEGER NOT NULL,
    PRIMARY KEY (key, hour)
) STRICT, WITHOUT ROWID;
