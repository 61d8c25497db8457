# One Vault node. Addresses and the node's name come by environment: VAULT_API_ADDR, VAULT_CLUSTER_ADDR, VAULT_RAFT_NODE_ID.

listener "tcp" {
  address = "0.0.0.0:8200"
  # Between nodes Vault takes TLS 1.2 too, and one node needs nobody there. With more nodes: 0.0.0.0:8201.
  cluster_address = "127.0.0.1:8201"

  # Read again at SIGHUP.
  tls_cert_file   = "/identity/certificate.pem"
  tls_key_file    = "/identity/key.pem"
  tls_min_version = "tls13"

  # Counters hold no secrets, and a token for Prometheus would be one more to renew.
  telemetry {
    unauthenticated_metrics_access = true
  }
}

storage "raft" {
  path = "/vault/data"
  # Elections in a second instead of five: made for production, says Vault.
  performance_multiplier = 1
}

# IPC_LOCK is a capability that this container does not have: it must not swap instead (memswap_limit = mem_limit).
disable_mlock = true

# Plugins run only after registration with their SHA-256; /usr/local/lib/vault/plugins.sha256 says it.
plugin_directory = "/usr/local/lib/vault/plugins"

# GET /v1/sys/metrics?format=prometheus
telemetry {
  prometheus_retention_time = "1m"
  disable_hostname          = true
}

ui         = false
log_level  = "info"
log_format = "json"
