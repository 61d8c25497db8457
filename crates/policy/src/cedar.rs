//! The Cedar policies of `security/rbac-policies/`, compiled into the binary, and their decisions.
//!
//! A decision depends on exactly three things: the subject (a set of roles, anonymous, or a service by name), how fresh the
//! login is, and the action. That is a finite table of some 13,000 cells, so Cedar decides each once and further answers come
//! from the table: bounded by construction, and gone with the policy set that it came from.

use std::sync::atomic::{AtomicU8, Ordering};

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicyId, PolicySet, Request,
    RestrictedExpression, Schema, ValidationMode, Validator,
};
use sha256::Hasher;
use topology::CALLERS;

use crate::{Action, Roles};

const SCHEMA: &str = include_str!("../../../security/rbac-policies/rampart.cedarschema");
const POLICIES: [(&str, &str); 3] = [
    ("anonymous.cedar", include_str!("../../../security/rbac-policies/anonymous.cedar")),
    ("roles.cedar", include_str!("../../../security/rbac-policies/roles.cedar")),
    ("services.cedar", include_str!("../../../security/rbac-policies/services.cedar")),
];

const UNKNOWN: u8 = 0;
const DENIED: u8 = 1;
const ALLOWED: u8 = 2;

/// The caller, reduced to what a policy can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// Without a token.
    Anonymous,
    /// With a passport.
    User {
        /// All roles that the passport names.
        roles: Roles,
        /// Whether the login is at most five minutes old.
        fresh_login: bool,
    },
    /// With a certificate, by its service.
    Service(&'a str),
}

/// The decision, and the policies that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyDecision {
    /// Whether it may be done: a policy permits it, none forbids it, and none failed.
    pub allowed: bool,
    /// The `@id`s of the policies that decided, in order.
    pub policies: Vec<String>,
}

/// Why a policy set cannot be used. None of these can happen with the embedded one unless a test fails first.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The schema does not parse.
    #[error("{file}: not a Cedar schema: {message}")]
    Schema {
        /// Which file.
        file: &'static str,
        /// What the parser says.
        message: String,
    },
    /// A policy file does not parse.
    #[error("{file}: not Cedar policies: {message}")]
    Parse {
        /// Which file.
        file: String,
        /// What the parser says.
        message: String,
    },
    /// A policy has no name, or two have one.
    #[error("{file}: every policy needs an `@id` of its own, and templates are not used")]
    Unnamed {
        /// Which file.
        file: String,
    },
    /// A policy does not fit the schema.
    #[error("policies do not fit the schema: {0}")]
    Invalid(String),
    /// The code knows an action that the schema does not.
    #[error("the schema has no action {0:?}")]
    MissingAction(&'static str),
}

/// A policy set that passed strict validation.
pub struct Policy {
    schema: Schema,
    policies: PolicySet,
    actions: Vec<EntityUid>,
    names: EntityNames,
    hash: String,
    decided: Vec<AtomicU8>,
}

struct EntityNames {
    user: EntityUid,
    anonymous: EntityUid,
    platform: EntityUid,
    role: EntityTypeName,
    service: EntityTypeName,
}

// === impl Policy ===

impl Policy {
    /// The policies this binary was built with.
    pub fn embedded() -> Result<Self, PolicyError> {
        Self::parse(SCHEMA, &POLICIES)
    }

    pub(crate) fn parse(schema_text: &str, files: &[(&str, &str)]) -> Result<Self, PolicyError> {
        let file = "rampart.cedarschema";
        let (schema, _warnings) = Schema::from_cedarschema_str(schema_text)
            .map_err(|error| PolicyError::Schema { file, message: error.to_string() })?;
        let mut policies = PolicySet::new();
        for (file, text) in files {
            add_file(&mut policies, file, text)?;
        }
        validate(&schema, &policies)?;
        Ok(Self {
            actions: action_names(&schema)?,
            names: EntityNames::new().map_err(PolicyError::Invalid)?,
            hash: hash(schema_text, files),
            decided: (0..Subject::COUNT * Action::ALL.len()).map(|_| AtomicU8::new(UNKNOWN)).collect(),
            schema,
            policies,
        })
    }

    /// SHA-256 over the schema and all policies, in hex: which rules a decision was made under.
    pub fn policy_set_hash(&self) -> &str {
        &self.hash
    }

    /// Whether the subject may do this. Some nanoseconds, except the first time for each pair.
    pub fn allows(&self, subject: Subject<'_>, action: Action) -> bool {
        let cell = subject.index().and_then(|row| self.decided.get(row * Action::ALL.len() + action as usize));
        let Some(cell) = cell else { return false };
        match cell.load(Ordering::Relaxed) {
            UNKNOWN => {
                let allowed = self.decide(subject, action).allowed;
                cell.store(if allowed { ALLOWED } else { DENIED }, Ordering::Relaxed);
                allowed
            }
            decided => decided == ALLOWED,
        }
    }

