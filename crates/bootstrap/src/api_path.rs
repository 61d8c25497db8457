//! The path of a call, in which a text from outside is one segment or one value and never more.

use std::fmt;

use anyhow::ensure;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// All but the unreserved characters (RFC 3986, 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A path below the front door, with its query. Texts of the program are taken as they are; every other text is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiPath {
    path: String,
    query: String,
}

// === impl ApiPath ===

impl ApiPath {
    /// With one more segment, whatever is in it.
    ///
    /// # Errors
    /// The text is empty, `.` or `..`: a client or server would take such a segment out again.
    pub fn segment(mut self, text: &str) -> anyhow::Result<Self> {
        ensure!(!matches!(text, "" | "." | ".."), "{text:?} is not the name of anything");
        self.path.push('/');
        self.path.extend(utf8_percent_encode(text, RESERVED));
        Ok(self)
    }

    /// With more of the route.
    #[must_use]
    pub fn then(mut self, route: &'static str) -> Self {
        self.path.push_str(route);
        self
    }

    /// With one more parameter.
    #[must_use]
    pub fn query(mut self, name: &'static str, value: &str) -> Self {
        self.query.push(if self.query.is_empty() { '?' } else { '&' });
        self.query.push_str(name);
        self.query.push('=');
        self.query.extend(utf8_percent_encode(value, RESERVED));
        self
    }
}

impl From<&'static str> for ApiPath {
    fn from(route: &'static str) -> Self {
        Self { path: route.to_owned(), query: String::new() }
    }
}

impl From<&Self> for ApiPath {
    fn from(path: &Self) -> Self {
        path.clone()
    }
}

impl fmt::Display for ApiPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", self.path, self.query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(model: &str) -> anyhow::Result<String> {
        Ok(ApiPath::from("/v2/repository/models").segment(model)?.then("/load").to_string())
    }

    /// Proves that a name cannot become another route, however it is written.
    #[test]
    fn a_name_stays_one_segment() {
        for (name, encoded) in [
            ("digits-mlp", "digits-mlp"),
            ("digits-mlp/unload#", "digits-mlp%2Funload%23"),
            ("a?b&c=d", "a%3Fb%26c%3Dd"),
            ("%2e%2e", "%252e%252e"),
            ("a\\b;c\r\n", "a%5Cb%3Bc%0D%0A"),
            ("...", "..."),
            ("é", "%C3%A9"),
        ] {
            assert_eq!(load(name).unwrap(), format!("/v2/repository/models/{encoded}/load"));
        }
        for nothing in ["", ".", ".."] {
            assert!(load(nothing).is_err(), "{nothing:?}");
        }
    }

    #[test]
    fn a_parameter_stays_one_value() {
        let path = ApiPath::from("/api/admin/users").query("limit", "10").query("cursor", "a&limit=1#/+");
        assert_eq!(path.to_string(), "/api/admin/users?limit=10&cursor=a%26limit%3D1%23%2F%2B");
        assert_eq!(path.segment("b").unwrap().to_string(), "/api/admin/users/b?limit=10&cursor=a%26limit%3D1%23%2F%2B");
    }
}
