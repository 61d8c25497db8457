//! Users and revocations by id, and the verdict over a token: pure, and as current as what was applied.

use std::{collections::HashMap, sync::Arc};

use authz::AccessTokenClaims;
use policy::Roles;
use time::OffsetDateTime;
use uuid::Uuid;

use super::Revocation;
use crate::{
    store::{AuthSnapshot, Change, ChangeBatch, ChangeKind, FeedEntry},
    user::{Tenant, User, UserKind},
};

/// Users and revocations by id.
#[derive(Debug, Default)]
pub struct AuthIndex {
    users: HashMap<Uuid, UserRights>,
    /// Revoked tokens (`jti`), sessions (`sid`) and deleted users, until no token of theirs can be valid any more.
    revoked: HashMap<Uuid, OffsetDateTime>,
    /// The last entry of the feed that was applied.
    position: u64,
}

/// What a user may do, and which of its tokens are valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRights {
    /// Its name, shared: a copy of the rights is made for each call of `Authorize`.
    pub name: Arc<str>,
    /// A person or a machine.
    pub kind: UserKind,
    /// Its tenant.
    pub tenant: Tenant,
    /// Its roles now.
    pub roles: Roles,
    disabled: bool,
    authz_version: u64,
    tokens_since: u64,
}

/// Whether a token is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenVerdict {
    /// It is, with these rights.
    Valid(UserRights),
    /// It is not, for a reason of one word.
    Invalid(&'static str),
    /// It names a user or version that the index does not have yet.
    StateLagging,
}

// === impl AuthIndex ===

impl AuthIndex {
    /// Judges a token whose signature and time are valid.
    pub fn judge(&self, claims: &AccessTokenClaims) -> TokenVerdict {
        let (Ok(subject), Ok(session), Ok(token)) = (claims.sub.parse(), claims.sid.parse(), claims.jti.parse()) else {
            return TokenVerdict::Invalid("malformed");
        };
        if [subject, session, token].into_iter().any(|id: Uuid| self.is_revoked(id)) {
            return TokenVerdict::Invalid("revoked");
        }
        let Some(user) = self.users.get(&subject) else { return TokenVerdict::StateLagging };
        if user.disabled {
            return TokenVerdict::Invalid("disabled");
        }
        if claims.ver > user.authz_version {
            TokenVerdict::StateLagging
        } else if claims.ver < user.tokens_since {
            TokenVerdict::Invalid("superseded")
        } else {
            TokenVerdict::Valid(user.clone())
        }
    }

    /// Whether this token (`jti`), session (`sid`) or user is revoked.
    pub fn is_revoked(&self, id: Uuid) -> bool {
        self.revoked.contains_key(&id)
    }

    /// What a user may do who is not disabled.
    pub fn user(&self, id: Uuid) -> Option<UserRights> {
        self.users.get(&id).filter(|user| !user.disabled).cloned()
    }

    /// The last entry of the feed that was applied.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How many users there are.
    pub fn users_len(&self) -> usize {
        self.users.len()
    }

    /// How many revocations there are.
    pub fn revoked_len(&self) -> usize {
        self.revoked.len()
    }

    /// Replaces everything by a snapshot.
    pub(super) fn replace(&mut self, snapshot: &AuthSnapshot) {
        self.users = snapshot.users.iter().map(|user| (user.id, UserRights::from(user))).collect();
        self.revoked.clear();
        self.position = position_of(snapshot.last);
        for change in &snapshot.changes {
            self.revoke(change);
        }
    }

    /// Applies a batch of changes, and answers the revocations in it.
    pub(super) fn apply(&mut self, batch: &ChangeBatch) -> Vec<Revocation> {
        for user in &batch.users {
            self.users.insert(user.id, UserRights::from(user));
        }
        let is_deleted = |id: &Uuid| batch.users.iter().all(|user| user.id != *id);
        for change in &batch.changes {
            let about_user = matches!(change.kind, ChangeKind::User | ChangeKind::Subject);
            if about_user && is_deleted(&change.id) {
                self.users.remove(&change.id);
            }
            self.revoke(change);
        }
        self.position = position_of(batch.last);
        batch.changes.iter().filter_map(|change| self.revocation(change)).collect()
    }

    /// Removes revocations whose tokens have expired.
    pub(super) fn remove_expired(&mut self, now: OffsetDateTime) {
        self.revoked.retain(|_, expires_at| *expires_at > now);
    }

    fn revoke(&mut self, change: &Change) {
        let is_revoked = match change.kind {
            ChangeKind::Session | ChangeKind::Token => true,
            // An existing user is judged by its version.
            ChangeKind::User | ChangeKind::Subject => !self.users.contains_key(&change.id),
        };
        if is_revoked {
            self.revoked.insert(change.id, change.expires_at);
        }
    }

    /// What an applied change revokes.
    fn revocation(&self, change: &Change) -> Option<Revocation> {
        match change.kind {
            ChangeKind::User => None,
            ChangeKind::Subject => {
                let authz_version = self.users.get(&change.id).map_or(u64::MAX, UserRights::authz_version);
                Some(Revocation::Subject { id: change.id, authz_version })
            }
            ChangeKind::Session => Some(Revocation::Session(change.id)),
            ChangeKind::Token => Some(Revocation::Token(change.id)),
        }
    }
}

fn position_of(last: Option<FeedEntry>) -> u64 {
    last.map_or(0, |entry| entry.seq.unsigned_abs())
}

// === impl UserRights ===

impl UserRights {
    /// Rises with every change of the rights.
    pub fn authz_version(&self) -> u64 {
        self.authz_version
    }
}