    /// Asks Cedar, and names the policies that decided. Some tens of microseconds.
    pub fn decide(&self, subject: Subject<'_>, action: Action) -> PolicyDecision {
        let Some((request, entities)) = self.request(subject, action) else {
            // The schema has no such principal for the action: nothing could permit it.
            return PolicyDecision { allowed: false, policies: Vec::new() };
        };
        let response = Authorizer::new().is_authorized(&request, &self.policies, &entities);
        let mut errors = response.diagnostics().errors().peekable();
        // Cedar skips a policy that fails, so a failing `forbid` would let a `permit` through: no decision counts then.
        let failed = errors.peek().is_some();
        for error in errors {
            tracing::error!(%action, %error, "a policy failed and the call was denied; correct the policy");
        }
        let mut policies: Vec<String> = response.diagnostics().reason().map(ToString::to_string).collect();
        policies.sort_unstable();
        PolicyDecision { allowed: response.decision() == Decision::Allow && !failed, policies }
    }

    fn request(&self, subject: Subject<'_>, action: Action) -> Option<(Request, Entities)> {
        let (principal, parents, fresh_login) = match subject {
            Subject::Anonymous => (self.names.anonymous.clone(), Roles::default(), false),
            Subject::User { roles, fresh_login } => (self.names.user.clone(), roles, fresh_login),
            Subject::Service(name) => (uid(&self.names.service, name), Roles::default(), false),
        };
        let parents = parents.iter().map(|role| uid(&self.names.role, role.as_str())).collect();
        let entity = Entity::new_no_attrs(principal.clone(), parents);
        let entities = Entities::from_entities([entity], Some(&self.schema)).ok()?;
        let fresh_login = ("fresh_login".to_owned(), RestrictedExpression::new_bool(fresh_login));
        let context = Context::from_pairs([fresh_login]).ok()?;
        let action = self.actions.get(action as usize)?.clone();
        let request = Request::new(principal, action, self.names.platform.clone(), context, Some(&self.schema)).ok()?;
        Some((request, entities))
    }
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy").field("hash", &self.hash).finish_non_exhaustive()
    }
}

fn add_file(policies: &mut PolicySet, file: &str, text: &str) -> Result<(), PolicyError> {
    let unnamed = || PolicyError::Unnamed { file: file.to_owned() };
    let parsed: PolicySet = text.parse().map_err(|error: cedar_policy::ParseErrors| PolicyError::Parse {
        file: file.to_owned(),
        message: error.to_string(),
    })?;
    if parsed.num_of_templates() != 0 {
        return Err(unnamed());
    }
    for policy in parsed.policies() {
        let id = policy.annotation("id").filter(|id| !id.is_empty()).ok_or_else(unnamed)?;
        policies.add(policy.new_id(PolicyId::new(id))).map_err(|_| unnamed())?;
    }
    Ok(())
}

fn validate(schema: &Schema, policies: &PolicySet) -> Result<(), PolicyError> {
    let result = Validator::new(schema.clone()).validate(policies, ValidationMode::Strict);
    // A warning is a policy that can never apply, or a look-alike letter: a mistake either way.
    if result.validation_passed_without_warnings() {
        return Ok(());
    }
    let errors = result.validation_errors().map(ToString::to_string);
    let warnings = result.validation_warnings().map(ToString::to_string);
    Err(PolicyError::Invalid(errors.chain(warnings).collect::<Vec<_>>().join("; ")))
}

fn action_names(schema: &Schema) -> Result<Vec<EntityUid>, PolicyError> {
    let declared: Vec<&EntityUid> = schema.actions().collect();
    let find = |action: &Action| {
        declared
            .iter()
            .find(|uid| uid.id().unescaped() == action.as_str())
            .map(|uid| (*uid).clone())
            .ok_or(PolicyError::MissingAction(action.as_str()))
    };
    Action::ALL.iter().map(find).collect()
}

