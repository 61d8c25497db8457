-- Which models the replicas of serving should serve. A model without a row is loaded; rows of loaded models say that there is
-- something to serve, and may go when there are too many. Writers hold the lock row 'models' until they commit.
CREATE TABLE gateway.models (
    name       text        PRIMARY KEY CONSTRAINT models_name_form CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    loaded     boolean     NOT NULL,
    -- The state's at the last change of this row; the highest of all rows is that of the state.
    generation bigint      NOT NULL CONSTRAINT models_generation_positive CHECK (generation > 0),
    -- Null: no user, a replica served it first.
    changed_by uuid,
    changed_at timestamptz NOT NULL
);
