-- Times are integers: microseconds since 1970-01-01 UTC. NULL: it has not happened, or never will.
-- State is not stored beside them: a key with revoked_at is revoked.
-- Ids are compared as bytes: they begin with the time, and so the newest are at the end of an index.

-- The end of the change log, one row. Every mutation locks it first, and so one follows the other.
CREATE TABLE head (
    one           boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch         text    NOT NULL,
    timeline      bigint  NOT NULL, -- the server's, when a mutation was last made
    revision      bigint  NOT NULL,
    not_before    bigint,
    cursor_secret bytea   NOT NULL -- signs the cursors of lists
) WITH (fillfactor = 10); -- each mutation writes it: room for the new version on the same page

-- seq is the order of creation and never told outside.
CREATE TABLE accounts (
    seq           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id            text   COLLATE "C" NOT NULL UNIQUE,
    name          text   NOT NULL,
    created_at    bigint NOT NULL,
    terminated_at bigint,
    revision      bigint NOT NULL
);

-- account has no foreign key: checked row by row, it would be a fifth of a bulk import. Accounts
-- are never deleted, and whoever adds a key has read its account under the head's lock.
CREATE TABLE keys (
    seq          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           text   COLLATE "C" NOT NULL UNIQUE,
    account      bigint NOT NULL, -- an accounts.seq: see above
    digest       bytea  NOT NULL UNIQUE CHECK (length(digest) = 32),
    label        text   NOT NULL,
    hint         text   NOT NULL,
    scopes       text   NOT NULL, -- sorted, separated by spaces
    created_at   bigint NOT NULL,
    created_by   text   NOT NULL,
    expires_at   bigint,
    revoked_at   bigint,
    last_used_at bigint,
    revision     bigint NOT NULL
);

CREATE INDEX keys_by_account ON keys (account, seq);

CREATE TABLE sessions (
    seq        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         text   COLLATE "C" NOT NULL UNIQUE,
    account    bigint NOT NULL REFERENCES accounts (seq),
    digest     bytea  NOT NULL UNIQUE CHECK (length(digest) = 32),
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    ended_at   bigint,
    revision   bigint NOT NULL -- of its end, 0 before
);

CREATE INDEX sessions_by_expiry ON sessions (expires_at);

-- The change log: a gapless run of revisions up to head.revision.
CREATE TABLE log (
    revision bigint PRIMARY KEY,
    at       bigint NOT NULL,
    account  text CHECK (account <> ''),
    digest   bytea CHECK (length(digest) = 32),
    CHECK ((account IS NULL) <> (digest IS NULL))
);

CREATE TABLE events (
    seq     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      bigint NOT NULL,
    actor   text   NOT NULL,
    action  text   NOT NULL,
    account text   COLLATE "C" NOT NULL,
    key     text   COLLATE "C", -- NULL: the event is not about a key
    detail  text   NOT NULL CHECK (json_typeof(detail::json) = 'object')
);

CREATE INDEX events_by_account ON events (account, seq);
CREATE INDEX events_by_key ON events (key, seq) WHERE key IS NOT NULL;

CREATE TABLE sidecars (
    name          text   PRIMARY KEY,
    revision      bigint NOT NULL,
    lease_ends_at bigint NOT NULL,
    stale_ends_at bigint NOT NULL,
    grants        text   NOT NULL CHECK (json_typeof(grants::json) = 'array') -- of [covers, stale_ends_at]
) WITH (fillfactor = 50); -- each poll writes it

-- How often a key was used, by the hour of the report (its first microsecond).
CREATE TABLE usage (
    key     bigint NOT NULL REFERENCES keys (seq),
    hour    bigint NOT NULL,
    allowed bigint NOT NULL,
    denied  bigint NOT NULL,
    PRIMARY KEY (key, hour)
);

INSERT INTO head (epoch, timeline, revision, cursor_secret)
SELECT replace(gen_random_uuid()::text, '-', ''), ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint,
    0, uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
