-- What gateways lock against each other: a row for the feed of changes, and one for the audit chain of each writer. Every role
-- of the database may take any advisory lock, and would hold up logins and revocations with it; rows only their owner and
-- those can whom it gave rights.
CREATE TABLE gateway.locks (
    name text PRIMARY KEY
);
