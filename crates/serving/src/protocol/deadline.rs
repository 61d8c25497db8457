//! How long a call may take, as its headers say.

use std::time::Duration;

use http::HeaderMap;
use problem::{Kind, Problem};

/// gRPC's header, e.g. `250m`. Read on REST calls too, where there is no standard one.
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// The shorter of what the headers and the body allow.
pub(crate) fn shorter_of(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The time that the headers give a call.
pub(crate) fn of_headers(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(parse);
    let wrong = || {
        Problem::new(Kind::InvalidArgument, "must be up to 8 digits and a unit: H, M, S, m, u or n").field(GRPC_TIMEOUT)
    };
    parsed.map(Some).ok_or_else(wrong)
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read_as_the_protocol_writes_them() {
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(parse("7u"), Some(Duration::from_micros(7)));
        for wrong in ["", "m", "1", "1x", "-1m", "123456789m", "1é"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
