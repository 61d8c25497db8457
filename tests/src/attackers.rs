//! Callers who do what they can to a platform: they crash models, ask for more memory than there is, begin uploads and do not finish them,
//! read no answers, give calls up, and guess passwords.

pub mod models;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use http::{Method, StatusCode};
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{interval, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{front_door::FrontDoor, tls_probe::client_config};

/// Between two of each attacker's calls.
const PACE: Duration = Duration::from_millis(100);
/// How long an attacker holds what it has begun.
const HELD: Duration = Duration::from_secs(3);
/// So many guess passwords side by side.
const GUESSERS: usize = 4;
/// On so many connections uploads and answers are held.
const CONNECTIONS_HELD: usize = 4;

/// Whom they attack, and with what. The platform must serve the models of [`models::write`].
#[derive(Clone, Serialize, Deserialize)]
pub struct Target {
    /// The platform.
    pub front: FrontDoor,
    /// The address that those who hold, give up and guess come from.
    pub source: Ipv4Addr,
    /// A token of a caller who crashes a model, and who therefore is kept from it.
    pub crasher: String,
    /// A token of a caller who asks for more memory than there is.
    pub hog: String,
    /// A token of a caller who does not finish what it began.
    pub sluggard: String,
    /// The account whose password is guessed.
    pub guessed: String,
}

/// Attackers who go on until they are dropped. One of them ends only when it was answered as a fault of the platform, with that answer.
pub fn attack(target: &Target) -> JoinSet<anyhow::Error> {
    let mut attackers = JoinSet::new();
    let Target { crasher, hog, sluggard, .. } = target;
    let number = |name: &str, value: i64| json!({ "name": name, "datatype": "INT64", "shape": [1], "data": [value] });
    let poison = json!({ "inputs": [number("a", i64::MIN), number("b", -1)] });
    attackers.spawn(call_on(target.front.clone(), "divide", crasher.clone(), vec![poison]));
    let sizes = [1_i64 << 33, 1 << 27, 1 << 50].map(|size| json!({ "inputs": [number("n", size)] }));
    let huge = json!({ "inputs": [number("n", 1 << 27)] });
    attackers.spawn(call_on(target.front.clone(), "total", hog.clone(), sizes.to_vec()));
    let long = json!({ "inputs": [number("n", 500_000)] });
    attackers.spawn(hold_on(target.clone(), request("fill", hog, &long.to_string(), 0)));
    attackers.spawn(hold_on(target.clone(), request("fill", sluggard, "{\"inputs\":", 16_000_000)));
    attackers.spawn(give_up_on(target.clone(), request("total", sluggard, &huge.to_string(), 0)));
    for _ in 0..GUESSERS {
        attackers.spawn(guess_on(target.clone()));
    }
    attackers
}

/// The answer that made one of them end, if one did.
pub fn fault(attackers: &mut JoinSet<anyhow::Error>) -> Option<anyhow::Error> {
    let ended = attackers.try_join_next()?;
    Some(ended.unwrap_or_else(|error| anyhow::Error::new(error).context("an attacker failed")))
}

/// Calls a model with one body after the other, whatever comes back; never is it a fault of the platform.
async fn call_on(front: FrontDoor, model: &str, token: String, bodies: Vec<Value>) -> anyhow::Error {
    let path = format!("/v2/models/{model}/infer");
    let mut pace = interval(PACE);
    let mut bodies = bodies.iter().cycle();
    loop {
        pace.tick().await;
        let body = bodies.next();
        let answered = front.call(Method::POST, &path, Some(&token), body).await;
        if let Ok((StatusCode::INTERNAL_SERVER_ERROR, answer)) = answered {
            return anyhow::anyhow!("{model} {body:?} was answered as a fault of the platform: {answer}");
        }
    }
}

/// Sends a request, or a part of one, on a few connections, and neither goes on with it nor reads the answer.
async fn hold_on(target: Target, request: String) -> anyhow::Error {
    loop {
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_HELD {
            if let Ok(mut stream) = connect(&target).await {
                let _sent = stream.write_all(request.as_bytes()).await;
                held.push(stream);
            }
        }
        tokio::time::sleep(HELD).await;
    }
}

/// Sends a request and is gone.
async fn give_up_on(target: Target, request: String) -> anyhow::Error {
    let mut pace = interval(PACE);
    loop {
        pace.tick().await;
        if let Ok(mut stream) = connect(&target).await {
            let _sent = stream.write_all(request.as_bytes()).await;
            // Long enough for the call to be under way.
            let _nothing = timeout(PACE, stream.read_u8()).await;
        }
    }
}

/// Signs in with a wrong password, again and again, and waits for no answer longer than a moment.
async fn guess_on(target: Target) -> anyhow::Error {
    let guess = json!({ "grant_type": "password", "username": target.guessed, "password": "not this one either" });
    let guess = post("/api/auth/token", "", &guess.to_string(), 0);
    let mut pace = interval(PACE);
    loop {
        pace.tick().await;
        if let Ok(mut stream) = connect(&target).await {
            let _sent = stream.write_all(guess.as_bytes()).await;
            let _answered = timeout(HELD, stream.read_u8()).await;
        }
    }
}

async fn connect(target: &Target) -> anyhow::Result<TlsStream<TcpStream>> {
    let config = Arc::new(client_config(&target.front.ca_file, None)?);
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((target.source, 0)))?;
    let tcp = timeout(HELD, socket.connect(target.front.address)).await.context("no connection in time")??;
    let handshake = TlsConnector::from(config).connect(ServerName::try_from("localhost")?, tcp);
    Ok(timeout(HELD, handshake).await.context("no handshake in time")??)
}

/// A prediction that announces at least so many bytes.
fn request(model: &str, token: &str, body: &str, announced: usize) -> String {
    post(&format!("/v2/models/{model}/infer"), &format!("authorization: Bearer {token}\r\n"), body, announced)
}

/// A request in HTTP/1.1, with further lines of its head.
fn post(path: &str, lines: &str, body: &str, announced: usize) -> String {
    let length = announced.max(body.len());
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\n{lines}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}
