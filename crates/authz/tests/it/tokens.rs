//! Tokens that must be accepted, and keys.

use authz::{AccessTokenKeys, KeyError, LEEWAY_S, PassportKeys, SigningKey, TokenError, jwks_json};
use policy::{Role, Roles};

use crate::support::{Gateway, NOW, access_claims, claims, payload};

#[test]
fn what_is_signed_is_verified_and_says_the_same() {
    let gateway = Gateway::new();
    let signed = claims([Role::Analyst, Role::Operator].into_iter().collect::<Roles>());
    let passport = gateway.key.sign(&signed).unwrap();
    assert!(passport.len() < 700, "a passport travels with every call: {}", passport.len());
    assert_eq!(gateway.keys.verify(&passport, "serving", NOW), Ok(signed));

    let access_keys = AccessTokenKeys::default();
    access_keys.replace(&jwks_json(&[gateway.key.public().clone()])).unwrap();
    let token = gateway.key.sign(&access_claims()).unwrap();
    assert_eq!(access_keys.verify(&token, NOW), Ok(access_claims()));
}

#[test]
fn an_expired_token_still_proves_its_owner_if_a_known_key_signed_it() {
    let (gateway, other) = (Gateway::new(), Gateway::new());
    let access_keys = AccessTokenKeys::default();
    access_keys.replace(&jwks_json(&[gateway.key.public().clone()])).unwrap();
    let token = gateway.key.sign(&access_claims()).unwrap();
    assert_eq!(access_keys.verify(&token, NOW + 700), Err(TokenError::Expired));
    assert_eq!(access_keys.claims_if_signed(&token), Ok(access_claims()));
    assert_eq!(access_keys.claims_if_signed(&other.key.sign(&access_claims()).unwrap()), Err(TokenError::UnknownKey));
    assert_eq!(
        access_keys.claims_if_signed(&gateway.key.sign(&claims(Role::Viewer)).unwrap()),
        Err(TokenError::WrongType)
    );
}

#[test]
fn a_hand_made_token_is_accepted() {
    // The attacks below start from this one, so it must be good.
    let gateway = Gateway::new();
    let passport = gateway.sign_raw(&gateway.header().to_string(), &payload().to_string());
    assert_eq!(gateway.keys.verify(&passport, "serving", NOW), Ok(claims(Role::Analyst)));
}

#[test]
fn one_kind_never_passes_for_the_other() {
    // Same key, and even the same audience: only the type of token differs.
    let gateway = Gateway::new();
    let access_keys = AccessTokenKeys::default();
    access_keys.replace(&jwks_json(&[gateway.key.public().clone()])).unwrap();
    let mut passport_claims = claims(Role::Admin);
    passport_claims.aud = authz::ACCESS_TOKEN_AUDIENCE.into();
    let mut token_claims = access_claims();
    token_claims.aud = "serving".into();

    let passport = gateway.key.sign(&passport_claims).unwrap();
    let token = gateway.key.sign(&token_claims).unwrap();
    assert_eq!(access_keys.verify(&passport, NOW), Err(TokenError::WrongType));
    assert_eq!(gateway.keys.verify(&token, "serving", NOW), Err(TokenError::WrongType));
}

#[test]
fn a_token_holds_from_nbf_to_exp_give_or_take_the_leeway() {
    let gateway = Gateway::new();
    let mut later = claims(Role::Viewer);
    later.nbf = NOW + 10;
    let passport = gateway.key.sign(&later).unwrap();
    let at = |now: u64| gateway.keys.verify(&passport, "serving", now).map(|_| ());
    assert_eq!(at(NOW + 10 - LEEWAY_S - 1), Err(TokenError::NotYet));
    assert_eq!(at(NOW + 10 - LEEWAY_S), Ok(()));
    assert_eq!(at(NOW + 60 + LEEWAY_S - 1), Ok(()));
    assert_eq!(at(NOW + 60 + LEEWAY_S), Err(TokenError::Expired));
    assert_eq!(at(u64::MAX), Err(TokenError::Expired));
}