fn hash(schema: &str, files: &[(&str, &str)]) -> String {
    let mut hasher = Hasher::new();
    for text in std::iter::once(&schema).chain(files.iter().map(|(_, text)| text)) {
        // The length first, so that no byte can move from one file to the next unseen.
        hasher.update(&(text.len() as u64).to_be_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finish().to_string()
}

fn uid(kind: &EntityTypeName, name: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(name))
}

// === impl EntityNames ===

impl EntityNames {
    fn new() -> Result<Self, String> {
        let kind = |name: &str| name.parse::<EntityTypeName>().map_err(|error| error.to_string());
        Ok(Self {
            user: uid(&kind("User")?, "caller"),
            anonymous: uid(&kind("Anonymous")?, "anonymous"),
            platform: uid(&kind("Platform")?, "rampart"),
            role: kind("Role")?,
            service: kind("Service")?,
        })
    }
}

// === impl Subject ===

impl Subject<'_> {
    /// Rows of the table: anonymous, the services, and every set of roles with an old and with a fresh login.
    const COUNT: usize = 1 + CALLERS.len() + 2 * Roles::COUNT;

    fn index(self) -> Option<usize> {
        match self {
            Self::Anonymous => Some(0),
            Self::Service(name) => CALLERS.iter().position(|known| *known == name).map(|at| 1 + at),
            Self::User { roles, fresh_login } => Some(1 + CALLERS.len() + 2 * roles.index() + usize::from(fresh_login)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Role;

    fn admin() -> Subject<'static> {
        Subject::User { roles: Role::Admin.into(), fresh_login: false }
    }

    fn with(policies: &str) -> Result<Policy, PolicyError> {
        Policy::parse(SCHEMA, &[("test.cedar", policies)])
    }

    #[test]
    fn the_schema_declares_exactly_the_actions_of_the_code() {
        let policy = Policy::embedded().unwrap();
        let groups: Vec<_> = policy.schema.action_groups().collect();
        let mut declared: Vec<&str> =
            policy.schema.actions().filter(|uid| !groups.contains(uid)).map(|uid| uid.id().unescaped()).collect();
        let mut known: Vec<&str> = Action::ALL.iter().map(|action| action.as_str()).collect();
        declared.sort_unstable();
        known.sort_unstable();
        assert_eq!(declared, known);
    }

    #[test]
    fn an_action_without_a_permit_is_denied() {
        let policy = with("").unwrap();
        for action in Action::ALL.iter().copied() {
            for subject in [Subject::Anonymous, admin(), Subject::Service("balancer")] {
                assert!(!policy.allows(subject, action), "{subject:?} {action}");
            }
        }
    }

    #[test]
    fn a_forbid_wins_over_a_permit() {
        let policy = with(
            r#"@id("all") permit (principal, action, resource);
               @id("not") forbid (principal, action == Action::"infer", resource);"#,
        )
        .unwrap();
        assert!(!policy.allows(admin(), Action::Infer));
        assert!(policy.allows(admin(), Action::Explain));
        assert_eq!(policy.decide(admin(), Action::Infer).policies, ["not"]);
    }

    /// Cedar alone answers Allow here: it skips the `forbid` whose addition overflows.
    #[test]
    fn a_forbid_that_fails_denies() {
        let policy = with(
            r#"@id("all") permit (principal, action, resource);
               @id("fails") forbid (principal, action == Action::"infer", resource)
               when { 9223372036854775807 + 1 > 0 };"#,
        )
        .unwrap();
        let (request, entities) = policy.request(admin(), Action::Infer).unwrap();
        let alone = Authorizer::new().is_authorized(&request, &policy.policies, &entities);
        assert_eq!(alone.decision(), Decision::Allow, "Cedar still skips it");
        assert!(!policy.allows(admin(), Action::Infer));
        assert!(policy.allows(admin(), Action::Explain), "the failing policy does not apply to this one");
    }

    #[test]
    fn a_faulty_policy_does_not_load() {
        let refused = [
            (r#"@id("x") permit (principal in Role::"amdin", action, resource);"#, "a misspelt role"),
            (r#"@id("x") permit (principal == Service::"balancr", action, resource);"#, "a misspelt service"),
            (r#"@id("x") permit (principal, action == Action::"infre", resource);"#, "a misspelt action"),
            (r#"@id("x") permit (principal, action, resource) when { context.fresh };"#, "a misspelt attribute"),
            (r#"@id("x") permit (principal == Service::"sla", action == Action::"infer", resource);"#, "never applies"),
            (r#"permit (principal, action, resource);"#, "no @id"),
            (r#"@id("") permit (principal, action, resource);"#, "an empty @id"),
            (
                r#"@id("x") permit (principal, action == Action::"infer", resource);
                   @id("x") permit (principal, action == Action::"explain", resource);"#,
                "one @id twice",
            ),
            (r#"@id("x") permit (principal == ?principal, action, resource);"#, "a template"),
            (r#"@id("x") permit (principal, action, resource)"#, "no semicolon"),
        ];
        for (policies, why) in refused {
            assert!(with(policies).is_err(), "{why} was accepted");
        }
        assert!(matches!(Policy::parse("entity", &[]), Err(PolicyError::Schema { .. })));
        assert!(matches!(Policy::parse("entity User;", &[]), Err(PolicyError::MissingAction(_))));
    }

    #[test]
    fn the_hash_changes_with_every_byte_and_its_place() {
        let of = |files: &[(&str, &str)]| hash("s", files);
        assert_ne!(of(&[("a", "x")]), of(&[("a", "y")]));
        assert_ne!(of(&[("a", "xy"), ("b", "")]), of(&[("a", "x"), ("b", "y")]));
        assert_eq!(Policy::embedded().unwrap().hash, Policy::embedded().unwrap().hash);
    }
}
