//! The names in certificates, which peer lists, policies, pools and audiences use.

/// The front door.
pub const BALANCER: &str = "balancer";
/// Users, roles, tokens, passports, audit.
pub const GATEWAY: &str = "gateway";
/// Models behind the Open Inference Protocol.
pub const SERVING: &str = "serving";
/// The ledger of minutes.
pub const SLA: &str = "sla";
/// Backup sets.
pub const BACKUP: &str = "backup";

/// nginx, the standby of the balancers.
pub const EDGE: &str = "edge";
/// The command line, as people use it.
pub const OPERATOR: &str = "operator";
/// What scrapes metrics.
pub const PROMETHEUS: &str = "prometheus";
/// What shows alerts.
pub const ALERTMANAGER: &str = "alertmanager";
/// PostgreSQL's metrics.
pub const POSTGRES_EXPORTER: &str = "postgres-exporter";
/// The model registry.
pub const MLFLOW: &str = "mlflow";
/// What registers models in it.
pub const PUBLISHER: &str = "publisher";
/// The database.
pub const POSTGRES: &str = "postgres";
/// What gives every container its certificate and secrets.
pub const STEWARD: &str = "steward";
