-- What every gateway must learn within two seconds, in commit order: writers hold an advisory lock until they commit,
-- so a reader that has seen number n has seen everything before it.
--
-- Revocations are rows of it with the moment from which they no longer matter, because no token they are about can
-- still be alive; rows past it are deleted.
CREATE TABLE gateway.changes (
    seq        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- user: made or altered. subject: every token of one user is dead. session, token: by sid, by jti.
    kind       text        NOT NULL CONSTRAINT changes_kind_known CHECK (kind IN ('user', 'subject', 'session', 'token')),
    id         uuid        NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE INDEX changes_expires_at ON gateway.changes (expires_at);
