-- Who may call, with what proof, and the logins that follow from it.

CREATE TABLE gateway.users (
    id            uuid        PRIMARY KEY,
    name          text        NOT NULL CONSTRAINT users_name_form CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$'),
    kind          text        NOT NULL CONSTRAINT users_kind_known CHECK (kind IN ('person', 'machine')),
    tenant        text        NOT NULL CONSTRAINT users_tenant_form CHECK (tenant ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    roles         text[]      NOT NULL,
    -- Argon2id as a PHC string for a person; 'sha256:' and the hexadecimal digest of a random secret for a machine.
    credential    text        NOT NULL,
    disabled      boolean     NOT NULL DEFAULT false,
    -- Rises with everything that changes what the user may do; tokens carry the version that they were issued under.
    authz_version bigint      NOT NULL,
    -- Tokens of lower versions are dead: raised by a new credential, disabling, "revoke all".
    tokens_since  bigint      NOT NULL,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    CONSTRAINT users_versions_in_order CHECK (1 <= tokens_since AND tokens_since <= authz_version)
);

CREATE UNIQUE INDEX users_name_key ON gateway.users (lower(name));

CREATE TABLE gateway.sessions (
    id              uuid        PRIMARY KEY,
    user_id         uuid        NOT NULL REFERENCES gateway.users ON DELETE CASCADE,
    client_id       text        NOT NULL,
    started_at      timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,
    idle_expires_at timestamptz NOT NULL,
    rotations       integer     NOT NULL DEFAULT 0,
    revoked_at      timestamptz
);

CREATE INDEX sessions_user_id ON gateway.sessions (user_id);
CREATE INDEX sessions_expires_at ON gateway.sessions (expires_at);

-- A refresh token is kept after its exchange, because seeing it again is how a theft is noticed.
CREATE TABLE gateway.refresh_tokens (
    digest     bytea       PRIMARY KEY CONSTRAINT refresh_tokens_digest_is_sha256 CHECK (octet_length(digest) = 32),
    session_id uuid        NOT NULL REFERENCES gateway.sessions ON DELETE CASCADE,
    issued_at  timestamptz NOT NULL,
    rotated_at timestamptz,
    successor  bytea
);

CREATE INDEX refresh_tokens_session_id ON gateway.refresh_tokens (session_id);

-- At most one row, ever: the first administrator was made.
CREATE TABLE gateway.bootstrap (
    only_row boolean     PRIMARY KEY DEFAULT true CONSTRAINT bootstrap_happens_once CHECK (only_row),
    used_at  timestamptz NOT NULL,
    user_id  uuid        NOT NULL
);
