//! The form in which a password is hashed: OpaqueString of RFC 8265. Keyboards and systems write the same letter in several ways.

use precis_profiles::{OpaqueString, precis_core::profile::PrecisFastInvocation as _};
use secrets::Secret;

/// The password with its letters composed (NFC) and every kind of space as the plain one. `None`: it is empty, or has a character
/// that RFC 8264 does not allow in one, as a control character or one that Unicode has not assigned.
pub(crate) fn normal_form(password: &Secret) -> Option<Secret> {
    let normal = OpaqueString::enforce(password.expose_str().ok()?).ok()?;
    Some(Secret::new(normal.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> Option<String> {
        normal_form(&Secret::new(text)).map(|normal| normal.expose_str().unwrap().to_owned())
    }

    #[test]
    fn letters_are_composed_and_spaces_are_plain() {
        for (typed, expected) in [
            ("only spoons jump", "only spoons jump"),
            (" Two  spaces ", " Two  spaces "),
            ("gro\u{308}\u{df}er", "größer"),
            ("gr\u{f6}\u{df}er", "größer"),
            ("A\u{30a}ngstro\u{308}m", "Ångström"),
            ("\u{212b}ngstr\u{f6}m", "Ångström"),
            ("a\u{a0}b\u{2003}c\u{3000}d\u{202f}e", "a b c d e"),
            ("\u{ff21}\u{fb01}", "\u{ff21}\u{fb01}"),
            ("πßå \u{2620} \u{1f412}", "πßå \u{2620} \u{1f412}"),
        ] {
            assert_eq!(normal(typed).as_deref(), Some(expected), "{typed:?}");
            assert_eq!(normal(expected).as_deref(), Some(expected), "{expected:?} stays");
        }
        assert_ne!(normal("Größer"), normal("größer"), "case matters");
    }

    #[test]
    fn what_is_empty_or_not_for_people_to_type_has_none() {
        for typed in ["", "a\0b", "a\tb", "a\u{7f}b", "a\u{200b}b", "a\u{378}b", "a\u{fdd0}b", "a\u{ad}b"] {
            assert_eq!(normal(typed), None, "{typed:?}");
        }
        assert_eq!(normal_form(&Secret::new(vec![0xff, 0xfe])), None);
    }
}
