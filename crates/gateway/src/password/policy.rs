//! What may be the password of a person (NIST SP 800-63B: length and a list, no composition rules).

use secrets::Secret;

use super::normal_form::normal_form;
use crate::user::UserName;

/// The shortest password, in characters.
const LENGTH_MIN: usize = 15;

/// The longest password, in bytes.
const BYTES_MAX: usize = 1_024;

/// Common passwords that are long enough to pass the other rules.
const COMMON: &str = include_str!("common.txt");

const DISTINCT_CHARACTERS_MIN: usize = 5;

/// What must be left of a password without the user's name.
const LENGTH_BESIDE_NAME_MIN: usize = 8;

/// Why a password was refused. Never says anything about the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeakPassword {
    /// Too short.
    #[error("wants at least {LENGTH_MIN} characters")]
    Short,
    /// Too long to be hashed.
    #[error("wants at most {BYTES_MAX} bytes")]
    Long,
    /// It has what cannot be typed everywhere.
    #[error("has a character that cannot be in a password (RFC 8265), as a control character")]
    Character,
    /// It is a common password or a pattern.
    #[error("is on the list of common passwords or a simple pattern; choose several unrelated words")]
    Common,
    /// The name with something around it.
    #[error("is little more than the user name; choose several unrelated words")]
    Name,
}

/// The form to hash of a `password`, if it may be that of `name`.
pub fn accept(password: &Secret, name: &UserName) -> Result<Secret, WeakPassword> {
    if password.expose().len() > BYTES_MAX {
        return Err(WeakPassword::Long);
    }
    if password.expose().is_empty() {
        return Err(WeakPassword::Short);
    }
    let normal = normal_form(password).ok_or(WeakPassword::Character)?;
    let text = normal.expose_str().map_err(|_| WeakPassword::Character)?;
    if text.len() > BYTES_MAX {
        return Err(WeakPassword::Long);
    }
    if text.chars().count() < LENGTH_MIN {
        return Err(WeakPassword::Short);
    }
    let lower = text.to_lowercase();
    let distinct: std::collections::BTreeSet<char> = lower.chars().collect();
    if distinct.len() < DISTINCT_CHARACTERS_MIN || is_repetition(&lower) || COMMON.lines().any(|line| line == lower) {
        return Err(WeakPassword::Common);
    }
    let beside_name = lower.replace(&name.as_str().to_lowercase(), "").chars().count();
    let has_name = beside_name < lower.chars().count();
    if has_name && beside_name < LENGTH_BESIDE_NAME_MIN {
        return Err(WeakPassword::Name);
    }
    Ok(normal)
}

/// Whether the text is one part, at most half of it, over and over.
fn is_repetition(text: &str) -> bool {
    let characters: Vec<char> = text.chars().collect();
    (1..=characters.len() / 2).any(|period| characters.iter().zip(characters.iter().skip(period)).all(|(a, b)| a == b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(password: &str) -> Result<(), WeakPassword> {
        accept(&Secret::new(password), &"ada.lovelace".parse().unwrap()).map(drop)
    }

    #[test]
    fn length_and_unpredictability_are_the_only_rules() {
        assert_eq!(verdict("only spoons jump"), Ok(()));
        assert_eq!(verdict("größe über alles"), Ok(()), "characters count, not bytes");
        assert_eq!(verdict(&"x1".repeat(7)), Err(WeakPassword::Short));
        assert_eq!(verdict("fourteen chars"), Err(WeakPassword::Short));
        assert_eq!(verdict(&format!("{}b", "ancdefgkl7".repeat(103))), Err(WeakPassword::Long));
        for common in ["passwordpassword", "PasswordPassword", "aaaaaaaaaaaaaaaaaaab", "correcthorsebatterystaple"] {
            assert_eq!(verdict(common), Err(WeakPassword::Common), "{common}");
        }
        assert_eq!(verdict("xAda.Lovelace99"), Err(WeakPassword::Name));
    }

    #[test]
    fn the_normal_form_is_what_the_rules_are_about() {
        let accepted = accept(&Secret::new("gro\u{308}\u{df}e\u{a0}u\u{308}ber alles"), &"ada".parse().unwrap());
        assert_eq!(accepted, Ok(Secret::new("größe über alles")));
        assert_eq!(verdict(&"o\u{308}x1y".repeat(3)), Err(WeakPassword::Short), "twelve characters");
        assert_eq!(
            verdict("pass\u{a0}word pass\u{2003}word "),
            Err(WeakPassword::Common),
            "a repetition but for its spaces"
        );
        assert_eq!(verdict("only spoons\0jump"), Err(WeakPassword::Character));
        assert_eq!(verdict("only spoons\tjump"), Err(WeakPassword::Character));
        assert_eq!(verdict(""), Err(WeakPassword::Short));
    }

    #[test]
    fn the_common_list_is_in_the_form_it_is_compared_in() {
        for line in COMMON.lines() {
            assert!(line.chars().count() >= LENGTH_MIN, "{line}: too short to ever matter");
            assert_eq!(line, line.to_lowercase());
        }
    }
}
