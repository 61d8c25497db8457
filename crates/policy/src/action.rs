//! Every action that a caller can request. A route names exactly one.

use strum::VariantArray;

/// What a caller wants to do. Which roles may, the policies say; they know an action by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::Display, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Action {
    // --- read in detail ---
    /// Server and model metadata, the model index, whether a model is ready.
    ReadModels,
    /// Every replica's state, since when and why.
    ReadReplicas,
    /// SLA figures behind the summary.
    ReadSla,
    /// The state of the platform in detail: backups, jobs, versions.
    ReadStatus,
    /// The model registry: models, versions, runs, files.
    ReadRegistry,

    // --- predict ---
    /// A prediction.
    Infer,
    /// An explanation of a prediction.
    Explain,
    /// A recorded decision.
    Decide,
    /// Feature values.
    ReadFeatures,

    // --- decisions of the own tenant ---
    /// Decisions without what went into them.
    ReadDecisions,
    /// What went into decisions.
    ReadDecisionInputs,

    // --- change models and features ---
    /// Feature values, written.
    WriteFeatures,
    /// A new model or version.
    RegisterModel,
    /// A model into memory.
    LoadModel,
    /// A model out of memory.
    UnloadModel,
    /// An alias to a newer version.
    PromoteModel,
    /// An alias back to an older version.
    RollBackModel,
    /// Anything in the model registry: registered, uploaded, tagged, given an alias, deleted.
    WriteRegistry,

    // --- operate ---
    /// A replica out of, or back into, the balance.
    DrainReplica,
    /// The primary database to another node.
    SwitchOver,
    /// A backup set, made now.
    RunBackup,
    /// A backup set, proven by a restore into a scratch place.
    VerifyBackup,
    /// Age of every key against its period.
    ReadKeyStatus,
    /// A backup set over the running system. Wants a fresh login.
    RestoreBackup,
    /// New keys. Wants a fresh login.
    RotateKeys,

    // --- one's own ---
    /// One's own token or login, ended.
    RevokeOwnToken,
    /// One's own name, tenant and roles.
    ReadOwnAccount,

    // --- administer users ---
    /// Users and their roles, read.
    ReadUsers,
    /// Users made, changed, disabled, deleted.
    ManageUsers,
    /// Roles given and taken.
    ManageRoles,
    /// API keys and clients made and deleted.
    ManageApiKeys,
    /// Tokens and sessions of any user, ended.
    RevokeTokens,

    // --- audit ---
    /// The audit log, read.
    ReadAudit,
    /// The audit log's chain, checked.
    VerifyAudit,
    /// The audit log, signed and taken out.
    ExportAudit,

    // --- privacy ---
    /// All data of one person, taken out.
    ExportSubject,
    /// All data of one person, destroyed. Wants a fresh login.
    EraseSubject,
    /// Processing of one person's data, stopped.
    RestrictSubject,

    // --- without a token ---
    /// `GET /health`.
    ReadHealth,
    /// `GET /v2/health/live` and `/ready`.
    ReadInferenceHealth,
    /// The summary of `GET /api/loadbalancer/status`.
    ReadReplicasSummary,
    /// The summary of `GET /api/sla/{service}/current`.
    ReadSlaSummary,
    /// `GET /api/explainability/health`.
    ReadExplainHealth,
    /// `POST /api/auth/token`.
    IssueToken,
    /// `GET /.well-known/jwks.json`.
    ReadJwks,
    /// `GET /.well-known/oauth-authorization-server`.
    ReadAuthMetadata,
    /// `GET /api/openapi.json` of the gateway, and `openapi.json` below the prefix of every other service.
    ReadOpenapi,
    /// The status page.
    ReadStatusPage,

    // --- between services ---
    /// A client's token for a passport.
    Authorize,
    /// The nginx edge's question about one request.
    AuthorizeSubrequest,
    /// Revocations, as they happen.
    WatchRevocations,
    /// The keys that passports are verified with.
    ReadPassportKeys,
    /// Which models should serve, told to a replica that says which do.
    SyncModels,
    /// A model loaded or unloaded for every replica, at the wish of a client who may.
    ChangeDesiredState,
    /// Minutes of the SLA ledger.
    ReportMinutes,
    /// `grpc.health.v1.Health` on a service's own port.
    CheckHealth,
    /// `/live` and `/ready` of an admin port.
    ReadReadiness,
    /// `/metrics` of an admin port.
    ReadAdminPort,
}

// === impl Action ===

impl Action {
    /// Every action.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name in policies, metrics and the audit log.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
