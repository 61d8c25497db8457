//! Tokens that must be refused, and why exactly: a corpus of the known attacks on JWT verifiers.

use authz::{LEEWAY_S, TOKEN_BYTES_MAX, TokenError};
use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use policy::Role;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{Gateway, NOW, claims, payload};

fn verdict(gateway: &Gateway, token: &str) -> TokenError {
    gateway.keys.verify(token, "serving", NOW).expect_err("was accepted")
}

fn encode(header: &Value, payload: &Value) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload.to_string()))
}

fn with_header(gateway: &Gateway, change: impl FnOnce(&mut Value)) -> TokenError {
    let mut header = gateway.header();
    change(&mut header);
    verdict(gateway, &gateway.sign_raw(&header.to_string(), &payload().to_string()))
}

fn with_payload(gateway: &Gateway, change: impl FnOnce(&mut Value)) -> TokenError {
    let mut changed = payload();
    change(&mut changed);
    verdict(gateway, &gateway.sign_raw(&gateway.header().to_string(), &changed.to_string()))
}

#[test]
fn no_algorithm_is_no_signature() {
    let gateway = Gateway::new();
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let mut header = gateway.header();
        header["alg"] = json!(alg);
        let message = encode(&header, &payload());
        assert_eq!(verdict(&gateway, &format!("{message}.")), TokenError::Malformed, "{alg}");
        let good = gateway.passport(Role::Admin);
        let signature = good.rsplit('.').next().unwrap();
        assert_eq!(verdict(&gateway, &format!("{message}.{signature}")), TokenError::Malformed, "{alg}");
    }
    assert_eq!(
        with_header(&gateway, |header| drop(header.as_object_mut().unwrap().remove("alg"))),
        TokenError::Malformed
    );
}

#[test]
fn the_public_key_is_no_hmac_secret() {
    let gateway = Gateway::new();
    let jwks: Value = serde_json::from_str(&authz::jwks_json(&[gateway.key.public().clone()])).unwrap();
    let public = gateway.pair.public_key().as_ref().to_vec();
    let as_text = jwks["keys"][0]["x"].as_str().unwrap().as_bytes().to_vec();
    for secret in [public, as_text, jwks.to_string().into_bytes()] {
        for (alg, algorithm) in [("HS256", hmac::HMAC_SHA256), ("HS512", hmac::HMAC_SHA512)] {
            let mut header = gateway.header();
            header["alg"] = json!(alg);
            let message = encode(&header, &payload());
            let tag = hmac::sign(&hmac::Key::new(algorithm, &secret), message.as_bytes());
            let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag));
            assert_eq!(verdict(&gateway, &token), TokenError::WrongAlgorithm, "{alg}");
            // The same bytes under the right algorithm are no signature either.
            let token = format!("{}.{}", encode(&gateway.header(), &payload()), URL_SAFE_NO_PAD.encode(tag));
            assert_eq!(verdict(&gateway, &token), TokenError::BadSignature, "{alg} as EdDSA");
        }
    }
}

#[test]
fn another_algorithm_is_refused_even_with_a_good_signature() {
    let gateway = Gateway::new();
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
    for alg in ["ES256", "EdDSA"] {
        let mut header = gateway.header();
        header["alg"] = json!(alg);
        let message = encode(&header, &payload());
        let signature = pair.sign(&random, message.as_bytes()).unwrap();
        let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
        let expected = if alg == "ES256" { TokenError::WrongAlgorithm } else { TokenError::BadSignature };
        assert_eq!(verdict(&gateway, &token), expected);
    }
    for alg in ["ES384", "RS256", "PS256", "HS384"] {
        assert_eq!(with_header(&gateway, |header| header["alg"] = json!(alg)), TokenError::WrongAlgorithm, "{alg}");
    }
    for alg in ["Ed25519", "eddsa", "EDDSA", "ES256K", "dir"] {
        assert_eq!(with_header(&gateway, |header| header["alg"] = json!(alg)), TokenError::Malformed, "{alg}");
    }
}

#[test]
fn a_key_in_the_header_is_not_used() {
    // The attacker signs with another key and sends it along, under the known kid and under that key's.
    let (gateway, attacker) = (Gateway::new(), Gateway::new());
    let jwks: Value = serde_json::from_str(&authz::jwks_json(&[attacker.key.public().clone()])).unwrap();
    for kid in [gateway.key.public().kid(), attacker.key.public().kid()] {
        let mut header = gateway.header();
        header["kid"] = json!(kid);
        header["jwk"] = jwks["keys"][0].clone();
        header["jku"] = json!("https://attacker.example/jwks.json");
        header["x5u"] = json!("https://attacker.example/chain.pem");
        header["x5c"] = json!(["MIIB"]);
        let token = attacker.sign_raw(&header.to_string(), &payload().to_string());
        let expected =
            if kid == gateway.key.public().kid() { TokenError::BadSignature } else { TokenError::UnknownKey };
        assert_eq!(verdict(&gateway, &token), expected);
    }
}

