//! Which records are wanted.

use std::str::FromStr;

use serde_json::Value;
use time::{Date, Duration, OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

/// A point in time, or a while before now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    At(OffsetDateTime),
    Ago(Duration),
}

/// Only records that all of it takes.
#[derive(Default)]
pub(super) struct Filter {
    pub(super) events: Vec<String>,
    pub(super) outcome: Option<String>,
    /// The id of a user.
    pub(super) actor: Option<String>,
    pub(super) resource: Option<String>,
    pub(super) since: Option<OffsetDateTime>,
    pub(super) until: Option<OffsetDateTime>,
}

// === impl Moment ===

impl Moment {
    pub(super) fn before(self, now: OffsetDateTime) -> OffsetDateTime {
        match self {
            Self::At(at) => at,
            Self::Ago(duration) => now.saturating_sub(duration),
        }
    }
}

impl FromStr for Moment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
            return Ok(Self::At(at));
        }
        if let Ok(date) = Date::parse(text, format_description!("[year]-[month]-[day]")) {
            return Ok(Self::At(date.midnight().assume_utc()));
        }
        let ago = |unit: char, seconds: i64| {
            let count: u32 = text.strip_suffix(unit)?.parse().ok()?;
            Some(Self::Ago(Duration::seconds(i64::from(count) * seconds)))
        };
        let ago = ago('s', 1).or_else(|| ago('m', 60)).or_else(|| ago('h', 3600)).or_else(|| ago('d', 86_400));
        ago.ok_or("wants 2026-01-31T10:00:00Z, 2026-01-31, or a while ago such as 30m, 12h or 7d")
    }
}

// === impl Filter ===

impl Filter {
    pub(super) fn is_empty(&self) -> bool {
        let Self { events, outcome, actor, resource, since, until } = self;
        let is_one_there =
            outcome.is_some() || actor.is_some() || resource.is_some() || since.is_some() || until.is_some();
        events.is_empty() && !is_one_there
    }

    /// Whether it and what is before it in the log need not be looked at.
    pub(super) fn is_too_old(&self, record: &Value) -> bool {
        self.since.is_some_and(|since| at(record).is_some_and(|at| at < since))
    }

    pub(super) fn takes(&self, record: &Value) -> bool {
        let is = |member: &str, wanted: &Option<String>| {
            wanted.as_deref().is_none_or(|wanted| entry(record, member) == Some(wanted))
        };
        let event = entry(record, "/event").unwrap_or_default();
        let begins = |kind: &String| kind == event || (kind.ends_with('.') && event.starts_with(&**kind));
        let is_kind = self.events.is_empty() || self.events.iter().any(begins);
        let is_past = self.until.is_none_or(|until| at(record).is_some_and(|at| at < until));
        is_kind
            && is_past
            && !self.is_too_old(record)
            && is("/outcome", &self.outcome)
            && is("/actor/id", &self.actor)
            && is("/resource", &self.resource)
    }
}

/// Whether this is the id of a user, which no name is.
pub(super) fn is_id(text: &str) -> bool {
    let digits = text.chars().filter(char::is_ascii_hexdigit).count();
    text.len() == 36 && digits == 32 && text.chars().filter(|c| *c == '-').count() == 4
}

fn entry<'r>(record: &'r Value, member: &str) -> Option<&'r str> {
    record.get("entry")?.pointer(member)?.as_str()
}

fn at(record: &Value) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(entry(record, "/at")?, &Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-01-31 12:00 UTC);

    fn record() -> Value {
        json!({ "entry": {
            "at": "2026-01-31T10:00:00.5Z", "event": "user.change", "outcome": "success",
            "actor": { "type": "user", "id": "0197" }, "resource": "user:1",
        } })
    }

    #[test]
    fn a_moment_is_a_time_a_day_or_a_while_ago() {
        let of = |text: &str| text.parse::<Moment>().map(|moment| moment.before(NOW));
        assert_eq!(of("2026-01-31T11:00:00+01:00"), Ok(datetime!(2026-01-31 10:00 UTC)));
        assert_eq!(of("2026-01-31"), Ok(datetime!(2026-01-31 0:00 UTC)));
        assert_eq!(of("90m"), Ok(datetime!(2026-01-31 10:30 UTC)));
        assert_eq!(of("1d"), Ok(datetime!(2026-01-30 12:00 UTC)));
        for wrong in ["", "m", "-1h", "yesterday", "2026-02-30", "1w", "é"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        assert!(of("4294967295d").is_ok(), "long ago is no panic");
    }

    #[test]
    fn a_record_is_taken_when_every_filter_takes_it() {
        let takes = |change: fn(&mut Filter)| {
            let mut filter = Filter::default();
            change(&mut filter);
            filter.takes(&record())
        };
        assert!(takes(|_| {}));
        assert!(takes(|filter| filter.events = vec!["access".into(), "user.".into()]));
        assert!(!takes(|filter| filter.events = vec!["user".into()]), "without the dot it is the whole name");
        assert!(takes(|filter| filter.outcome = Some("success".into())));
        assert!(!takes(|filter| filter.outcome = Some("denied".into())));
        assert!(
            takes(|filter| filter.actor = Some("0197".into())) && !takes(|filter| filter.actor = Some("0198".into()))
        );
        assert!(!takes(|filter| filter.resource = Some("user:2".into())));
        assert!(takes(|filter| filter.since = Some(datetime!(2026-01-31 10:00 UTC))), "half a second later");
        assert!(!takes(|filter| filter.since = Some(datetime!(2026-01-31 10:00:01 UTC))));
        assert!(!takes(|filter| filter.until = Some(datetime!(2026-01-31 10:00 UTC))));
    }

    #[test]
    fn an_id_is_told_from_a_name() {
        assert!(is_id("01970000-0000-7000-8000-0123456789ab"));
        for name in ["ann", "01970000-0000-7000-8000-0123456789ag", ""] {
            assert!(!is_id(name), "{name}");
        }
    }
}
