//! The time that a summary is about.

use serde::Serialize;
use time::{Duration, OffsetDateTime};

use crate::totals::{hour_of, minute_of};

/// Length of the rolling window.
pub const WINDOW: Duration = Duration::days(30);
/// A minute is due this long after it ended. Until then its absence says nothing.
pub const REPORT_GRACE: Duration = Duration::seconds(30);

/// The time a summary is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    /// Whether it has its full length.
    pub kind: WindowKind,
    /// First minute in it.
    #[serde(with = "time::serde::rfc3339")]
    pub from: OffsetDateTime,
    /// Its end: minutes from here on are not due yet.
    #[serde(with = "time::serde::rfc3339")]
    pub to: OffsetDateTime,
}

/// Which rule set the start of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum WindowKind {
    /// The last 30 days, from a whole hour.
    #[serde(rename = "rolling_30d")]
    Rolling,
    /// The ledger is younger than 30 days.
    #[serde(rename = "since_first_data")]
    SinceFirstData,
}

// === impl Window ===

impl Window {
    /// The window that ends now, for a ledger whose first minute is this one.
    pub fn rolling(first_minute: OffsetDateTime, now: OffsetDateTime) -> Self {
        let rolling_from = hour_of(now - WINDOW);
        let (kind, from) = if first_minute > rolling_from {
            (WindowKind::SinceFirstData, first_minute)
        } else {
            (WindowKind::Rolling, rolling_from)
        };
        Self { kind, from, to: minute_of(now - REPORT_GRACE).max(from) }
    }
}
