//! The roles of people, and sets of them.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use strum::VariantArray;

/// A role of a person. Services have no role, they have a name.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "snake_case", parse_err_ty = UnknownRole, parse_err_fn = UnknownRole::named)]
pub enum Role {
    /// Reads all, changes nothing.
    Viewer,
    /// Uses models and reads decisions.
    Analyst,
    /// An analyst who also changes models and features.
    Engineer,
    /// Runs the platform: replicas, backups, key status.
    Operator,
    /// Reads and proves the audit log.
    Auditor,
    /// Answers the requests of data subjects.
    PrivacyOfficer,
    /// Users, roles, keys, restores; not the data.
    Admin,
}

/// A word that names no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no role is called {0:?}; there are viewer, analyst, engineer, operator, auditor, privacy_officer and admin")]
pub struct UnknownRole(pub String);

/// A set of roles. On the wire a list of names; names of a later version are skipped, since they can grant nothing here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Roles(u8);

// === impl Role ===

impl Role {
    /// Every role, in the order of the specification's table.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name in policies, tokens, the database and the API.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl UnknownRole {
    fn named(word: &str) -> Self {
        Self(word.to_owned())
    }
}

// === impl Roles ===

impl Roles {
    /// How many different sets there are.
    pub(crate) const COUNT: usize = 1 << Role::ALL.len();

    /// Whether the role is in the set.
    pub fn contains(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }

    /// The roles, in the order of [`Role::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.iter().copied().filter(move |role| self.contains(*role))
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// A number below [`Roles::COUNT`], different for every set.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |set, role| set | role.bit()))
    }
}

impl From<Role> for Roles {
    fn from(role: Role) -> Self {
        Self(role.bit())
    }
}

impl Serialize for Roles {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Role::as_str))
    }
}

impl<'de> Deserialize<'de> for Roles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        Ok(names.iter().filter_map(|name| name.parse::<Role>().ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_is_read_back_from_its_name() {
        for role in Role::ALL.iter().copied() {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("Admin".parse::<Role>().is_err(), "names are exact");
    }

    #[test]
    fn an_unknown_name_in_a_set_grants_nothing() {
        let roles: Roles = serde_json::from_str(r#"["viewer", "superuser", "viewer"]"#).unwrap();
        assert_eq!(roles, Roles::from(Role::Viewer));
        assert_eq!(serde_json::to_string(&roles).unwrap(), r#"["viewer"]"#);
    }
}
