//! What a client does when the server, or the environment, is not as it should be.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{io, net, path::PathBuf, process::Command, sync::Arc, time::Duration};

use http::{Request, StatusCode};
use https_client::{Bounds, HttpsClient, HttpsError, Proxies, Timeouts};
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use testkit::ca::Ca;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

const PATIENCE: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(300);
const BODY_BYTES_MAX: u64 = 10;

/// Gives every connection the same answer, and leaves it open.
struct Server {
    port: u16,
    ca: Ca,
    directory: tempfile::TempDir,
}

impl Server {
    async fn start(answer: &str) -> Self {
        Self::with(&TLS13, answer).await
    }

    async fn with(version: &'static SupportedProtocolVersion, answer: &str) -> Self {
        identity::install_crypto_providers().unwrap();
        let (ca, directory) = (Ca::new(), tempfile::tempdir().unwrap());
        ca.issue("third-party", "third-party-1", directory.path());
        let file = |name: &str| std::fs::read(directory.path().join(name)).unwrap();
        let chain = CertificateDer::pem_slice_iter(&file("certificate.pem")).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(&file("key.pem")).unwrap();
        // Not the provider of the process, which has no suite of TLS 1.2.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
        let (acceptor, answer) = (TlsAcceptor::from(Arc::new(config)), answer.to_owned());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(tcp).await else { continue };
                let mut request = [0; 4096];
                let _read = stream.read(&mut request).await;
                let _written = stream.write_all(answer.as_bytes()).await;
                open.push(stream);
            }
        });
        Self { port, ca, directory }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/", self.port)
    }

    async fn call(&self, timeout: Duration) -> Result<(StatusCode, Vec<u8>), HttpsError> {
        let timeouts = Timeouts { connect: PATIENCE, silence: PATIENCE };
        let client = HttpsClient::trusting(self.ca.pem().as_bytes(), timeouts, Proxies::Never);
        let request = Request::get(self.url()).body(Vec::new()).unwrap();
        let answer = client.unwrap().send(request, Bounds { timeout, body_bytes_max: BODY_BYTES_MAX }).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?))
    }
}

#[tokio::test]
async fn a_body_is_read_up_to_its_bound_and_not_one_byte_further() {
    let server = Server::start("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789").await;
    assert_eq!(server.call(PATIENCE).await.unwrap(), (StatusCode::OK, b"0123456789".to_vec()));
    let stated = Server::start("HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n").await;
    let chunked = Server::start("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nb\r\n0123456789a\r\n").await;
    for server in [stated, chunked] {
        assert!(matches!(server.call(PATIENCE).await, Err(HttpsError::TooLong(BODY_BYTES_MAX))));
    }
}

#[tokio::test]
async fn a_call_ends_in_time_whether_the_answer_never_begins_or_never_ends() {
    let silent = Server::start("").await;
    assert!(matches!(silent.call(MOMENT).await, Err(HttpsError::NoAnswer(error)) if error.is_timeout()));
    let endless = Server::start("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n01").await;
    assert!(matches!(endless.call(MOMENT).await, Err(HttpsError::BrokenOff(error)) if error.is_timeout()));
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_not_followed() {
    let target = Server::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let answer = format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", target.url());
    let server = Server::start(&answer).await;
    assert_eq!(server.call(PATIENCE).await.unwrap().0, StatusCode::FOUND);
}

#[tokio::test]
async fn only_tls_1_3_only_the_given_authority_and_only_https() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let old = Server::with(&TLS12, answer).await;
    assert!(matches!(old.call(PATIENCE).await, Err(HttpsError::NoAnswer(_))));
    let foreign = Server { ca: Ca::foreign(), ..Server::start(answer).await };
    assert!(matches!(foreign.call(PATIENCE).await, Err(HttpsError::NoAnswer(_))));

    let timeouts = Timeouts { connect: PATIENCE, silence: PATIENCE };
    let client = HttpsClient::trusting(old.ca.pem().as_bytes(), timeouts, Proxies::Never).unwrap();
    let plain = Request::get(format!("http://localhost:{}/", old.port)).body(Vec::new()).unwrap();
    let bounds = Bounds { timeout: PATIENCE, body_bytes_max: BODY_BYTES_MAX };
    assert!(client.send(plain, bounds).await.is_err());
    for nothing in [&b""[..], b"no certificate"] {
        let refused = HttpsClient::trusting(nothing, timeouts, Proxies::Never);
        assert!(matches!(refused, Err(HttpsError::NoCertificates(_))));
    }
}

/// A process whose environment names a proxy, in every spelling that programs know, calls the server itself.
#[tokio::test(flavor = "multi_thread")]
async fn proxies_of_the_environment_are_ignored() {
    let server = Server::start("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
    let proxy = net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let variables = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].map(|name| (name, &*address));
    let mut get = Command::new(example());
    get.arg(server.directory.path().join("ca.pem")).arg(server.url());
    get.envs(variables).env_remove("NO_PROXY").env_remove("no_proxy");
    let output = tokio::task::spawn_blocking(move || get.output()).await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "200 OK hi\n", "{output:?}");
    proxy.set_nonblocking(true).unwrap();
    assert_eq!(proxy.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "the proxy was called");
}

/// A process that is told to obey the environment asks the proxy for a tunnel, and for nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_the_environment_is_used_when_it_is_asked_for() {
    let server = Server::start("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut get = Command::new(example());
    get.arg(server.directory.path().join("ca.pem")).arg(server.url()).arg("proxy");
    get.env("HTTPS_PROXY", format!("http://{}", proxy.local_addr().unwrap()));
    for name in ["https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"] {
        get.env_remove(name);
    }
    let output = tokio::task::spawn_blocking(move || get.output());
    let (mut client, _) = timeout(PATIENCE, proxy.accept()).await.unwrap().unwrap();
    let mut head = [0; 4096];
    let length = client.read(&mut head).await.unwrap();
    let head = String::from_utf8_lossy(head.get(..length).unwrap_or_default()).into_owned();
    assert!(head.starts_with(&format!("CONNECT localhost:{} HTTP/1.1\r\n", server.port)), "{head}");
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    let mut upstream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    // The server never closes, so this ends with the test.
    let passing = tokio::spawn(async move { copy_bidirectional(&mut client, &mut upstream).await });
    let output = output.await.unwrap().unwrap();
    passing.abort();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "200 OK hi\n", "{output:?}");
}

/// Built with the tests of this crate, beside them.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let example = test.parent().unwrap().with_file_name("examples").join("get");
    assert!(example.exists(), "{example:?} is missing; run: cargo build -p https_client --examples");
    example
}
