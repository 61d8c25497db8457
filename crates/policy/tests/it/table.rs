//! Every role × action, against the table "Who may do what" of the specification, transcribed here by hand.

use policy::{Action, Policy, Role, Roles, Subject};
use proptest::prelude::*;
use topology::CALLERS;

use Role::{Admin, Analyst, Auditor, Engineer, Operator, PrivacyOfficer, Viewer};

/// A row of the specification's table, split where its cells differ: who, what, and whether only after a fresh login.
struct Row {
    roles: &'static [Role],
    fresh: bool,
    actions: &'static [&'static str],
}

const TABLE: &[Row] = &[
    // read models, replicas, SLA, status in detail
    Row {
        roles: &[Viewer, Analyst, Engineer, Operator, Auditor, PrivacyOfficer, Admin],
        fresh: false,
        actions: &["read-models", "read-replicas", "read-sla", "read-status", "read-registry"],
    },
    // infer, explain, decide; read features
    Row { roles: &[Analyst, Engineer], fresh: false, actions: &["infer", "explain", "decide", "read-features"] },
    // read and search decisions of the own tenant; auditor without input
    Row { roles: &[Analyst, Engineer, Auditor, PrivacyOfficer], fresh: false, actions: &["read-decisions"] },
    Row { roles: &[Analyst, Engineer, PrivacyOfficer], fresh: false, actions: &["read-decision-inputs"] },
    // write features; register, load, unload, promote, roll back models
    Row {
        roles: &[Engineer],
        fresh: false,
        actions: &[
            "write-features",
            "register-model",
            "load-model",
            "unload-model",
            "promote-model",
            "roll-back-model",
            "write-registry",
        ],
    },
    // drain replicas, switch over, run and verify backups, key status
    Row {
        roles: &[Operator, Admin],
        fresh: false,
        actions: &["drain-replica", "switch-over", "run-backup", "verify-backup", "read-key-status"],
    },
    // restore, rotate keys
    Row { roles: &[Admin], fresh: true, actions: &["restore-backup", "rotate-keys"] },
    // users, roles, API keys, revoke
    Row {
        roles: &[Admin],
        fresh: false,
        actions: &["read-users", "manage-users", "manage-roles", "manage-api-keys", "revoke-tokens"],
    },
    // read, verify, export the audit log; admin reads
    Row { roles: &[Auditor, Admin], fresh: false, actions: &["read-audit"] },
    Row { roles: &[Auditor], fresh: false, actions: &["verify-audit", "export-audit"] },
    // export, erase, restrict a subject; erase after a fresh login
    Row { roles: &[PrivacyOfficer], fresh: false, actions: &["export-subject", "restrict-subject"] },
    Row { roles: &[PrivacyOfficer], fresh: true, actions: &["erase-subject"] },
];

/// With any token, even of a user without a role. Not of the specification: a caller that can sign in can sign out (RFC 7009), and
/// can see as whom.
const SIGNED_IN: &[&str] = &["revoke-own-token", "read-own-account"];

/// Without a token, and nothing else.
const ANONYMOUS: &[&str] = &[
    "read-health",
    "read-inference-health",
    "read-replicas-summary",
    "read-sla-summary",
    "read-explain-health",
    "issue-token",
    "read-jwks",
    "read-auth-metadata",
    "read-openapi",
    "read-status-page",
];

/// The calls of each service.
const CALLS: &[(&str, &[&str])] = &[
    (
        "balancer",
        &["authorize", "watch-revocations", "read-passport-keys", "report-minutes", "check-health", "read-readiness"],
    ),
    ("edge", &["authorize-subrequest"]),
    ("gateway", &["read-passport-keys", "read-readiness"]),
    ("serving", &["read-passport-keys", "sync-models", "change-desired-state", "read-readiness"]),
    ("sla", &["read-passport-keys", "read-readiness"]),
    ("backup", &["read-passport-keys", "read-readiness"]),
    ("operator", &["check-health", "read-readiness", "read-admin-port"]),
    ("prometheus", &["read-admin-port"]),
];

