//! Users, people and machines, and the rules for them that need no database.

use std::{fmt, str::FromStr};

use policy::{Role, Roles};
use strum::{EnumString, IntoStaticStr};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// How many users one installation can have. All of them are kept in memory.
pub const USERS_MAX: i64 = 100_000;

const NAME_LENGTH_MAX: usize = 64;
const TENANT_LENGTH_MAX: usize = 63;

/// A name to sign in with: 1 to 64 of `A-Z a-z 0-9 . _ @ + -`, the first a letter or digit. Case is kept and ignored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserName(String);

/// Whose users and data belong together: 1 to 63 of `a-z 0-9 -`, the first a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tenant(String);

/// What signs in, with its name in the API and the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, EnumString)]
#[strum(
    serialize_all = "snake_case",
    parse_err_ty = BadName,
    parse_err_fn = unknown_kind
)]
pub enum UserKind {
    /// With a password; gets refresh tokens.
    Person,
    /// With a client secret, made by the gateway and shown once.
    Machine,
}

/// A user as others may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Never used twice.
    pub id: Uuid,
    /// To sign in with.
    pub name: UserName,
    /// A person or a machine.
    pub kind: UserKind,
    /// The one tenant.
    pub tenant: Tenant,
    /// What it may do.
    pub roles: Roles,
    /// May not sign in; its tokens are revoked.
    pub disabled: bool,
    /// Rises with everything that changes what it may do; tokens carry the version that they were issued under.
    pub authz_version: i64,
    /// Tokens of lower versions are revoked.
    pub tokens_since: i64,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was last altered.
    pub updated_at: OffsetDateTime,
}

/// Which state of a user a change is meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpectedState {
    /// Whatever it is.
    Any,
    /// One with one of these tags.
    OneOf(Vec<String>),
}

/// What an administrator alters; absent is unchanged. Cannot be printed, because of the credential.
#[derive(Clone, Default)]
pub struct UserChange {
    /// The new tenant.
    pub tenant: Option<Tenant>,
    /// The new roles, all of them.
    pub roles: Option<Roles>,
    /// Whether it may sign in.
    pub disabled: Option<bool>,
    /// The new password's hash, or the new client secret's.
    pub credential: Option<String>,
}

/// A text that cannot be a name or a tenant, with the rule it breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadName(&'static str);

// === impl UserName ===

impl UserName {
    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._@+-".contains(&byte);
        if is_word(text, NAME_LENGTH_MAX, allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadName("wants 1 to 64 of A-Z a-z 0-9 . _ @ + - beginning with a letter or digit"))
        }
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Tenant ===

impl Tenant {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl FromStr for Tenant {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if is_word(text, TENANT_LENGTH_MAX, allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadName("wants 1 to 63 of a-z 0-9 - beginning with a letter or digit"))
        }
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl User ===

impl User {
    /// Whether this user could administer users right now.
    pub fn is_active_admin(&self) -> bool {
        !self.disabled && self.roles.contains(Role::Admin)
    }

    /// Another one after each change of the user.
    pub fn state_tag(&self) -> String {
        format!("{:x}", self.updated_at.unix_timestamp_nanos() / 1_000)
    }

    /// Notes that the user is altered. The clock of another gateway may have been ahead, and yet the state is another one.
    pub fn mark_updated(&mut self, now: OffsetDateTime) {
        self.updated_at = now.max(self.updated_at + Duration::MICROSECOND);
    }

    /// Revokes every token issued so far.
    pub fn end_tokens(&mut self) {
        self.authz_version += 1;
        self.tokens_since = self.authz_version;
    }
}

// === impl ExpectedState ===

impl ExpectedState {
    /// Whether the user is in it.
    pub fn is_of(&self, user: &User) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(tags) => tags.contains(&user.state_tag()),
        }
    }
}

// === impl UserChange ===

