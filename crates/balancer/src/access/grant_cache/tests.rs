use http::{HeaderValue, Method};

use super::{
    super::{
        grant::GrantRequest,
        revocation_log::{FINAL, Revoked},
    },
    *,
};
use crate::callers::Principal;

fn key(token: &str) -> GrantKey {
    GrantKey::new(GrantRequest { token, audience: "serving", request: None })
}

fn grant(cache: &GrantCache, subject: &str, life: Duration) -> GrantResult {
    let now = Instant::now();
    Ok(Arc::new(Grant {
        passport: HeaderValue::from_static("passport"),
        expires: now + life,
        received: now,
        principal: Principal::named(subject),
        session_id: format!("session of {subject}"),
        token_id: format!("token of {subject}"),
        authz_version: 1,
        feed_position: 0,
        epoch: cache.epoch(),
        is_stale: false,
    }))
}

fn revoke(cache: &GrantCache, revoked: Revoked) -> usize {
    cache.revoke(&Revocation { revoked, authz_version: FINAL, feed_position: 1 }, Instant::now())
}

fn store(cache: &GrantCache, token: &str, subject: &str) {
    let answer = grant(cache, subject, Duration::from_secs(60));
    assert!(cache.finish_call(&key(token), &answer, Instant::now()));
}

#[test]
fn a_passport_is_renewed_once_at_half_its_life_and_ends_with_it() {
    let cache = GrantCache::new(100);
    store(&cache, "a", "ann");
    let now = Instant::now();
    let find = |after_s| cache.lookup(&key("a"), now + Duration::from_secs(after_s));
    assert!(matches!(find(1), Lookup::Fresh(_)));
    assert!(matches!(find(31), Lookup::RenewalDue(_)));
    assert!(matches!(find(31), Lookup::Fresh(_)), "the renewal is in flight");
    assert!(matches!(find(33), Lookup::RenewalDue(_)), "it failed, and is tried again");
    assert!(matches!(find(61), Lookup::Missing));
    let other = GrantKey::new(GrantRequest { token: "a", audience: "gateway", request: None });
    assert!(matches!(cache.lookup(&other, now), Lookup::Missing), "another audience");
}

#[test]
fn a_rejection_is_cached_for_a_second() {
    let cache = GrantCache::new(100);
    let now = Instant::now();
    for error in [AccessError::Unauthenticated, AccessError::PermissionDenied] {
        assert!(cache.finish_call(&key("a"), &Err(error), now));
        let found = cache.lookup(&key("a"), now + Duration::from_millis(900));
        assert!(matches!(found, Lookup::Rejected(found) if found == error));
        assert!(matches!(cache.lookup(&key("a"), now + Duration::from_millis(1100)), Lookup::Missing));
    }
}

/// One allowed request opens no other: not another method, path or audience, nor a passport.
#[test]
fn a_grant_for_one_request_is_found_for_no_other() {
    let cache = GrantCache::new(100);
    let request =
        |audience, method, path| GrantKey::new(GrantRequest { token: "a", audience, request: Some((method, path)) });
    let allowed = request("mlflow", &Method::GET, "/a");
    let answer = grant(&cache, "ann", Duration::from_secs(60));
    assert!(cache.finish_call(&allowed, &answer, Instant::now()));
    assert!(matches!(cache.lookup(&allowed, Instant::now()), Lookup::Fresh(_)));
    for other in [
        request("mlflow", &Method::POST, "/a"),
        request("mlflow", &Method::GET, "/b"),
        request("mlflow", &Method::GET, "/a/"),
        request("mlflow", &Method::GET, ""),
        request("serving", &Method::GET, "/a"),
        GrantKey::new(GrantRequest { token: "a", audience: "mlflow", request: None }),
        GrantKey::new(GrantRequest { token: "b", audience: "mlflow", request: Some((&Method::GET, "/a")) }),
    ] {
        assert!(matches!(cache.lookup(&other, Instant::now()), Lookup::Missing), "{other:?}");
    }
    assert_eq!(revoke(&cache, Revoked::Subject("ann".into())), 1, "it is revoked like a passport");
}

#[test]
fn a_revocation_removes_exactly_what_it_names() {
    for revoked in [
        Revoked::Subject("ann".into()),
        Revoked::Session("session of ann".into()),
        Revoked::Token("token of ann".into()),
    ] {
        let cache = GrantCache::new(100);
        store(&cache, "a", "ann");
        store(&cache, "b", "bob");
        assert_eq!(revoke(&cache, revoked), 1);
        assert!(matches!(cache.lookup(&key("a"), Instant::now()), Lookup::Missing));
        assert!(matches!(cache.lookup(&key("b"), Instant::now()), Lookup::Fresh(_)));
    }
}

