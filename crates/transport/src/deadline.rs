//! The deadline that a call carries: `grpc-timeout`, as `tonic::Request::set_timeout` writes it.

use std::time::Duration;

use http::HeaderMap;

const DIGITS_MAX: usize = 8;

/// The time that the headers give the call; none if they say nothing, or nothing sensible.
pub(crate) fn of(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > DIGITS_MAX || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(value: &str) -> Option<Duration> {
        of(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), value.parse().unwrap())]))
    }

    #[test]
    fn reads_what_tonic_writes() {
        for timeout in [Duration::from_millis(1500), Duration::from_secs(3600), Duration::from_micros(7)] {
            let mut request = tonic::Request::new(());
            request.set_timeout(timeout);
            assert_eq!(of(&request.metadata().clone().into_headers()), Some(timeout));
        }
    }

    #[test]
    fn nonsense_is_no_deadline() {
        for value in ["", "S", "1", "1x", "-1S", "+1S", "123456789S", "1 S", "\u{e9}"] {
            assert_eq!(parsed(value), None, "{value:?}");
        }
        assert_eq!(parsed("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
    }
}
