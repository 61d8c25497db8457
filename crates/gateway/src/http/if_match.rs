//! `ETag` and `If-Match` (RFC 9110, 8.8.3 and 13.1.1): a change is made of what its caller has seen, or not at all.

use axum::extract::FromRequestParts;
use http::{HeaderMap, HeaderValue, header, request::Parts};
use problem::{Kind, Problem};

use crate::user::{ExpectedState, User};

/// Elements of a list may be empty.
const BETWEEN: [char; 3] = [',', ' ', '\t'];

/// The state that `If-Match` asks for; any, if there is none.
pub struct IfMatch(pub ExpectedState);

/// The state of a user as a header.
pub(super) fn etag(user: &User) -> Result<(header::HeaderName, HeaderValue), Problem> {
    let tag = HeaderValue::try_from(format!("\"{}\"", user.state_tag())).map_err(Problem::internal)?;
    Ok((header::ETAG, tag))
}

// === impl IfMatch ===

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = problem::Api;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, problem::Api> {
        let wrong = || Problem::new(Kind::InvalidArgument, "wants entity tags in quotes, or *").field("If-Match");
        Ok(Self(expected(&parts.headers).ok_or_else(wrong)?))
    }
}

fn expected(headers: &HeaderMap) -> Option<ExpectedState> {
    let mut lists = headers.get_all(header::IF_MATCH).iter().peekable();
    if lists.peek().is_none() {
        return Some(ExpectedState::Any);
    }
    let mut tags = Vec::new();
    for list in lists {
        let list = list.to_str().ok()?.trim();
        if list == "*" {
            return Some(ExpectedState::Any);
        }
        tags.extend(strong_tags(list)?);
    }
    Some(ExpectedState::OneOf(tags))
}

/// The tags of a list, at least one. A weak one is left out: it says that two states are as good as the same, and here that is not
/// enough.
fn strong_tags(list: &str) -> Option<Vec<String>> {
    let (mut tags, mut rest) = (Vec::new(), list.trim_start_matches(BETWEEN));
    loop {
        let (is_weak, quoted) = rest.strip_prefix("W/").map_or((false, rest), |quoted| (true, quoted));
        let (tag, after) = quoted.strip_prefix('"')?.split_once('"')?;
        if !is_weak {
            tags.push(tag.to_owned());
        }
        rest = after.trim_start_matches(BETWEEN);
        if rest.is_empty() {
            return Some(tags);
        }
        if !after.trim_start().starts_with(',') {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_from_every_form_of_the_header() {
        let expected = |values: &[&str]| {
            let values = values.iter().map(|value| (header::IF_MATCH, HeaderValue::from_str(value).unwrap()));
            expected(&values.collect())
        };
        let one_of = |tags: &[&str]| Some(ExpectedState::OneOf(tags.iter().map(|tag| (*tag).to_owned()).collect()));
        assert_eq!(expected(&[]), Some(ExpectedState::Any));
        assert_eq!(expected(&[" * "]), Some(ExpectedState::Any));
        assert_eq!(expected(&["\"a\""]), one_of(&["a"]));
        assert_eq!(expected(&["\"a,b\" ,\"\",  W/\"c\", \"W/\""]), one_of(&["a,b", "", "W/"]));
        assert_eq!(expected(&["\"a\"", ", \"b\",,"]), one_of(&["a", "b"]));
        assert_eq!(expected(&["W/\"a\""]), one_of(&[]), "it fits nothing");
        for wrong in ["", "a", "\"a", "a\"", "\"a\" \"b\"", ",", "*, \"a\"", "w/\"a\""] {
            assert_eq!(expected(&[wrong]), None, "{wrong:?}");
        }
    }
}