fn expected(roles: Roles, fresh_login: bool, action: &str) -> bool {
    let by_role = TABLE
        .iter()
        .filter(|row| row.actions.contains(&action))
        .any(|row| row.roles.iter().any(|role| roles.contains(*role)) && (fresh_login || !row.fresh));
    by_role || SIGNED_IN.contains(&action) || ANONYMOUS.contains(&action)
}

#[test]
fn every_role_may_do_what_the_table_says_and_nothing_else() {
    let policy = Policy::embedded().unwrap();
    for role in Role::ALL.iter().copied() {
        for action in Action::ALL.iter().copied() {
            for fresh_login in [false, true] {
                let subject = Subject::User { roles: role.into(), fresh_login };
                let wanted = expected(role.into(), fresh_login, action.as_str());
                assert_eq!(policy.decide(subject, action).allowed, wanted, "{role} {action} fresh={fresh_login}");
                assert_eq!(
                    policy.allows(subject, action),
                    wanted,
                    "{role} {action} fresh={fresh_login}, first decision"
                );
                assert_eq!(policy.allows(subject, action), wanted, "{role} {action} fresh={fresh_login}, cached");
            }
        }
    }
}

#[test]
fn callers_without_a_token_may_do_the_anonymous_actions_only() {
    let policy = Policy::embedded().unwrap();
    let no_roles = Subject::User { roles: Roles::default(), fresh_login: true };
    for action in Action::ALL.iter().copied() {
        let wanted = ANONYMOUS.contains(&action.as_str());
        assert_eq!(policy.allows(Subject::Anonymous, action), wanted, "anonymous {action}");
        let wanted = wanted || SIGNED_IN.contains(&action.as_str());
        assert_eq!(policy.allows(no_roles, action), wanted, "a user without any role {action}");
    }
}

#[test]
fn every_service_may_make_its_calls_and_nothing_else() {
    let policy = Policy::embedded().unwrap();
    assert_eq!(CALLERS.to_vec(), CALLS.iter().map(|(service, _)| *service).collect::<Vec<_>>());
    for (service, calls) in CALLS {
        for action in Action::ALL.iter().copied() {
            let wanted = calls.contains(&action.as_str());
            assert_eq!(policy.allows(Subject::Service(service), action), wanted, "{service} {action}");
        }
    }
    for unknown in ["", "Balancer", "balancer ", "mlflow", "admin"] {
        for action in Action::ALL.iter().copied() {
            assert!(!policy.allows(Subject::Service(unknown), action), "{unknown:?} {action}");
            assert!(!policy.decide(Subject::Service(unknown), action).allowed, "{unknown:?} {action}");
        }
    }
}

#[test]
fn the_tables_above_speak_of_every_action_once() {
    let of_roles = TABLE.iter().flat_map(|row| row.actions.iter());
    let of_services = CALLS.iter().flat_map(|(_, calls)| calls.iter());
    let mut named: Vec<&str> = of_roles.chain(SIGNED_IN).chain(ANONYMOUS).chain(of_services).copied().collect();
    named.sort_unstable();
    named.dedup();
    let mut all: Vec<&str> = Action::ALL.iter().map(|action| action.as_str()).collect();
    all.sort_unstable();
    assert_eq!(named, all);
}

#[test]
fn a_decision_names_the_policies_that_made_it() {
    let policy = Policy::embedded().unwrap();
    let admin = Subject::User { roles: Admin.into(), fresh_login: true };
    let decision = policy.decide(admin, Action::RotateKeys);
    assert_eq!(decision.policies, ["admin-restores-and-rotates-after-fresh-login"]);
    assert_eq!(policy.policy_set_hash().len(), 64);
}

proptest! {
    /// Roles add up: a set may do exactly what its members may.
    #[test]
    fn roles_add_up(members in proptest::collection::vec(proptest::sample::select(Role::ALL), 0..5), fresh_login: bool) {
        thread_local!(static POLICY: Policy = Policy::embedded().unwrap());
        let roles: Roles = members.into_iter().collect();
        POLICY.with(|policy| {
            for action in Action::ALL.iter().copied() {
                let wanted = expected(roles, fresh_login, action.as_str());
                prop_assert_eq!(policy.allows(Subject::User { roles, fresh_login }, action), wanted, "{:?} {}", roles, action);
            }
            Ok(())
        })?;
    }
}