impl From<&User> for UserRights {
    fn from(user: &User) -> Self {
        Self {
            name: user.name.as_str().into(),
            kind: user.kind,
            tenant: user.tenant.clone(),
            roles: user.roles,
            disabled: user.disabled,
            authz_version: user.authz_version.unsigned_abs(),
            tokens_since: user.tokens_since.unsigned_abs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use policy::Role;
    use time::Duration;

    use super::*;
    use crate::user::UserKind;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
    const ADA: Uuid = Uuid::from_u128(1);
    const SESSION: Uuid = Uuid::from_u128(2);
    const TOKEN: Uuid = Uuid::from_u128(3);

    /// A user whose `authz_version` and `tokens_since` are the same.
    fn user(version: i64, disabled: bool) -> User {
        User {
            id: ADA,
            name: "ada".parse().unwrap(),
            kind: UserKind::Person,
            tenant: Tenant::default(),
            roles: Role::Viewer.into(),
            disabled,
            authz_version: version,
            tokens_since: version,
            created_at: NOW,
            updated_at: NOW,
        }
    }

    fn claims(ver: u64) -> AccessTokenClaims {
        AccessTokenClaims {
            aud: "rampart".into(),
            sub: ADA.to_string(),
            tenant: "default".into(),
            roles: Role::Admin.into(),
            client_id: "c".into(),
            sid: SESSION.to_string(),
            jti: TOKEN.to_string(),
            ver,
            auth_time: 0,
            iat: 0,
            nbf: 0,
            exp: 1,
        }
    }

    fn change(kind: ChangeKind, id: Uuid) -> Change {
        Change { kind, id, expires_at: NOW + Duration::MINUTE }
    }

    fn batch(changes: Vec<Change>, users: Vec<User>) -> ChangeBatch {
        ChangeBatch { last: None, changes, users, is_partial: false }
    }

    fn index_of(user: User) -> AuthIndex {
        let mut index = AuthIndex::default();
        index.apply(&batch(vec![change(ChangeKind::User, ADA)], vec![user]));
        index
    }

    #[test]
    fn a_token_holds_for_the_user_as_it_is_now_and_not_as_the_token_says() {
        let demoted = User { authz_version: 5, tokens_since: 1, ..user(1, false) };
        let TokenVerdict::Valid(user) = index_of(demoted).judge(&claims(1)) else { panic!("not good") };
        assert_eq!(user.roles, Role::Viewer.into());
    }

    #[test]
    fn a_token_ends_by_version_disabling_and_each_kind_of_revocation() {
        assert_eq!(index_of(user(2, false)).judge(&claims(1)), TokenVerdict::Invalid("superseded"));
        assert_eq!(index_of(user(1, true)).judge(&claims(1)), TokenVerdict::Invalid("disabled"));
        for (kind, id) in [(ChangeKind::Token, TOKEN), (ChangeKind::Session, SESSION), (ChangeKind::Subject, ADA)] {
            let mut index = index_of(user(1, false));
            let ended = index.apply(&batch(vec![change(kind, id)], vec![]));
            assert_eq!(ended.len(), 1);
            assert_eq!(index.judge(&claims(1)), TokenVerdict::Invalid("revoked"), "{kind:?}");
        }
        let malformed = AccessTokenClaims { sub: "x".into(), ..claims(1) };
        assert_eq!(index_of(user(1, false)).judge(&malformed), TokenVerdict::Invalid("malformed"));
    }

    #[test]
    fn a_change_without_revocation_is_not_broadcast_and_one_of_the_subject_leaves_an_existing_user_valid() {
        let mut index = index_of(user(1, false));
        assert_eq!(index.apply(&batch(vec![change(ChangeKind::User, ADA)], vec![user(1, false)])), []);
        let ended = index.apply(&batch(vec![change(ChangeKind::Subject, ADA)], vec![user(2, false)]));
        assert_eq!(ended, [Revocation::Subject { id: ADA, authz_version: 2 }]);
        let deleted = index_of(user(1, false)).apply(&batch(vec![change(ChangeKind::Subject, ADA)], vec![]));
        assert_eq!(deleted, [Revocation::Subject { id: ADA, authz_version: u64::MAX }]);
        assert!(matches!(index.judge(&claims(2)), TokenVerdict::Valid(_)));
    }

    #[test]
    fn a_token_newer_than_the_state_is_neither_valid_nor_invalid() {
        assert_eq!(AuthIndex::default().judge(&claims(1)), TokenVerdict::StateLagging);
        assert_eq!(index_of(user(1, false)).judge(&claims(2)), TokenVerdict::StateLagging);
    }

    #[test]
    fn revocations_are_removed_when_their_tokens_have_expired() {
        let mut index = index_of(user(1, false));
        index.apply(&batch(vec![change(ChangeKind::Token, TOKEN)], vec![]));
        index.remove_expired(NOW);
        assert_eq!(index.revoked_len(), 1);
        index.remove_expired(NOW + Duration::MINUTE);
        assert_eq!(index.revoked_len(), 0);
    }

    #[test]
    fn a_snapshot_replaces_everything() {
        let mut index = index_of(user(1, false));
        let other = User { id: Uuid::from_u128(9), ..user(1, false) };
        let gone = vec![change(ChangeKind::Subject, ADA)];
        index.replace(&AuthSnapshot { counts_from: None, last: None, changes: gone, users: vec![other] });
        assert_eq!(index.judge(&claims(1)), TokenVerdict::Invalid("revoked"));
        assert_eq!(index.users_len(), 1);
    }
}
