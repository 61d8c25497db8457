//! Which entries of a list one page has.

use problem::{Kind, Problem};
use serde::Deserialize;

const LIMIT_DEFAULT: u16 = 100;

/// The longest page.
const LIMIT_MAX: u16 = 1_000;

/// Which page of a list.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageParams {
    /// How many at most, 1 to 1000; 100 unless told.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<String>,
    /// `next_cursor` of the page before.
    pub(super) cursor: Option<String>,
}

// === impl PageParams ===

impl PageParams {
    /// How many entries the page shall have.
    pub(super) fn limit(&self) -> Result<u16, Problem> {
        let Some(text) = &self.limit else { return Ok(LIMIT_DEFAULT) };
        let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
        let wrong = || Problem::new(Kind::InvalidArgument, format!("wants a number from 1 to {LIMIT_MAX}"));
        limit.ok_or_else(|| wrong().field("limit"))
    }
}

/// A cursor that no page had.
pub(super) fn wrong_cursor() -> Problem {
    Problem::new(Kind::InvalidArgument, "wants the next_cursor of an earlier page").field("cursor")
}
