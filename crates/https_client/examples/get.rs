//! `get CA_FILE URL [proxy]`: one call, its status and body on standard output. The tests run it with other environments.

use std::time::Duration;

use https_client::{Bounds, HttpsClient, Proxies, Timeouts};

const TIMEOUT: Duration = Duration::from_secs(20);

#[expect(clippy::print_stdout, reason = "a program whose output is its answer")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    identity::install_crypto_providers()?;
    let mut arguments = std::env::args().skip(1);
    let (Some(ca_file), Some(url)) = (arguments.next(), arguments.next()) else { return Err("CA_FILE URL".into()) };
    let proxies = if arguments.next().is_some() { Proxies::OfEnvironment } else { Proxies::Never };
    let timeouts = Timeouts { connect: TIMEOUT, silence: TIMEOUT };
    let client = HttpsClient::trusting(&std::fs::read(ca_file)?, timeouts, proxies)?;
    let request = http::Request::get(url).body(Vec::new())?;
    let answer = client.send(request, Bounds { timeout: TIMEOUT, body_bytes_max: 1024 }).await?;
    let status = answer.status();
    println!("{status} {}", String::from_utf8(answer.into_body().collect().await?)?);
    Ok(())
}
