-- Who did what, when, from where, one hash chain per writer:
--   hash = SHA-256(0x00 || previous_hash || SHA-256(record)), previous_hash of the first record is 32 zero bytes.
-- `record` is canonical JSON (RFC 8785) and repeats writer, seq and time, so that no column can be changed unseen.
CREATE TABLE gateway.audit (
    id            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    writer        text        NOT NULL,
    seq           bigint      NOT NULL,
    at            timestamptz NOT NULL,
    record        text        NOT NULL,
    previous_hash bytea       NOT NULL,
    hash          bytea       NOT NULL,
    CONSTRAINT audit_chain_key UNIQUE (writer, seq)
);

CREATE FUNCTION gateway.audit_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'gateway.audit is append-only: % refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON gateway.audit
    FOR EACH ROW EXECUTE FUNCTION gateway.audit_refuse_change();

CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON gateway.audit
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.audit_refuse_change();
