-- +goose Up
-- One text for SQLite and PostgreSQL. Times are BIGINT microseconds since 1970;
-- ids and enumerations are TEXT; credentials are hashes. Columns named op hold the
-- id of the event that wrote the row last: later statements of an event ask for it.

CREATE TABLE heads (
    name  TEXT PRIMARY KEY,
    seq   BIGINT NOT NULL,
    epoch BIGINT NOT NULL
);
-- feed is the newest event that followers must see; stores counts what any store's
-- state did; all changes up to folded stand in the chunks, those up to kept are
-- removed; beat moves while somebody follows, with the durability of a revocation.
INSERT INTO heads (name, seq, epoch) VALUES ('feed', 1, 1), ('stores', 1, 1), ('folded', 1, 1), ('kept', 1, 1), ('beat', 1, 1);

CREATE TABLE events (
    id         TEXT PRIMARY KEY,
    seq        BIGINT,
    at         BIGINT NOT NULL,
    kind       TEXT NOT NULL,
    actor      TEXT NOT NULL,
    client_id  TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    grant_id   TEXT NOT NULL,
    store_id   TEXT NOT NULL,
    request_id TEXT NOT NULL,
    payload    TEXT NOT NULL
);
CREATE UNIQUE INDEX events_by_seq ON events (seq) WHERE seq IS NOT NULL;
CREATE INDEX events_restored ON events (id) WHERE kind = 'database.restored';

CREATE TABLE leases (
    name   TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    until  BIGINT NOT NULL
);
INSERT INTO leases (name, holder, until) VALUES ('status_lists', '', 0), ('sweep', '', 0), ('fold', '', 0);

-- next is the high-water mark: an index below it belongs to some node for ever.
CREATE TABLE status_lists (
    number   BIGINT PRIMARY KEY,
    api      TEXT NOT NULL,
    kind     TEXT NOT NULL,
    next     BIGINT NOT NULL,
    allotted BIGINT NOT NULL
);

-- What the feed is made of: an event of the feed writes the value that each index
-- has from then on, and the rule that it set or lifted. What was folded stands in the
-- chunks, of 4096 indices at two bits each. cutoffs are the rules of now; fold says
-- how far the grants under one were gone through, NULL that it need not be.
CREATE TABLE status_changes (
    seq          BIGINT NOT NULL,
    status_index BIGINT NOT NULL,
    api          TEXT NOT NULL,
    value        BIGINT NOT NULL,
    at           BIGINT NOT NULL,
    PRIMARY KEY (seq, status_index)
);
CREATE TABLE status_chunks (
    list  BIGINT NOT NULL,
    chunk BIGINT NOT NULL,
    bits  BYTEA NOT NULL,
    seq   BIGINT NOT NULL,
    PRIMARY KEY (list, chunk)
);
CREATE TABLE rule_changes (
    seq     BIGINT PRIMARY KEY,
    kind    TEXT NOT NULL,
    subject TEXT NOT NULL,
    before  BIGINT NOT NULL,
    value   BIGINT NOT NULL,
    at      BIGINT NOT NULL
);
CREATE TABLE cutoffs (
    kind    TEXT NOT NULL,
    subject TEXT NOT NULL,
    before  BIGINT NOT NULL,
    value   BIGINT NOT NULL,
    fold    TEXT,
    op      TEXT NOT NULL,
    PRIMARY KEY (kind, subject)
);

CREATE TABLE signing_keys (
    kid     TEXT PRIMARY KEY,
    alg     TEXT NOT NULL,
    use     TEXT NOT NULL,
    sealed  BYTEA NOT NULL,
    public  BYTEA NOT NULL,
    status  TEXT NOT NULL,
    op      TEXT NOT NULL,
    created BIGINT NOT NULL
);
CREATE UNIQUE INDEX signing_keys_active ON signing_keys (use) WHERE status = 'active';

-- issuer is the same in each row: who issued the keys, and what a database is opened for.
CREATE TABLE apis (
    id      TEXT PRIMARY KEY,
    uri     TEXT NOT NULL UNIQUE,
    issuer  TEXT NOT NULL,
    name    TEXT NOT NULL,
    status  TEXT NOT NULL,
    op      TEXT NOT NULL,
    created BIGINT NOT NULL
);
CREATE TABLE api_secrets (
    hash      BYTEA PRIMARY KEY,
    api_id    TEXT NOT NULL,
    last4     TEXT NOT NULL,
    op        TEXT NOT NULL,
    created   BIGINT NOT NULL,
    last_used BIGINT NOT NULL
);
CREATE INDEX api_secrets_by_api ON api_secrets (api_id);

