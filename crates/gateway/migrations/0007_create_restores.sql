-- Restores of the database to an earlier time that are settled: all that was valid before was ended. The superuser names the last
-- restore in the setting rampart.restored_at of the database; one that is not here is settled by the first gateway that sees it.
CREATE TABLE gateway.restores (
    -- The setting's text as it is: it is a name here, and a time for people.
    restored_at  text        PRIMARY KEY CONSTRAINT restores_restored_at_length CHECK (length(restored_at) BETWEEN 1 AND 64),
    settled_at   timestamptz NOT NULL,
    -- The gateway's name in the audit log.
    settled_by   text        NOT NULL,
    -- Versions of users, places in the feed, ids of audit records and the generation of models go on from here.
    first_number bigint      NOT NULL
);
