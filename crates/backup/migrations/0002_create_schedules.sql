-- Sets lie in one directory, and only the worker there can chain to them and verify them. Rows of the release before have no
-- worker: they become those of the worker that finds them, of which there was one.
ALTER TABLE backup.runs
    ADD COLUMN worker uuid,
    -- Written by the worker while it is at work, by the clock of the database. Long ago: no worker is at work on it any more.
    ADD COLUMN seen_at timestamptz,
    -- 1, and one more each time that a run which was cut off is begun again.
    ADD COLUMN attempt integer NOT NULL DEFAULT 1,
    -- The run was cut off by the end of its worker, and is to be begun again.
    ADD COLUMN repeat_due boolean NOT NULL DEFAULT false,
    -- The set that this made is to be verified.
    ADD COLUMN verification_due boolean NOT NULL DEFAULT false;
CREATE INDEX runs_due ON backup.runs (started_at) WHERE repeat_due OR verification_due;
CREATE INDEX runs_by_set ON backup.runs (set_name, kind);

-- When the next run of a schedule begins. A worker claims it by changing the row and adding the run in one transaction.
CREATE TABLE backup.schedules (
    name text PRIMARY KEY,
    expression text NOT NULL,
    due_at timestamptz NOT NULL,
    -- The time of the worker that wrote due_at: later than now, if its clock was set back.
    planned_at timestamptz NOT NULL,
    -- The worker that began the last run.
    worker uuid,
    -- From then on there should be sets.
    created_at timestamptz NOT NULL,
    CONSTRAINT schedules_name CHECK (name IN ('create', 'verify_older'))
);
