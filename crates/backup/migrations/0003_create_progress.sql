-- How far a run is, written by its worker each second, and who cancelled it.
ALTER TABLE backup.runs
    ADD COLUMN phase text,
    ADD COLUMN bytes_done bigint NOT NULL DEFAULT 0,
    -- Unknown while there is nothing to tell it from.
    ADD COLUMN bytes_expected bigint,
    ADD COLUMN cancelled_by text,
    DROP CONSTRAINT runs_state,
    ADD CONSTRAINT runs_state CHECK (state IN ('running', 'succeeded', 'failed', 'cancelled'));
