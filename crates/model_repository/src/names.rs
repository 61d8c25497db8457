//! Names of models and aliases, and numbers of versions: what callers and folders may write.

use std::{fmt, num::NonZeroU64};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest name of a model, alias or tensor that is accepted.
pub(crate) const NAME_LENGTH_MAX: usize = 64;

/// What [`ModelName::parse`] demands.
pub(crate) const NAME_RULE: &str = "1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit";

/// The name of a model: letters, digits, `.`, `_`, `-`, so that it is one harmless folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName(String);

/// The number of a model version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(NonZeroU64);

// === impl ModelName ===

impl ModelName {
    /// A name, if the text can be one.
    pub fn parse(text: &str) -> Option<Self> {
        let first = text.chars().next()?;
        let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        (text.len() <= NAME_LENGTH_MAX && first.is_ascii_alphanumeric() && text.chars().all(harmless))
            .then(|| Self(text.to_owned()))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for ModelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Version ===

impl Version {
    /// A version from its number as callers and folders write it: no sign, no leading zero.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
        plain.then(|| text.parse().ok().map(Self)).flatten()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!("{text:?} is not a version: a whole number from 1, in quotes"))
        })
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether an alias can be declared: it must not be taken for a version, nor be too long to be written.
pub(crate) fn is_alias(text: &str) -> bool {
    ModelName::parse(text).is_some() && Version::parse(text).is_none()
}