CREATE TABLE clients (
    id          TEXT PRIMARY KEY,
    owner       TEXT NOT NULL,
    name        TEXT NOT NULL,
    type        TEXT NOT NULL,
    profile     TEXT NOT NULL,
    origin      TEXT NOT NULL,
    auth_method TEXT NOT NULL,
    settings    TEXT NOT NULL,
    status      TEXT NOT NULL,
    version     BIGINT NOT NULL,
    op          TEXT NOT NULL,
    created     BIGINT NOT NULL
);
CREATE INDEX clients_by_owner ON clients (owner);
CREATE TABLE client_secrets (
    hash      BYTEA PRIMARY KEY,
    client_id TEXT NOT NULL,
    last4     TEXT NOT NULL,
    op        TEXT NOT NULL,
    created   BIGINT NOT NULL,
    last_used BIGINT NOT NULL
);
CREATE INDEX client_secrets_by_client ON client_secrets (client_id);
CREATE TABLE client_redirects (
    client_id TEXT NOT NULL,
    position  BIGINT NOT NULL,
    uri       TEXT NOT NULL,
    PRIMARY KEY (client_id, position)
);
CREATE TABLE client_scopes (
    client_id TEXT NOT NULL,
    scope     TEXT NOT NULL,
    required  BOOLEAN NOT NULL,
    PRIMARY KEY (client_id, scope)
);

CREATE TABLE users (
    id          TEXT PRIMARY KEY,
    kind        TEXT NOT NULL,
    name        TEXT NOT NULL,
    email       TEXT NOT NULL,
    operator    BOOLEAN NOT NULL,
    status      TEXT NOT NULL,
    members_rev BIGINT NOT NULL,
    op          TEXT NOT NULL,
    created     BIGINT NOT NULL
);
CREATE TABLE logins (
    issuer     TEXT NOT NULL,
    subject    TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    credential TEXT NOT NULL,
    op         TEXT NOT NULL,
    PRIMARY KEY (issuer, subject)
);
CREATE INDEX logins_by_user ON logins (user_id);
CREATE TABLE sessions (
    selector  TEXT PRIMARY KEY,
    hash      BYTEA NOT NULL,
    user_id   TEXT NOT NULL,
    auth_time BIGINT NOT NULL,
    amr       TEXT NOT NULL,
    expires   BIGINT NOT NULL,
    op        TEXT NOT NULL
);
CREATE INDEX sessions_by_expiry ON sessions (expires);
CREATE INDEX sessions_by_user ON sessions (user_id);
CREATE TABLE throttles (
    key     TEXT PRIMARY KEY,
    count   BIGINT NOT NULL,
    until   BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    op      TEXT NOT NULL
);
CREATE INDEX throttles_by_expiry ON throttles (expires);

CREATE TABLE stores (
    id      TEXT PRIMARY KEY,
    name    TEXT NOT NULL,
    domain  TEXT NOT NULL,
    status  TEXT NOT NULL,
    created BIGINT NOT NULL
);
CREATE TABLE memberships (
    user_id      TEXT NOT NULL,
    store_id     TEXT NOT NULL,
    scopes       TEXT NOT NULL,
    may_delegate BOOLEAN NOT NULL,
    is_owner     BOOLEAN NOT NULL,
    op           TEXT NOT NULL,
    PRIMARY KEY (user_id, store_id)
);
CREATE INDEX memberships_by_store ON memberships (store_id);

-- rev counts what changed in what the keys of a grant may do; in families it is that
-- of what the key prints. A key whose grant is at another one is to be asked about.
--
-- due is when the sweeper looks whether a grant, or a family, is over. It may be too
-- early, never too late: a chain that is used does not move it, the sweeper does.
-- NULL is never, as for a lasting key that is alive. standing is what the user might
-- do in the grant's stores when they were last noted, and what that follows from, so
-- that who finds that unchanged need not read the stores. redirect_host is where the
-- browser went with the last decision; NULL for a guest's, which nobody decided.
CREATE TABLE grants (
    id             TEXT PRIMARY KEY,
    user_id        TEXT NOT NULL,
    client_id      TEXT NOT NULL,
    is_default     BOOLEAN NOT NULL,
    scopes         TEXT NOT NULL,
    account_scopes TEXT NOT NULL,
    all_stores     BOOLEAN NOT NULL,
    redirect_host  TEXT,
    status         TEXT NOT NULL,
    rev            BIGINT NOT NULL,
    op             TEXT NOT NULL,
    created        BIGINT NOT NULL,
    last_used      BIGINT NOT NULL,
    due            BIGINT,
    standing       TEXT
);
CREATE UNIQUE INDEX grants_default ON grants (user_id, client_id) WHERE is_default;
CREATE INDEX grants_by_user ON grants (user_id);
CREATE INDEX grants_by_client ON grants (client_id, id);
CREATE INDEX grants_by_due ON grants (due, id) WHERE due IS NOT NULL;
CREATE TABLE grant_stores (
    grant_id TEXT NOT NULL,
    store_id TEXT NOT NULL,
    scopes   TEXT,
    PRIMARY KEY (grant_id, store_id)
);
CREATE INDEX grant_stores_by_store ON grant_stores (store_id, grant_id);

