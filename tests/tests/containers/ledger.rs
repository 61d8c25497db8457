//! Rows that the platform has acknowledged, and when, to be looked for after a loss.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use end_to_end::containers::Containers;
use http::{Method, StatusCode};
use serde_json::json;
use tokio::{
    task::AbortHandle,
    time::{Instant, MissedTickBehavior, interval},
};

/// Rows a second, about.
const WRITE_PERIOD: Duration = Duration::from_millis(200);

/// Users that are made one after the other: a row counts once the platform has said that it is made.
pub(crate) struct Ledger {
    run: String,
    acknowledged: Arc<Mutex<BTreeMap<String, Instant>>>,
    task: AbortHandle,
}

/// What was acknowledged until the ledger was closed.
pub(crate) struct Written {
    run: String,
    /// The names, and when each was acknowledged.
    pub(crate) acknowledged: BTreeMap<String, Instant>,
}

// === impl Ledger ===

impl Ledger {
    pub(crate) async fn open(platform: &Containers) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let run = format!("ledger-{}", now.as_secs());
        let acknowledged = Arc::new(Mutex::new(BTreeMap::new()));
        let admin = platform.admin().await.unwrap();
        let task = tokio::spawn(write(platform.clone(), run.clone(), admin, acknowledged.clone())).abort_handle();
        Self { run, acknowledged, task }
    }

    pub(crate) fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    pub(crate) fn close(self) -> Written {
        self.task.abort();
        Written { acknowledged: self.acknowledged.lock().unwrap().clone(), run: self.run }
    }
}

// === impl Written ===

impl Written {
    /// Asked of the database itself.
    pub(crate) async fn missing(&self, platform: &Containers) -> anyhow::Result<Vec<String>> {
        let query = format!("SELECT name FROM gateway.users WHERE name LIKE '{}-%'", self.run);
        let rows = platform.psql(&query).await.context("the ledger cannot be read")?;
        let there: BTreeSet<&str> = rows.lines().collect();
        let missing = self.acknowledged.keys().filter(|name| !there.contains(name.as_str()));
        Ok(missing.cloned().collect())
    }
}

async fn write(
    platform: Containers,
    run: String,
    mut admin: String,
    acknowledged: Arc<Mutex<BTreeMap<String, Instant>>>,
) {
    let mut logged_in = Instant::now();
    let mut ticks = interval(WRITE_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0_u32.. {
        ticks.tick().await;
        let name = format!("{run}-{number}");
        let user = json!({ "name": name, "kind": "machine", "tenant": "default", "roles": ["viewer"] });
        let made = platform.front.call(Method::POST, "/api/admin/users", Some(&admin), Some(&user)).await;
        // What failed may have been written or not: nothing was promised.
        if made.is_ok_and(|(status, _)| status == StatusCode::CREATED) {
            acknowledged.lock().unwrap().insert(name, Instant::now());
        }
        if logged_in.elapsed() > Duration::from_secs(240)
            && let Ok(token) = platform.admin().await
        {
            (admin, logged_in) = (token, Instant::now());
        }
    }
}
