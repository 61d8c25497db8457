//! How many entries one page of a list has.

use problem::{Kind, Problem};

const LIMIT_DEFAULT: u16 = 100;

/// The longest page.
const LIMIT_MAX: u16 = 1_000;

/// How many entries a page shall have.
pub(super) fn limit(text: Option<&str>) -> Result<u16, Problem> {
    let Some(text) = text else { return Ok(LIMIT_DEFAULT) };
    let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| {
        Problem::new(Kind::InvalidArgument, format!("wants a number from 1 to {LIMIT_MAX}")).field("limit")
    })
}
