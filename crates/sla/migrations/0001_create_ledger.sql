-- The ledger. A minute is known by (service, minute, source, boot id): a source's counters start again with its process.
CREATE TABLE sla.minutes (
    service text NOT NULL,
    minute timestamptz NOT NULL,
    source text NOT NULL,
    boot_id uuid NOT NULL,
    good bigint NOT NULL,
    bad bigint NOT NULL,
    shed bigint NOT NULL,
    client_error bigint NOT NULL,
    slow bigint NOT NULL,
    -- HdrHistogram of good and bad, V2 + DEFLATE, 1 us to 60 s, 3 digits.
    latency_histogram bytea NOT NULL,
    reported_at timestamptz NOT NULL,
    PRIMARY KEY (service, minute, source, boot_id),
    CONSTRAINT minutes_whole CHECK (extract(epoch FROM minute)::bigint % 60 = 0),
    CONSTRAINT minutes_counts CHECK (
        good >= 0 AND bad >= 0 AND shed >= 0 AND client_error >= 0 AND slow >= 0 AND slow <= good + bad
    )
);

-- Hours of it, summed up once they are over, so that 30 days are 720 rows. A report that comes later unseals its hour.
CREATE TABLE sla.hours (
    service text NOT NULL,
    hour timestamptz NOT NULL,
    sealed boolean NOT NULL DEFAULT false,
    good bigint NOT NULL DEFAULT 0,
    bad bigint NOT NULL DEFAULT 0,
    shed bigint NOT NULL DEFAULT 0,
    client_error bigint NOT NULL DEFAULT 0,
    slow bigint NOT NULL DEFAULT 0,
    latency_histogram bytea NOT NULL DEFAULT '',
    -- Per minute the requests that count for uptime, -1 where nobody reported. 60 of them once sealed.
    minutes bigint[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (service, hour),
    CONSTRAINT hours_whole CHECK (extract(epoch FROM hour)::bigint % 3600 = 0),
    CONSTRAINT hours_minutes CHECK (NOT sealed OR cardinality(minutes) = 60)
);
