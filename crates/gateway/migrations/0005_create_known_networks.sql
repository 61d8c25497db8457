-- From where a user has logged in: guesses from elsewhere at the same account do not slow these down. A network is an IPv4
-- address without its last byte, or the first half of an IPv6 address.
CREATE TABLE gateway.known_networks (
    user_id      uuid        NOT NULL REFERENCES gateway.users ON DELETE CASCADE,
    network      text        NOT NULL,
    last_success timestamptz NOT NULL,
    PRIMARY KEY (user_id, network)
);

CREATE INDEX known_networks_last_success ON gateway.known_networks (last_success);
