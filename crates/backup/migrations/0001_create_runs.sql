-- What the worker was asked to do, and what came of it. A restart turns what was running into failed.
CREATE TABLE backup.runs (
    id uuid PRIMARY KEY,
    kind text NOT NULL,
    set_name text,
    state text NOT NULL,
    -- Of a verification that came to an end.
    verdict text,
    -- Why INVALID.
    reasons text[] NOT NULL DEFAULT '{}',
    -- Why failed.
    error text,
    requested_by text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    -- Of a set that was made: what its manifest must be, as known outside of the set.
    manifest_sha256 bytea,
    size_bytes bigint,
    CONSTRAINT runs_kind CHECK (kind IN ('create', 'verify')),
    CONSTRAINT runs_state CHECK (state IN ('running', 'succeeded', 'failed')),
    CONSTRAINT runs_verdict CHECK (verdict IN ('VALID', 'INVALID')),
    CONSTRAINT runs_finished CHECK ((state = 'running') = (finished_at IS NULL)),
    CONSTRAINT runs_set_made CHECK (kind <> 'create' OR state <> 'succeeded' OR (set_name IS NOT NULL AND manifest_sha256 IS NOT NULL))
);

-- Single flight, held by the database: one run of a kind at a time.
CREATE UNIQUE INDEX runs_one_running ON backup.runs (kind) WHERE state = 'running';
CREATE INDEX runs_by_start ON backup.runs (started_at DESC);