impl UserChange {
    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.tenant.is_none() && self.roles.is_none() && self.disabled.is_none() && self.credential.is_none()
    }

    /// The user after the change. `authz_version` rises when passports issued so far have outdated claims.
    pub fn applied_to(&self, user: &User, now: OffsetDateTime) -> User {
        let mut changed = user.clone();
        changed.tenant = self.tenant.clone().unwrap_or(changed.tenant);
        changed.roles = self.roles.unwrap_or(changed.roles);
        changed.disabled = self.disabled.unwrap_or(changed.disabled);
        if changed.roles != user.roles || changed.tenant != user.tenant {
            changed.authz_version += 1;
        }
        if self.ends_sessions(user) {
            changed.end_tokens();
        }
        changed.mark_updated(now);
        changed
    }

    /// Whether tokens and sessions are revoked: by another password, not by other roles.
    pub fn ends_sessions(&self, user: &User) -> bool {
        self.credential.is_some() || (self.disabled == Some(true) && !user.disabled)
    }
}

fn unknown_kind(_: &str) -> BadName {
    BadName("wants person or machine")
}

fn is_word(text: &str, length_max: usize, allowed: impl Fn(u8) -> bool) -> bool {
    text.len() <= length_max
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        User {
            id: Uuid::nil(),
            name: "ada".parse().unwrap(),
            kind: UserKind::Person,
            tenant: Tenant::default(),
            roles: Roles::from(Role::Viewer),
            disabled: false,
            authz_version: 7,
            tokens_since: 3,
            created_at: OffsetDateTime::UNIX_EPOCH,
            updated_at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn names_are_words_without_anything_that_logs_or_sql_interpret() {
        for good in ["a", "Ada.Lovelace+ml@example-1.org", "0", &"a".repeat(64)] {
            assert_eq!(good.parse::<UserName>().unwrap().as_str(), good);
        }
        for bad in ["", ".a", "-a", "a b", "a\0", "a\n", "ä", "a'--", &"a".repeat(65)] {
            assert!(bad.parse::<UserName>().is_err(), "{bad:?}");
        }
        assert!("A".parse::<Tenant>().is_err());
        assert!("a".repeat(63).parse::<Tenant>().is_ok());
        assert!("a".repeat(64).parse::<Tenant>().is_err());
    }

    #[test]
    fn other_rights_raise_the_version_and_another_proof_ends_the_tokens() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let cases = [
            (UserChange::default(), 7, 3),
            (UserChange { roles: Some(Roles::from(Role::Viewer)), ..Default::default() }, 7, 3),
            (UserChange { disabled: Some(false), ..Default::default() }, 7, 3),
            (UserChange { roles: Some(Roles::default()), ..Default::default() }, 8, 3),
            (UserChange { tenant: Some("b".parse().unwrap()), ..Default::default() }, 8, 3),
            (UserChange { disabled: Some(true), ..Default::default() }, 8, 8),
            (UserChange { credential: Some("x".into()), ..Default::default() }, 8, 8),
            (UserChange { credential: Some("x".into()), roles: Some(Roles::default()), ..Default::default() }, 9, 9),
        ];
        for (case, (change, version, since)) in cases.into_iter().enumerate() {
            let after = change.applied_to(&user(), now);
            assert_eq!((after.authz_version, after.tokens_since), (version, since), "case {case}");
            assert_eq!(change.ends_sessions(&user()), since > 3, "case {case}");
        }
    }

    /// Also when the clock has not moved, or back.
    #[test]
    fn every_change_gives_another_state() {
        let before = user();
        let expected = ExpectedState::OneOf(vec!["x".into(), before.state_tag()]);
        assert!(expected.is_of(&before) && ExpectedState::Any.is_of(&before));
        for now in [OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH - Duration::DAY] {
            let after = UserChange { disabled: Some(false), ..Default::default() }.applied_to(&before, now);
            assert!(!expected.is_of(&after) && after.updated_at > before.updated_at, "{after:?}");
        }
    }
}