#[test]
fn a_foreign_signature_or_kid_is_refused() {
    let (gateway, attacker) = (Gateway::new(), Gateway::new());
    assert_eq!(verdict(&gateway, &attacker.passport(Role::Admin)), TokenError::UnknownKey);
    for kid in ["", "../../dev/null", "0", "' OR 1=1 --"] {
        assert_eq!(with_header(&gateway, |header| header["kid"] = json!(kid)), TokenError::UnknownKey, "{kid}");
    }
    assert_eq!(
        with_header(&gateway, |header| drop(header.as_object_mut().unwrap().remove("kid"))),
        TokenError::UnknownKey
    );
    assert_eq!(with_header(&gateway, |header| header["kid"] = json!(["a"])), TokenError::Malformed);
}

#[test]
fn type_must_be_exactly_ours_and_nothing_critical() {
    let gateway = Gateway::new();
    for typ in ["JWT", "jwt", "at+jwt", "Passport+JWT", "application/passport+jwt", "passport+jwt "] {
        assert_eq!(with_header(&gateway, |header| header["typ"] = json!(typ)), TokenError::WrongType, "{typ}");
    }
    assert_eq!(
        with_header(&gateway, |header| drop(header.as_object_mut().unwrap().remove("typ"))),
        TokenError::WrongType
    );
    let critical = |header: &mut Value| {
        header["crit"] = json!(["b64"]);
        header["b64"] = json!(false);
    };
    assert_eq!(with_header(&gateway, critical), TokenError::Malformed);
    assert_eq!(with_header(&gateway, |header| header["crit"] = json!([])), TokenError::Malformed);
}

#[test]
fn issuer_and_audience_must_be_exactly_ours() {
    let gateway = Gateway::new();
    for iss in [json!("rampart"), json!("https://rampart-gateway"), json!(""), json!(["another"])] {
        assert_eq!(with_payload(&gateway, |payload| payload["iss"] = iss.clone()), TokenError::WrongIssuer, "{iss}");
    }
    for aud in ["gateway", "serving ", "Serving", "", "rampart"] {
        assert_eq!(with_payload(&gateway, |payload| payload["aud"] = json!(aud)), TokenError::WrongAudience, "{aud}");
    }
    for aud in [json!(["serving"]), json!(["serving", "gateway"]), json!(null), json!(7)] {
        assert_eq!(with_payload(&gateway, |payload| payload["aud"] = aud.clone()), TokenError::Malformed, "{aud}");
    }
}

#[test]
fn time_is_checked_to_the_second() {
    let gateway = Gateway::new();
    let expired = |payload: &mut Value| {
        payload["iat"] = json!(NOW - 60);
        payload["nbf"] = json!(NOW - 60);
        payload["exp"] = json!(NOW - LEEWAY_S);
    };
    assert_eq!(with_payload(&gateway, expired), TokenError::Expired);
    assert_eq!(with_payload(&gateway, |payload| payload["nbf"] = json!(NOW + LEEWAY_S + 1)), TokenError::NotYet);
    let from_the_future = |payload: &mut Value| {
        payload["iat"] = json!(NOW + LEEWAY_S + 1);
        payload["exp"] = json!(NOW + 30);
    };
    assert_eq!(with_payload(&gateway, from_the_future), TokenError::NotYet);
    assert_eq!(with_payload(&gateway, |payload| payload["exp"] = json!(NOW + 61)), TokenError::LifetimeTooLong);
    assert_eq!(with_payload(&gateway, |payload| payload["exp"] = json!(u64::MAX)), TokenError::LifetimeTooLong);
    for exp in [json!(-1), json!("1800000060"), json!(1e30), json!(1_800_000_060.5), json!(null)] {
        assert_eq!(with_payload(&gateway, |payload| payload["exp"] = exp.clone()), TokenError::Malformed, "{exp}");
    }
}

