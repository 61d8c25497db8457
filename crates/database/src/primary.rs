//! Which of several servers is the primary.
//!
//! One connection to the primary stays open and is polled. When it is silent, breaks or has become a standby's, all servers are
//! asked at once, and the first that says that it is the primary is used. That no two servers say so is for Patroni, which
//! promotes them; an old primary that was only frozen is not contacted until then.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use telemetry::FailureLog;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, timeout};

use crate::shared_pool::SharedPool;

/// How often the primary is asked.
const PERIOD: Duration = Duration::from_millis(250);

/// A server that has not answered by then does not count.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Follows the primary until the task is aborted.
pub(crate) async fn follow(shared: Arc<SharedPool>) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut primary = None;
    let mut outages = FailureLog::once();
    loop {
        tick.tick().await;
        primary = match primary {
            Some(connection) => still_primary(connection).await,
            None => None,
        };
        if primary.is_some() {
            continue;
        }
        match find(&shared).await {
            Ok(connection) => {
                if outages.recovered() {
                    tracing::info!("the database has a primary again");
                }
                primary = Some(connection);
            }
            Err(why) => {
                if outages.failed() {
                    tracing::warn!(
                        why,
                        "no PostgreSQL server is the primary; calls that need the database fail until one is, all are asked again"
                    );
                }
            }
        }
    }
}

/// Asks all servers and uses the primary for all further connections. Without a primary: what each of them answered.
pub(crate) async fn find(shared: &SharedPool) -> Result<PgConnection, String> {
    let password = shared.password();
    let mut asked = JoinSet::new();
    for server in shared.config.servers() {
        // A password that is no text was refused when the pool was made.
        let Ok(options) = shared.config.connect_options(&server, &password, ANSWER_TIMEOUT) else { continue };
        asked.spawn(async move {
            let answer = timeout(ANSWER_TIMEOUT, connect(options)).await;
            (server, answer.unwrap_or_else(|_elapsed| Err("no answer in time".to_owned())))
        });
    }
    let mut refusals = Vec::new();
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok((server, Ok(connection))) => {
                shared.switch_to_primary(server);
                return Ok(connection);
            }
            Ok((server, Err(why))) => refusals.push(format!("{}:{}: {why}", server.host, server.port)),
            Err(ended) => refusals.push(ended.to_string()),
        }
    }
    Err(refusals.join("; "))
}

async fn connect(options: PgConnectOptions) -> Result<PgConnection, String> {
    let connection = options.connect().await.map_err(|error| problem::Chain(&error).to_string())?;
    still_primary(connection).await.ok_or_else(|| "does not say that it is the primary".to_owned())
}

/// The connection, if its server is the primary.
async fn still_primary(mut connection: PgConnection) -> Option<PgConnection> {
    let asked = sqlx::query_scalar("SELECT pg_catalog.pg_is_in_recovery()").fetch_one(&mut connection);
    match timeout(ANSWER_TIMEOUT, asked).await {
        Ok(Ok(false)) => Some(connection),
        Ok(Ok(true)) => {
            // With a goodbye: the server lives, and would log a lost client.
            let _closed = timeout(ANSWER_TIMEOUT, connection.close()).await;
            None
        }
        Ok(Err(_)) | Err(_) => None,
    }
}
