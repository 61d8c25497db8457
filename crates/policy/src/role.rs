//! The roles of people, and sets of them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A role of a person. Services have no role, they have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
    pub const ALL: [Self; 7] =
        [Self::Viewer, Self::Analyst, Self::Engineer, Self::Operator, Self::Auditor, Self::PrivacyOfficer, Self::Admin];

    /// The name in policies, tokens, the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Analyst => "analyst",
            Self::Engineer => "engineer",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::PrivacyOfficer => "privacy_officer",
            Self::Admin => "admin",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(name: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == name).ok_or_else(|| UnknownRole(name.to_owned()))
    }
}

impl Serialize for Role {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
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
        Role::ALL.into_iter().filter(move |role| self.contains(*role))
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
        serializer.collect_seq(self.iter())
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
        for role in Role::ALL {
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