/// The second gateway to tell of a change must not cost the grants that were given since.
#[test]
fn a_change_of_rights_removes_older_grants_only() {
    let cache = GrantCache::new(100);
    let change = |version| {
        let revoked = Revoked::Subject("ann".into());
        cache.revoke(&Revocation { revoked, authz_version: version, feed_position: version }, Instant::now())
    };
    store(&cache, "a", "ann");
    assert_eq!(change(1), 0, "it was granted by this version");
    assert_eq!(change(2), 1);
    let late = grant(&cache, "ann", Duration::from_secs(60));
    assert!(!cache.finish_call(&key("a"), &late, Instant::now()), "by a gateway that does not know yet");
}

/// Neither stored nor off the list: the same call asks once more.
#[test]
fn an_answer_that_a_revocation_overtook_is_not_cached() {
    let cache = GrantCache::new(100);
    let (_receiver, _sender) = cache.join_call(&key("a"));
    let ann = grant(&cache, "ann", Duration::from_secs(60));
    revoke(&cache, Revoked::Token("token of ann".into()));
    assert!(!cache.finish_call(&key("a"), &ann, Instant::now()));
    assert!(matches!(cache.lookup(&key("a"), Instant::now()), Lookup::Missing));
    assert!(cache.join_call(&key("a")).1.is_none(), "the call goes on");
    assert!(cache.finish_call(&key("a"), &Err(AccessError::Unauthenticated), Instant::now()));
    assert!(matches!(cache.lookup(&key("a"), Instant::now()), Lookup::Rejected(_)));
}

#[test]
fn a_new_epoch_makes_every_grant_stale() {
    let cache = GrantCache::new(100);
    let is_stale = |token: &str, now| matches!(cache.lookup(&key(token), now), Lookup::Stale);
    store(&cache, "a", "ann");
    let late = grant(&cache, "bob", Duration::from_secs(60));
    cache.make_all_stale(0, Instant::now());
    assert!(cache.finish_call(&key("b"), &late, Instant::now()));
    assert!(is_stale("b", Instant::now()), "asked for before the epoch began");
    assert!(is_stale("a", Instant::now()));
    assert!(cache.serve_stale(&key("a"), Instant::now()).is_some());
    assert!(matches!(cache.lookup(&key("a"), Instant::now()), Lookup::Fresh(_)), "no gateway: it serves for a moment");
    assert!(is_stale("a", Instant::now() + RETRY_AFTER));
    let (revoked, now) = (Revoked::Subject("ann".into()), Instant::now());
    cache.revoke(&Revocation { revoked, authz_version: 2, feed_position: 1 }, now);
    assert!(cache.serve_stale(&key("a"), Instant::now()).is_none(), "it was revoked while a gateway was asked");
    let mut renewed = grant(&cache, "ann", Duration::from_secs(60));
    Arc::get_mut(renewed.as_mut().unwrap()).unwrap().authz_version = 2;
    assert!(cache.finish_call(&key("a"), &renewed, Instant::now()));
    assert!(matches!(cache.lookup(&key("a"), Instant::now()), Lookup::Fresh(_)));
}

#[test]
fn a_stale_grant_is_renewed_soon() {
    let cache = GrantCache::new(100);
    let mut answer = grant(&cache, "ann", Duration::from_secs(60));
    Arc::get_mut(answer.as_mut().unwrap()).unwrap().is_stale = true;
    let now = Instant::now();
    assert!(cache.finish_call(&key("a"), &answer, now));
    assert!(matches!(cache.lookup(&key("a"), now), Lookup::Fresh(_)));
    assert!(matches!(cache.lookup(&key("a"), now + RETRY_AFTER), Lookup::RenewalDue(_)));
}

#[test]
fn the_grant_cache_is_bounded() {
    let cache = GrantCache::new(160);
    for n in 0..1000 {
        store(&cache, &format!("token {n}"), "ann");
    }
    let count: usize = cache.shards.iter().map(|shard| shard.lock().entries.len()).sum();
    assert!(count <= 160, "{count}");
}

#[test]
fn callers_of_one_key_share_one_call() {
    let cache = GrantCache::new(100);
    let (_receiver, sender) = cache.join_call(&key("a"));
    let (joined, no_sender) = cache.join_call(&key("a"));
    assert!(no_sender.is_none());
    assert!(cache.join_call(&key("b")).1.is_some());
    sender.unwrap().send(Some(Err(AccessError::Unauthenticated))).unwrap();
    assert!(joined.borrow().is_some());
    assert!(cache.finish_call(&key("a"), &Err(AccessError::Unavailable), Instant::now()));
    assert!(cache.join_call(&key("a")).1.is_some(), "the call has ended");
}