CREATE TABLE authorization_codes (
    selector        TEXT PRIMARY KEY,
    hash            BYTEA NOT NULL,
    request         TEXT NOT NULL UNIQUE,
    client_id       TEXT NOT NULL,
    grant_id        TEXT,
    family          TEXT,
    profile         TEXT NOT NULL,
    api             TEXT NOT NULL,
    narrowing       TEXT,
    redirect        TEXT NOT NULL,
    redirect_sent   BOOLEAN NOT NULL,
    challenge       TEXT NOT NULL,
    nonce           TEXT NOT NULL,
    auth_time       BIGINT NOT NULL,
    expires         BIGINT NOT NULL,
    op              TEXT NOT NULL,
    redeemed_family TEXT,
    redeemed_at     BIGINT
);
CREATE INDEX authorization_codes_by_grant ON authorization_codes (grant_id) WHERE grant_id IS NOT NULL;
CREATE INDEX authorization_codes_by_expiry ON authorization_codes (expires);

CREATE TABLE families (
    id           TEXT PRIMARY KEY,
    grant_id     TEXT NOT NULL,
    client_id    TEXT NOT NULL,
    user_id      TEXT NOT NULL,
    api          TEXT NOT NULL,
    status_index BIGINT NOT NULL UNIQUE,
    narrowing    TEXT,
    status       TEXT NOT NULL,
    rev          BIGINT NOT NULL,
    iseq         BIGINT NOT NULL,
    op           TEXT NOT NULL,
    created      BIGINT NOT NULL,
    due          BIGINT,
    token        BYTEA -- the hash of a lasting key
);
CREATE INDEX families_by_grant ON families (grant_id);
CREATE INDEX families_by_due ON families (due, id) WHERE due IS NOT NULL;

-- A row is a chain: the newest token and the one before it. What is older is known
-- by its tag, so rotation adds no row and, since no index holds what it changes,
-- writes no index.
CREATE TABLE refresh_tokens (
    selector       TEXT PRIMARY KEY,
    family         TEXT NOT NULL,
    hash           BYTEA NOT NULL,
    previous       BYTEA,
    op             TEXT NOT NULL,
    rotated        BIGINT,
    idle_until     BIGINT NOT NULL,
    absolute_until BIGINT
);
CREATE INDEX refresh_tokens_by_family ON refresh_tokens (family);

-- seq is what a follower of the feed has acknowledged, by whichever node. seen is when it
-- asked last; of one that left, the negative of when it did.
CREATE TABLE followers (
    api      TEXT NOT NULL,
    instance TEXT NOT NULL,
    seq      BIGINT NOT NULL,
    epoch    BIGINT NOT NULL,
    seen     BIGINT NOT NULL,
    node     TEXT NOT NULL,
    lag      BIGINT NOT NULL,
    PRIMARY KEY (api, instance)
);
CREATE INDEX followers_by_seen ON followers (seen);

CREATE TABLE pending_requests (
    selector TEXT PRIMARY KEY,
    kind     TEXT NOT NULL,
    sealed   BYTEA NOT NULL,
    expires  BIGINT NOT NULL
);
CREATE INDEX pending_requests_by_expiry ON pending_requests (expires);
CREATE TABLE used_once (
    kind    TEXT NOT NULL,
    hash    BYTEA NOT NULL,
    op      TEXT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (kind, hash)
);
CREATE INDEX used_once_by_expiry ON used_once (expires);

-- A database that is being copied, or was moved, says so here: see move.go.
CREATE TABLE copy_state (
    role    TEXT PRIMARY KEY,
    id      TEXT NOT NULL,
    place   TEXT NOT NULL,
    holder  TEXT NOT NULL,
    applied BIGINT NOT NULL
);