#[test]
fn claims_that_no_verifier_accepts_are_not_signed() {
    let gateway = Gateway::new();
    let mut long = claims(Role::Viewer);
    long.exp = long.iat + 61;
    assert!(matches!(gateway.key.sign(&long), Err(KeyError::Lifetime)));
    let mut over = access_claims();
    over.nbf = over.exp;
    assert!(matches!(gateway.key.sign(&over), Err(KeyError::Lifetime)));
}

/// The key and its thumbprint of RFC 8037, appendices A.2 and A.3.
#[test]
fn kid_is_the_thumbprint_of_rfc_7638() {
    let jwks = |kid: &str| {
        format!(
            r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"{kid}"}}]}}"#
        )
    };
    let keys = PassportKeys::default();
    assert_eq!(keys.replace(&jwks("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k")).unwrap(), 1);
    assert!(matches!(
        keys.replace(&jwks("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4K")),
        Err(KeyError::NotAThumbprint)
    ));
}

#[test]
fn private_keys_are_ed25519_in_pkcs8_and_never_shown() {
    let pem = authz::generate_pkcs8_pem().unwrap();
    let key = SigningKey::from_pkcs8_pem(&pem).unwrap();
    let line = pem.lines().nth(1).unwrap();
    assert!(!format!("{key:?}").contains(line));
    assert_ne!(SigningKey::from_pkcs8_pem(&authz::generate_pkcs8_pem().unwrap()).unwrap().public(), key.public());
    // A P-256 key, and things that are no key.
    let p256 =
        "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n-----END PRIVATE KEY-----\n";
    for text in [p256, "", "-----BEGIN PRIVATE KEY-----\n", &pem.replace("PRIVATE", "PUBLIC")] {
        assert!(SigningKey::from_pkcs8_pem(text).is_err(), "{text}");
    }
}

#[test]
fn a_bad_key_set_leaves_the_former_keys() {
    let gateway = Gateway::new();
    let passport = gateway.passport(Role::Viewer);
    let many = jwks_json(&(0..17).map(|_| Gateway::new().key.public().clone()).collect::<Vec<_>>());
    let refused = [
        "",
        "[]",
        "{}",
        r#"{"keys":[]}"#,
        r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"x"}]}"#,
        r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AQAB","kid":"x"}]}"#,
        r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"x"}]}"#,
        &many,
        &format!(r#"{{"keys":[],"pad":"{}"}}"#, "x".repeat(70_000)),
    ];
    for jwks in refused {
        assert!(gateway.keys.replace(jwks).is_err(), "{jwks}");
        assert!(gateway.keys.verify(&passport, "serving", NOW).is_ok(), "{jwks}");
    }
}

#[test]
fn keys_rotate_without_a_gap() {
    let (old, new) = (Gateway::new(), Gateway::new());
    let keys = &old.keys;
    let both = jwks_json(&[old.key.public().clone(), new.key.public().clone()]);
    let (before, after) = (old.passport(Role::Viewer), new.passport(Role::Viewer));
    assert_eq!(keys.verify(&after, "serving", NOW), Err(TokenError::UnknownKey));
    assert_eq!(keys.replace(&both).unwrap(), 2);
    assert!(keys.verify(&before, "serving", NOW).is_ok());
    assert!(keys.verify(&after, "serving", NOW).is_ok());
    keys.replace(&jwks_json(&[new.key.public().clone()])).unwrap();
    assert_eq!(keys.verify(&before, "serving", NOW), Err(TokenError::UnknownKey));
    assert!(keys.verify(&after, "serving", NOW).is_ok());
}

#[tokio::test]
async fn an_unknown_key_wakes_the_task_that_fetches_keys() {
    let gateway = Gateway::new();
    assert!(PassportKeys::default().is_empty());
    assert!(!gateway.keys.is_empty());
    let foreign = Gateway::new().passport(Role::Viewer);
    assert_eq!(gateway.keys.verify(&foreign, "serving", NOW), Err(TokenError::UnknownKey));
    // Signalled before a task waits, and once however often it happened.
    assert_eq!(gateway.keys.verify(&foreign, "serving", NOW), Err(TokenError::UnknownKey));
    gateway.keys.wait_for_unknown_key().await;
    let again = tokio::time::timeout(std::time::Duration::from_millis(20), gateway.keys.wait_for_unknown_key()).await;
    assert!(again.is_err());
}
