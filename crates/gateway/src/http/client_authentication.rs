//! `Authorization: Basic` at the token endpoint: name and secret of a client (RFC 6749 §2.3.1).

use std::borrow::Cow;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;
use problem::{Kind, Problem};
use secrets::Secret;

use crate::user::UserName;

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Name and secret of a client, as its header says. Either may be empty.
pub(super) struct BasicCredentials {
    pub(super) client_id: String,
    pub(super) client_secret: Secret,
}

// === impl BasicCredentials ===

impl BasicCredentials {
    /// The credentials of a request. Other schemes are none: a client may send an expired token along when it asks for the next.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| basic(value.as_bytes()));
        let Some(encoded) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(wrong("is there twice"));
        }
        let decoded = BASE64.decode(encoded).map_err(|_| wrong("is not base64 after `Basic`"))?;
        let text = String::from_utf8(decoded).map_err(|_| wrong("is not UTF-8 in its base64"))?;
        let (client_id, client_secret) =
            text.split_once(':').ok_or_else(|| wrong("has no colon between client and secret"))?;
        Ok(Some(Self { client_id: client_name(client_id)?, client_secret: Secret::new(decode(client_secret)?) }))
    }
}

/// What follows the scheme, if that is `Basic`.
fn basic(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(b"Basic".len())?;
    let is_basic = scheme.eq_ignore_ascii_case(b"Basic") && rest.first().is_none_or(|byte| *byte == b' ');
    is_basic.then(|| rest.trim_ascii())
}

/// Most clients leave the encoding of §2.3.1 out. It matters for a `+`, which a name may have while no name has a space.
fn client_name(text: &str) -> Result<String, Problem> {
    if text.parse::<UserName>().is_ok() { Ok(text.to_owned()) } else { decode(text) }
}

/// `application/x-www-form-urlencoded`, undone.
fn decode(text: &str) -> Result<String, Problem> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().map(Cow::into_owned).map_err(|_| wrong("is not UTF-8 when decoded"))
}

fn wrong(detail: &str) -> Problem {
    Problem::new(Kind::InvalidArgument, detail).field("authorization")
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

    use super::*;

    fn of(values: &[&str]) -> Result<Option<(String, String)>, Problem> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        let found = BasicCredentials::of(&headers)?;
        Ok(found.map(|found| (found.client_id, found.client_secret.expose_str().unwrap().to_owned())))
    }

    fn pair(client_id: &str, client_secret: &str) -> Option<(String, String)> {
        Some((client_id.to_owned(), client_secret.to_owned()))
    }

    #[test]
    fn name_and_secret_are_decoded_from_a_form_and_then_from_base64() {
        for (text, expected) in [
            ("robot:secret", pair("robot", "secret")),
            ("ro%62ot%2Bx%40y:s%3Aecret%25+%2B", pair("robot+x@y", "s:ecret% +")),
            ("robot+x:a:b", pair("robot+x", "a:b")),
            ("robot%zz:%", pair("robot%zz", "%")),
            ("gr%C3%B6%C3%9Fe:gr\u{f6}", pair("größe", "grö")),
            (":", pair("", "")),
            ("robot:", pair("robot", "")),
        ] {
            for encoded in [STANDARD.encode(text), STANDARD_NO_PAD.encode(text)] {
                assert_eq!(of(&[&format!("Basic {encoded}")]).unwrap(), expected, "{text}");
                assert_eq!(of(&[&format!("basic  {encoded} ")]).unwrap(), expected, "{text}");
            }
        }
    }

    #[test]
    fn another_scheme_is_no_client() {
        for values in [&[][..], &["Bearer x"], &["Basicx dTpw"], &["Bas"], &["dTpw"], &["Bearer a", "Digest b"]] {
            assert_eq!(of(values).unwrap(), None, "{values:?}");
        }
        assert_eq!(of(&["Bearer x", "Basic dTpw"]).unwrap(), pair("u", "p"));
    }

    #[test]
    fn what_is_malformed_is_named() {
        let no_utf8 = STANDARD.encode(b"\xff:x");
        let no_colon = STANDARD.encode("robot");
        let no_utf8_decoded = STANDARD.encode("robot:%ff");
        for value in ["", "!", "dTp", "dTpw, Basic dTpw", &no_utf8, &no_colon, &no_utf8_decoded] {
            let problem = of(&[&format!("Basic {value}")]).unwrap_err();
            assert_eq!(
                (problem.kind(), problem.field_name()),
                (Kind::InvalidArgument, Some("authorization")),
                "{value}"
            );
        }
        assert!(of(&["Basic dTpw", "Basic dTpw"]).is_err());
    }
}
