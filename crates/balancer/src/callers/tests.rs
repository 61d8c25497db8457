use std::sync::atomic::{AtomicU32, Ordering};

use policy::Role;

use super::*;

const MIB: u64 = 1 << 20;

fn limits(requests: u32, calls_max: u32, body_mib: u64) -> CallerLimits {
    CallerLimits { requests_per_s: 1, requests_burst: requests, calls_max, body_bytes_max: body_mib * MIB }
}

fn callers(default: CallerLimits, tenant: CallerLimits) -> Callers {
    let roles = [("engineer".to_owned(), limits(9, 1, 1)), ("auditor".to_owned(), limits(1, 5, 1))];
    let config = CallersConfig { remembered_max: 2, body_bytes_max: 100 * MIB, default, roles: roles.into(), tenant };
    Callers::new(config)
}

/// Of tenant `t`.
fn principal(subject: &str, role: Role) -> Principal {
    Principal { subject: subject.into(), tenant: "t".into(), roles: role.into() }
}

fn refused(admitted: Result<CallPermit, OverLimit>) -> CallerLimit {
    admitted.err().expect("refused").limit
}

#[test]
fn calls_under_way_are_bounded_for_a_principal_and_its_tenant() {
    let callers = callers(limits(100, 2, 1), limits(100, 3, 1));
    let (ada, bob) = (principal("ada", Role::Viewer), principal("bob", Role::Viewer));
    let admitted = (callers.admit(&ada, 0).unwrap(), callers.admit(&ada, 0).unwrap());
    assert_eq!(refused(callers.admit(&ada, 0)), CallerLimit::PrincipalCalls);
    let of_bob = callers.admit(&bob, 0).unwrap();
    assert_eq!(refused(callers.admit(&bob, 0)), CallerLimit::TenantCalls);
    let elsewhere = Principal { tenant: "u".into(), ..principal("eve", Role::Viewer) };
    assert!(callers.admit(&elsewhere, 0).is_ok(), "another tenant has places of its own");
    drop(admitted.0);
    assert!(callers.admit(&bob, 0).is_ok(), "what was refused took no place");
    drop((admitted.1, of_bob));
}

#[test]
fn requests_come_no_faster_than_the_rate() {
    let callers = callers(limits(2, 9, 1), limits(3, 9, 1));
    let (ada, bob) = (principal("ada", Role::Viewer), principal("bob", Role::Viewer));
    assert!(callers.admit(&ada, 0).is_ok() && callers.admit(&ada, 0).is_ok());
    let over = callers.admit(&ada, 0).err().unwrap();
    assert_eq!(over.limit, CallerLimit::PrincipalRate);
    assert!(over.wait > Duration::ZERO && over.wait <= Duration::from_secs(1), "{:?}", over.wait);
    assert!(callers.admit(&bob, 0).is_ok());
    assert_eq!(refused(callers.admit(&bob, 0)), CallerLimit::TenantRate);
    let problem = Problem::from(over);
    assert_eq!((problem.kind(), problem.retry_after_s()), (Kind::ResourceExhausted, Some(1)));
}

/// The only body of a caller may be of any length, and a short one always has room.
#[test]
fn bodies_under_way_are_bounded() {
    let callers = callers(limits(100, 50, 40), limits(100, 50, 60));
    let (ada, bob) = (principal("ada", Role::Viewer), principal("bob", Role::Viewer));
    let elsewhere = |tenant: &str| Principal { tenant: tenant.into(), ..principal(tenant, Role::Viewer) };
    let mut first = callers.admit(&ada, 30 * MIB).unwrap();
    assert_eq!(refused(callers.admit(&ada, 11 * MIB)), CallerLimit::PrincipalBytes);
    let second = callers.admit(&ada, 10 * MIB).unwrap();
    assert_eq!(refused(callers.admit(&bob, 21 * MIB)), CallerLimit::TenantBytes);
    let third = callers.admit(&bob, 20 * MIB).unwrap();
    assert_eq!(refused(callers.admit(&elsewhere("u"), 41 * MIB)), CallerLimit::AllBytes);
    let fourth = callers.admit(&elsewhere("u"), 40 * MIB).unwrap();
    assert_eq!(refused(callers.admit(&elsewhere("v"), 2 * MIB)), CallerLimit::AllBytes);
    assert!(callers.admit(&elsewhere("v"), MIB).is_ok(), "a short body");
    assert!(first.count_body(30 * MIB).is_ok(), "what was announced counts once");
    assert_eq!(first.count_body(31 * MIB).err().map(|over| over.limit), Some(CallerLimit::PrincipalBytes));
    drop((second, third, fourth));
    assert!(first.count_body(99 * MIB).is_ok(), "the only body");
    drop(first);
    assert!(callers.admit(&ada, 40 * MIB).is_ok());
}

#[test]
fn of_several_roles_the_larger_number_counts() {
    let callers = callers(limits(3, 3, 3), limits(100, 50, 60));
    let of = |roles: &[Role]| callers.config.of_roles(roles.iter().copied().collect());
    assert_eq!(of(&[Role::Viewer]), limits(3, 3, 3));
    assert_eq!(of(&[Role::Viewer, Role::Engineer]), limits(9, 1, 1));
    assert_eq!(of(&[Role::Auditor, Role::Engineer]), limits(9, 5, 1));
}

#[test]
fn callers_with_calls_are_not_forgotten() {
    let callers = callers(limits(100, 1, 1), limits(1000, 100, 60));
    let permits: Vec<_> = (0..5).map(|n| callers.admit(&principal(&n.to_string(), Role::Viewer), 0).unwrap()).collect();
    for n in 0..5 {
        assert_eq!(refused(callers.admit(&principal(&n.to_string(), Role::Viewer), 0)), CallerLimit::PrincipalCalls);
    }
    drop(permits);
    let remembered = callers.principals.lock();
    let later = Instant::now() + FORGOTTEN_AFTER;
    assert!(remembered.values().all(|caller| caller.is_idle_since(later, FORGOTTEN_AFTER)));
}

/// However many threads ask at once, no more are admitted than may be.
#[test]
fn places_are_counted_across_threads() {
    let callers = callers(limits(100_000, 7, 1), limits(100_000, 100, 60));
    let (ada, under_way) = (principal("ada", Role::Viewer), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    if let Ok(permit) = callers.admit(&ada, MIB) {
                        assert!(under_way.fetch_add(1, Ordering::SeqCst) < 7);
                        under_way.fetch_sub(1, Ordering::SeqCst);
                        drop(permit);
                    }
                }
            });
        }
    });
    assert!(callers.admit(&ada, 0).is_ok());
}
