//! Proves that one address cannot take all connections of the front.

use std::{net::SocketAddr, time::Duration};

use end_to_end::{
    containers::{Containers, say},
    poll::until,
};
use tokio::{io::AsyncReadExt, net::TcpStream, task::JoinSet, time::timeout};

/// As in `docker/haproxy/front.cfg`.
const OF_ONE_ADDRESS_MAX: usize = 1000;
const TOO_MANY: usize = 200;
/// A connection on which nothing is sent is ended by a balancer after 3 s; one too many by the front at once.
const AT_ONCE: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_cannot_fill_the_front() {
    let platform = Containers::from_environment().unwrap();
    let mut opening: JoinSet<_> = (0..OF_ONE_ADDRESS_MAX + TOO_MANY).map(|_| open(platform.front.address)).collect();
    let (mut held, mut refused) = (Vec::new(), 0);
    while let Some(opened) = opening.join_next().await {
        match opened.unwrap() {
            Some(connection) => held.push(connection),
            None => refused += 1,
        }
    }
    // A container of the same network is another address.
    let client = "timeout 10 openssl s_client -connect front:8095 -tls1_3 </dev/null";
    let served = platform.container("edge").run(&["sh", "-c", client]).await;
    say(&format!("{refused} connections of one address were refused, and {} kept", held.len()));
    assert!(served.is_ok(), "another address was not served: {served:?}");
    assert!(refused >= TOO_MANY, "only {refused} were refused");
    drop(held);
    until("this address is served again", SOON, async || platform.analyst().await.map(drop)).await.unwrap();
}

/// None if the front ended it at once, without a word.
async fn open(address: SocketAddr) -> Option<TcpStream> {
    let mut connection = TcpStream::connect(address).await.ok()?;
    let mut byte = [0];
    match timeout(AT_ONCE, connection.read(&mut byte)).await {
        Ok(Ok(0) | Err(_)) => None,
        Ok(Ok(_)) | Err(_) => Some(connection),
    }
}