#[test]
fn every_claim_is_needed_and_each_only_once() {
    let gateway = Gateway::new();
    for claim in payload().as_object().unwrap().keys() {
        let without = |payload: &mut Value| drop(payload.as_object_mut().unwrap().remove(claim));
        assert_eq!(with_payload(&gateway, without), TokenError::Malformed, "without {claim}");
        let value = payload()[claim].clone();
        for twice in [value.clone(), json!(null)] {
            let text = payload().to_string();
            let text = format!("{},\"{claim}\":{twice}}}", text.trim_end_matches('}'));
            let token = gateway.sign_raw(&gateway.header().to_string(), &text);
            assert_eq!(verdict(&gateway, &token), TokenError::Malformed, "{claim} twice");
        }
    }
    let header = gateway.header().to_string();
    for (name, value) in [("alg", "\"none\""), ("alg", "\"EdDSA\""), ("kid", "\"x\""), ("typ", "\"at+jwt\"")] {
        let doubled = format!("{},\"{name}\":{value}}}", header.trim_end_matches('}'));
        let token = gateway.sign_raw(&doubled, &payload().to_string());
        assert_eq!(verdict(&gateway, &token), TokenError::Malformed, "{name} twice");
    }
}

#[test]
fn size_is_limited_before_anything_is_parsed() {
    let gateway = Gateway::new();
    let padded = |length: usize| {
        let mut long = payload();
        long["pad"] = json!("x".repeat(length));
        gateway.sign_raw(&gateway.header().to_string(), &long.to_string())
    };
    let base = padded(0).len();
    let fits =
        (0..).map(|more| padded((TOKEN_BYTES_MAX - base) * 3 / 4 - more)).find(|token| token.len() <= TOKEN_BYTES_MAX);
    assert!(gateway.keys.verify(&fits.unwrap(), "serving", NOW).is_ok(), "the longest that is allowed");
    assert_eq!(verdict(&gateway, &padded(TOKEN_BYTES_MAX)), TokenError::TooLong);
    assert_eq!(verdict(&gateway, &"A".repeat(1 << 20)), TokenError::TooLong);
    assert_eq!(verdict(&gateway, &".".repeat(TOKEN_BYTES_MAX + 1)), TokenError::TooLong);
}

#[test]
fn wrong_shapes_are_refused() {
    let gateway = Gateway::new();
    let good = gateway.passport(Role::Admin);
    let parts: Vec<&str> = good.split('.').collect();
    let deep = gateway.sign_raw(&gateway.header().to_string(), &format!("{}1{}", "[".repeat(900), "]".repeat(900)));
    let shapes = [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        parts[0].into(),
        format!("{}.{}", parts[0], parts[1]),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{}", parts[2]),
        format!("{good}="),
        format!("{good}\n"),
        format!(" {good}"),
        format!("Bearer {good}"),
        good.replace('.', ","),
        URL_SAFE_NO_PAD.encode(&good),
        deep,
        "\u{0}".into(),
        "🦀.🦀.🦀".into(),
    ];
    for token in shapes {
        let reject = verdict(&gateway, &token);
        assert!(matches!(reject, TokenError::Malformed | TokenError::BadSignature), "{token:?}: {reject:?}");
    }
    // The same signature in another spelling is another token: base64url has one spelling here.
    let mut respelt = good.clone().into_bytes();
    let last = respelt.len() - 1;
    respelt[last] = if respelt[last] == b'A' { b'B' } else { respelt[last] + 1 };
    assert!(gateway.keys.verify(std::str::from_utf8(&respelt).unwrap(), "serving", NOW).is_err());
    assert_eq!(gateway.keys.verify(&good, "serving", NOW), Ok(claims(Role::Admin)));
}

proptest! {
    /// No single changed, lost or added byte leaves a passport good, and nothing panics.
    #[test]
    fn any_change_breaks_it(at in 0_usize..400, byte: u8, how in 0..3) {
        thread_local!(static GATEWAY: Gateway = Gateway::new());
        GATEWAY.with(|gateway| {
            let good = gateway.passport(Role::Admin);
            let mut bytes = good.clone().into_bytes();
            let at = at % bytes.len();
            match how {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
            if let Ok(text) = String::from_utf8(bytes) && text != good {
                prop_assert!(gateway.keys.verify(&text, "serving", NOW).is_err());
            }
            Ok(())
        })?;
    }

    /// Rubbish is refused without a panic.
    #[test]
    fn rubbish_is_refused(text in "\\PC{0,200}") {
        thread_local!(static GATEWAY: Gateway = Gateway::new());
        let verified = GATEWAY.with(|gateway| gateway.keys.verify(&text, "serving", NOW));
        prop_assert!(verified.is_err());
    }
}
