use http::HeaderValue;

use super::*;
use crate::callers::Principal;

fn grant(authz_version: u64, feed_position: u64) -> Grant {
    let now = Instant::now();
    Grant {
        passport: HeaderValue::from_static("passport"),
        expires: now + Duration::from_secs(60),
        received: now,
        principal: Principal::named("ann"),
        session_id: "session".into(),
        token_id: "token".into(),
        authz_version,
        feed_position,
        epoch: 0,
        is_stale: false,
    }
}

fn revocation(revoked: Revoked, authz_version: u64, feed_position: u64) -> Revocation {
    Revocation { revoked, authz_version, feed_position }
}

#[test]
fn a_revocation_refuses_what_it_names_for_as_long_as_a_token_lives() {
    let now = Instant::now();
    for revoked in [Revoked::Token("token".into()), Revoked::Session("session".into()), Revoked::Subject("ann".into())]
    {
        let mut log = RevocationLog::default();
        assert!(log.push(&revocation(revoked.clone(), FINAL, 1), now));
        assert!(!log.push(&revocation(revoked, FINAL, 1), now), "the other gateway tells of it, too");
        assert_eq!(log.judge(&grant(7, 0), now), Verdict::Revoked);
        let other =
            Grant { principal: Principal::named("bob"), session_id: "s".into(), token_id: "t".into(), ..grant(7, 0) };
        assert_eq!(log.judge(&other, now), Verdict::Good);
        let token_life = Duration::from_secs(TokenKind::Access.lifetime_max_s());
        assert_eq!(log.judge(&grant(7, 0), now + token_life), Verdict::Revoked);
        assert_eq!(log.judge(&grant(7, 0), now + remembered()), Verdict::Good);
        assert!(log.push(&revocation(Revoked::Token("other".into()), FINAL, 2), now + remembered()));
        assert_eq!((log.by_name.len(), log.order.len()), (1, 1), "what matters no more is forgotten");
    }
}

/// After a change of rights the same token is worth a grant again, of a gateway that knows of the change.
#[test]
fn a_change_of_rights_refuses_grants_of_a_lower_version() {
    let now = Instant::now();
    let mut log = RevocationLog::default();
    let subject = |version| revocation(Revoked::Subject("ann".into()), version, version);
    assert!(log.push(&subject(5), now));
    assert_eq!(log.judge(&grant(4, 0), now), Verdict::Outdated);
    assert_eq!(log.judge(&grant(5, 0), now), Verdict::Good);
    let later = now + Duration::from_secs(100);
    assert!(log.push(&subject(6), later));
    assert!(!log.push(&subject(5), later), "a gateway that lags tells of an older one");
    assert_eq!(log.judge(&grant(5, 0), later), Verdict::Outdated);
    assert_eq!(log.judge(&grant(6, 0), later), Verdict::Good);
    log.forget_expired(now + remembered());
    assert_eq!(log.judge(&grant(5, 0), now + remembered()), Verdict::Outdated, "the newer one is remembered");
}

#[test]
fn a_gateway_that_may_lack_what_was_missed_is_doubted() {
    let now = Instant::now();
    let mut log = RevocationLog::default();
    assert_eq!(log.judge(&grant(1, 0), now), Verdict::Good);
    log.miss_up_to(10, now);
    log.miss_up_to(8, now);
    assert_eq!(log.judge(&grant(1, 9), now), Verdict::Doubtful);
    assert_eq!(log.judge(&grant(1, 10), now), Verdict::Good);
    assert_eq!(log.judge(&grant(1, 9), now + remembered()), Verdict::Good, "no token is as old");
    log.miss_up_to(3, now + remembered());
    assert_eq!(log.judge(&grant(1, 2), now + remembered()), Verdict::Doubtful);
    assert_eq!(log.judge(&grant(1, 3), now + remembered()), Verdict::Good, "a restored database counts from lower");
}

/// Beyond the bound the oldest is forgotten, and with it the trust in gateways that may lack it.
#[test]
fn what_is_forgotten_early_is_granted_by_no_gateway_that_may_lack_it() {
    let now = Instant::now();
    let mut log = RevocationLog::default();
    assert!(log.push(&revocation(Revoked::Token("token".into()), FINAL, 1), now));
    for n in 2..=REVOCATIONS_MAX {
        assert!(log.push(&revocation(Revoked::Token(format!("other {n}")), FINAL, n as u64), now));
    }
    let other = |feed_position| Grant { token_id: "good".into(), ..grant(1, feed_position) };
    assert_eq!(log.judge(&other(0), now), Verdict::Good);
    assert_eq!(log.judge(&grant(1, 0), now), Verdict::Revoked);
    assert!(log.push(&revocation(Revoked::Token("one more".into()), FINAL, REVOCATIONS_MAX as u64 + 1), now));
    assert_eq!((log.by_name.len(), log.order.len()), (REVOCATIONS_MAX, REVOCATIONS_MAX));
    assert_eq!(log.judge(&grant(1, 0), now), Verdict::Outdated);
    assert_eq!(log.judge(&other(0), now), Verdict::Outdated, "it cannot be told apart from the one forgotten");
    assert_eq!(log.judge(&other(1), now), Verdict::Good);
    assert_eq!(log.judge(&other(0), now + remembered()), Verdict::Good);
}
