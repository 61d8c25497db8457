//! Which passports are accepted, for how long, and what is answered to others.

use std::sync::Arc;

use authz::{Guard, LEEWAY_S, Principal, TokenError, jwks_json};
use identity::PeerName;
use metrics_exporter_prometheus::PrometheusBuilder;
use policy::{Action, Policy, Role, Roles};
use problem::Kind;

use crate::support::{Gateway, ManualClock, NOW, claims};

fn user(guard: &Guard, passport: &str) -> Principal {
    guard.identify(Some(passport)).unwrap()
}

#[test]
fn no_passport_is_anonymous_and_an_invalid_one_is_refused() {
    let gateway = Gateway::new();
    let guard = gateway.guard(&ManualClock::at(NOW));
    assert!(matches!(guard.identify(None), Ok(Principal::Anonymous)));
    assert_eq!(guard.identify(Some("")).unwrap_err(), TokenError::Malformed);
    assert_eq!(guard.identify(Some(&"x".repeat(1 << 20))).unwrap_err(), TokenError::TooLong);
    let Principal::User(accepted) = user(&guard, &gateway.passport(Role::Analyst)) else { panic!("not a user") };
    assert_eq!(*accepted, claims(Role::Analyst));
}

#[test]
fn a_cached_passport_never_outlives_its_end() {
    let gateway = Gateway::new();
    let hand = ManualClock::at(NOW);
    let guard = gateway.guard(&hand);
    let passport = gateway.passport(Role::Analyst);
    for second in 0..60 + LEEWAY_S {
        hand.set(NOW + second);
        assert!(guard.identify(Some(&passport)).is_ok(), "after {second} s");
    }
    for second in [60 + LEEWAY_S, 61 + LEEWAY_S, 3600, 1 << 40] {
        hand.set(NOW + second);
        assert_eq!(guard.identify(Some(&passport)).unwrap_err(), TokenError::Expired, "after {second} s");
    }
    // A clock that goes back far enough makes it a passport of the future, cached or not.
    hand.set(NOW - LEEWAY_S - 1);
    assert_eq!(guard.identify(Some(&passport)).unwrap_err(), TokenError::NotYet);
}

#[test]
fn a_key_taken_away_takes_its_passports_along() {
    let (gateway, other) = (Gateway::new(), Gateway::new());
    let guard = gateway.guard(&ManualClock::at(NOW));
    let passport = gateway.passport(Role::Admin);
    user(&guard, &passport);
    let both = [gateway.key.public().clone(), other.key.public().clone()];
    gateway.keys.replace(&jwks_json(&both)).unwrap();
    user(&guard, &passport);
    gateway.keys.replace(&jwks_json(&both[1..])).unwrap();
    assert_eq!(guard.identify(Some(&passport)).unwrap_err(), TokenError::UnknownKey);
    gateway.keys.replace(&jwks_json(&both)).unwrap();
    user(&guard, &passport);
}

#[test]
fn a_login_is_fresh_for_five_minutes() {
    let gateway = Gateway::new();
    let guard = gateway.guard(&ManualClock::at(NOW));
    let logged_in = |auth_time: u64| {
        let mut claims = claims(Role::Admin);
        claims.auth_time = auth_time;
        user(&guard, &gateway.key.sign(&claims).unwrap())
    };
    assert!(guard.allows(&logged_in(NOW), Action::RotateKeys));
    assert!(guard.allows(&logged_in(NOW - 300), Action::RotateKeys));
    assert!(!guard.allows(&logged_in(NOW - 301), Action::RotateKeys));
    assert!(!guard.allows(&logged_in(NOW + LEEWAY_S + 1), Action::RotateKeys), "a login in the future");
    let stale = guard.check(&logged_in(NOW - 301), Action::RotateKeys).unwrap_err();
    assert_eq!(stale.kind(), Kind::PermissionDenied);
    assert!(stale.message().contains("log in again"), "{}", stale.message());
}

/// The login ages while the passport is cached: the decision must not be.
#[test]
fn a_remembered_login_ages() {
    let gateway = Gateway::new();
    let hand = ManualClock::at(NOW);
    let guard = gateway.guard(&hand);
    let mut claims = claims(Role::PrivacyOfficer);
    claims.auth_time = NOW - 290;
    let passport = gateway.key.sign(&claims).unwrap();
    assert!(guard.check(&user(&guard, &passport), Action::EraseSubject).is_ok());
    hand.set(NOW + 11);
    assert!(guard.check(&user(&guard, &passport), Action::EraseSubject).is_err());
    assert!(guard.check(&user(&guard, &passport), Action::ExportSubject).is_ok());
}

#[test]
fn a_refusal_is_401_to_anonymous_callers_and_403_to_others() {
    let gateway = Gateway::new();
    let guard = gateway.guard(&ManualClock::at(NOW));
    let kind = |principal: &Principal| guard.check(principal, Action::ManageUsers).unwrap_err().kind();
    assert_eq!(kind(&Principal::Anonymous), Kind::Unauthenticated);
    assert_eq!(kind(&user(&guard, &gateway.passport(Role::Viewer))), Kind::PermissionDenied);
    assert_eq!(kind(&user(&guard, &gateway.passport(Roles::default()))), Kind::PermissionDenied);
    let peer = PeerName { service: "balancer".into(), instance: "balancer-1".into() };
    assert_eq!(kind(&Principal::Service(peer)), Kind::PermissionDenied);
}

#[test]
fn decisions_are_counted_by_action_and_outcome() {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        let gateway = Gateway::new();
        let policy = Arc::new(Policy::embedded().unwrap());
        let guard = Guard::new("serving", Arc::clone(&gateway.keys), policy, ManualClock::at(NOW).clock());
        let analyst = user(&guard, &gateway.passport(Role::Analyst));
        guard.check(&analyst, Action::Infer).unwrap();
        guard.check(&analyst, Action::Infer).unwrap();
        guard.check(&analyst, Action::LoadModel).unwrap_err();
        guard.check(&Principal::Anonymous, Action::Infer).unwrap_err();
    });
    let text = recorder.handle().render();
    for line in [
        r#"ml_authz_decisions_total{action="infer",decision="allow"} 2"#,
        r#"ml_authz_decisions_total{action="infer",decision="unauthenticated"} 1"#,
        r#"ml_authz_decisions_total{action="load-model",decision="deny"} 1"#,
        r#"ml_authz_decisions_total{action="rotate-keys",decision="allow"} 0"#,
    ] {
        assert!(text.lines().any(|rendered| rendered == line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_principal_is_shown_without_what_is_private() {
    let gateway = Gateway::new();
    let guard = gateway.guard(&ManualClock::at(NOW));
    assert_eq!(user(&guard, &gateway.passport(Role::Analyst)).to_string(), "user:0198-user");
    let peer = PeerName { service: "sla".into(), instance: "sla-1".into() };
    assert_eq!(Principal::Service(peer).to_string(), "service:sla/sla-1");
}
