//! Every action that a caller can request. A route names exactly one.

use std::{fmt, str::FromStr};

/// Defines the enum, the list of all and the names from one list, so that none of the three can lack an entry.
macro_rules! actions {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// What a caller wants to do. Which roles may, the policies say; they know an action by its name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Action {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Action {
            /// Every action.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in policies, metrics and the audit log.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

actions! {
    // --- read in detail ---
    /// Server and model metadata, the model index, whether a model is ready.
    ReadModels = "read-models",
    /// Every replica's state, since when and why.
    ReadReplicas = "read-replicas",
    /// SLA figures behind the summary.
    ReadSla = "read-sla",
    /// The state of the platform in detail: backups, jobs, versions.
    ReadStatus = "read-status",
    /// The model registry: models, versions, runs, files.
    ReadRegistry = "read-registry",

    // --- predict ---
    /// A prediction.
    Infer = "infer",
    /// An explanation of a prediction.
    Explain = "explain",
    /// A recorded decision.
    Decide = "decide",
    /// Feature values.
    ReadFeatures = "read-features",

    // --- decisions of the own tenant ---
    /// Decisions without what went into them.
    ReadDecisions = "read-decisions",
    /// What went into decisions.
    ReadDecisionInputs = "read-decision-inputs",

    // --- change models and features ---
    /// Feature values, written.
    WriteFeatures = "write-features",
    /// A new model or version.
    RegisterModel = "register-model",
    /// A model into memory.
    LoadModel = "load-model",
    /// A model out of memory.
    UnloadModel = "unload-model",
    /// An alias to a newer version.
    PromoteModel = "promote-model",
    /// An alias back to an older version.
    RollBackModel = "roll-back-model",
    /// Anything in the model registry: registered, uploaded, tagged, given an alias, deleted.
    WriteRegistry = "write-registry",

    // --- operate ---
    /// A replica out of, or back into, the balance.
    DrainReplica = "drain-replica",
    /// The primary database to another node.
    SwitchOver = "switch-over",
    /// A backup set, made now.
    RunBackup = "run-backup",
    /// A backup set, proven by a restore into a scratch place.
    VerifyBackup = "verify-backup",
    /// Age of every key against its period.
    ReadKeyStatus = "read-key-status",
    /// A backup set over the running system. Wants a fresh login.
    RestoreBackup = "restore-backup",
    /// New keys. Wants a fresh login.
    RotateKeys = "rotate-keys",

    // --- one's own ---
    /// One's own token or login, ended.
    RevokeOwnToken = "revoke-own-token",

    // --- administer users ---
    /// Users and their roles, read.
    ReadUsers = "read-users",
    /// Users made, changed, disabled, deleted.
    ManageUsers = "manage-users",
    /// Roles given and taken.
    ManageRoles = "manage-roles",
    /// API keys and clients made and deleted.
    ManageApiKeys = "manage-api-keys",
    /// Tokens and sessions of any user, ended.
    RevokeTokens = "revoke-tokens",

    // --- audit ---
    /// The audit log, read.
    ReadAudit = "read-audit",
    /// The audit log's chain, checked.
    VerifyAudit = "verify-audit",
    /// The audit log, signed and taken out.
    ExportAudit = "export-audit",

    // --- privacy ---
    /// All data of one person, taken out.
    ExportSubject = "export-subject",
    /// All data of one person, destroyed. Wants a fresh login.
    EraseSubject = "erase-subject",
    /// Processing of one person's data, stopped.
    RestrictSubject = "restrict-subject",

    // --- without a token ---
    /// `GET /health`.
    ReadHealth = "read-health",
    /// `GET /v2/health/live` and `/ready`.
    ReadInferenceHealth = "read-inference-health",
    /// The summary of `GET /api/loadbalancer/status`.
    ReadReplicasSummary = "read-replicas-summary",
    /// The summary of `GET /api/sla/{service}/current`.
    ReadSlaSummary = "read-sla-summary",
    /// `GET /api/explainability/health`.
    ReadExplainHealth = "read-explain-health",
    /// `POST /api/auth/token`.
    IssueToken = "issue-token",
    /// `GET /.well-known/jwks.json`.
    ReadJwks = "read-jwks",
    /// `GET /api/openapi.json`.
    ReadOpenapi = "read-openapi",
    /// The status page.
    ReadStatusPage = "read-status-page",

    // --- between services ---
    /// A client's token for a passport.
    Authorize = "authorize",
    /// The nginx edge's question about one request.
    AuthorizeSubrequest = "authorize-subrequest",
    /// Revocations, as they happen.
    WatchRevocations = "watch-revocations",
    /// The keys that passports are verified with.
    ReadPassportKeys = "read-passport-keys",
    /// Minutes of the SLA ledger.
    ReportMinutes = "report-minutes",
    /// `grpc.health.v1.Health` on a service's own port.
    CheckHealth = "check-health",
    /// `/live` and `/ready` of an admin port.
    ReadReadiness = "read-readiness",
    /// `/metrics` of an admin port.
    ReadAdminPort = "read-admin-port",
}

/// That a word names no action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no action is called {0:?}")]
pub struct UnknownAction(pub String);

// === impl Action ===

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Action {
    type Err = UnknownAction;

    fn from_str(name: &str) -> Result<Self, UnknownAction> {
        Self::ALL.iter().copied().find(|action| action.as_str() == name).ok_or_else(|| UnknownAction(name.to_owned()))
    }
}
