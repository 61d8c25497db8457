//! `rampart audit`: the audit log, newest first, as far back as is asked for. Needs the role auditor or admin.

mod filter;

use bootstrap::{api_path::ApiPath, say_error};
use http::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::{
    connection::{Connection, Platform, list, text},
    output::{Column, Output, Table},
    users,
};
use filter::{Filter, Moment};

const PATH: &str = "/api/admin/audit";
/// The longest page that the gateway gives.
const PAGE_MAX: u32 = 1000;
const COLUMNS: [Column; 7] = [
    Column { heading: "AT", width: 27 },
    Column { heading: "EVENT", width: 24 },
    Column { heading: "OUTCOME", width: 7 },
    Column { heading: "ACTOR", width: 36 },
    Column { heading: "RESOURCE", width: 0 },
    Column { heading: "ADDRESS", width: 0 },
    Column { heading: "REASON", width: 0 },
];
/// In a line of words a column without anything must not be missing.
const NOTHING: &str = "-";

/// Options of `rampart audit`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
    /// Only this kind of event, e.g. user.change, or all that begin so, e.g. token. (with the dot); may be given more than once.
    #[arg(long = "event", value_name = "EVENT")]
    events: Vec<String>,
    /// Only what ended so.
    #[arg(long, value_parser = ["success", "failure", "denied"])]
    outcome: Option<String>,
    /// Only what this user did: an id, or a name (for which the role admin is needed).
    #[arg(long, value_name = "USER")]
    actor: Option<String>,
    /// Only what was done to this, e.g. model:churn or user:ID.
    #[arg(long)]
    resource: Option<String>,
    /// Only from then on: 2026-01-31T10:00:00Z, 2026-01-31, or 30m, 12h, 7d ago.
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Only before then.
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// How many records to print at most.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// How many records to look through at most. Each thousand is a call, which is recorded itself.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    search: u32,
}

/// What was found, and whether there may be more.
struct Found {
    records: Vec<Value>,
    /// Older records that were not looked at.
    has_older: bool,
    looked_at: u32,
}

/// Prints the records. That older ones were not searched is said on standard error, and in the JSON.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let platform = arguments.connection.open("auditor")?;
    let filter = arguments.filter(&platform).await?;
    let found = search(&platform, &filter, arguments.limit, arguments.search).await?;
    let document = json!({ "records": found.records, "has_older": found.has_older });
    arguments.output.table(&Table::new(&COLUMNS, found.records.iter().map(row)), &document);
    let is_cut = found.has_older && found.looked_at >= arguments.search;
    if is_cut && !arguments.output.is_json() {
        say_error(&format!("the newest {} records were searched, and no older one: see --search", found.looked_at));
    }
    Ok(())
}

// === impl Arguments ===

impl Arguments {
    async fn filter(&self, platform: &Platform) -> anyhow::Result<Filter> {
        let now = OffsetDateTime::now_utc();
        let actor = match &self.actor {
            Some(actor) if !filter::is_id(actor) => {
                let id = users::id_of(platform, actor).await?;
                Some(id.ok_or_else(|| anyhow::anyhow!("there is no user {actor}"))?)
            }
            actor => actor.clone(),
        };
        Ok(Filter {
            events: self.events.clone(),
            outcome: self.outcome.clone(),
            actor,
            resource: self.resource.clone(),
            since: self.since.map(|moment| moment.before(now)),
            until: self.until.map(|moment| moment.before(now)),
        })
    }
}

async fn search(platform: &Platform, filter: &Filter, limit: u32, search_max: u32) -> anyhow::Result<Found> {
    let mut found = Found { records: Vec::new(), has_older: true, looked_at: 0 };
    let mut cursor: Option<String> = None;
    while found.has_older && found.looked_at < search_max {
        let page = (search_max - found.looked_at).min(PAGE_MAX);
        // Without a filter every record counts.
        let page = if filter.is_empty() { page.min(limit) } else { page };
        let mut path = ApiPath::from(PATH).query("limit", &page.to_string());
        if let Some(cursor) = &cursor {
            path = path.query("cursor", cursor);
        }
        let answer = platform.call(Method::GET, path, None, "reading the audit log").await?;
        cursor = answer.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
        found.has_older = cursor.is_some();
        let mut is_all_too_old = true;
        for record in list(&answer, "records").map(with_entry) {
            found.looked_at += 1;
            is_all_too_old &= filter.is_too_old(&record);
            if !filter.takes(&record) {
                continue;
            }
            if u32::try_from(found.records.len()).is_ok_and(|count| count >= limit) {
                found.has_older = true;
                return Ok(found);
            }
            found.records.push(record);
        }
        // Gateways write into one log, each by its own clock: one record may be older than the one before it, a page of them not.
        if is_all_too_old {
            break;
        }
    }
    Ok(found)
}

/// The record with its text read: the text is what is hashed, the entry what it says.
fn with_entry(record: &Value) -> Value {
    let mut record = record.clone();
    let entry: Value = serde_json::from_str(text(&record, "record")).unwrap_or_default();
    if let Some(members) = record.as_object_mut() {
        members.insert("entry".to_owned(), entry);
    }
    record
}

fn row(record: &Value) -> [String; 7] {
    let members = ["/at", "/event", "/outcome", "/actor/id", "/resource", "/source/address", "/reason"];
    let entry = record.get("entry").unwrap_or(&Value::Null);
    members.map(|member| entry.pointer(member).and_then(Value::as_str).unwrap_or(NOTHING).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_seven_words() {
        let text = r#"{"at":"2026-01-31T10:00:00Z","event":"access","outcome":"denied","actor":{"type":"anonymous"},"source":{"address":null}}"#;
        let record = with_entry(&json!({ "writer": "gateway-1", "seq": 1, "record": text }));
        assert_eq!(row(&record), ["2026-01-31T10:00:00Z", "access", "denied", "-", "-", "-", "-"]);
        assert_eq!(record["record"], text, "what is hashed is not changed");
    }
}
