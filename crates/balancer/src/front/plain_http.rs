//! Plain HTTP on the TLS port: redirected to HTTPS, or, if it carried a token or a password, told that it is exposed. A
//! client that is redirected sends the same again, which is right only for what was no secret.

use http::StatusCode;
use problem::{Form, Kind, Problem};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{error_response, head};

/// Answers one request. The caller's deadline for handshakes bounds it.
pub(super) async fn answer(mut tcp: TcpStream, bytes_max: usize) {
    let mut received = Vec::with_capacity(1024);
    let mut scanned = 0;
    let answer = loop {
        match head::scan(&received, &mut scanned, bytes_max) {
            Ok(Some(head)) => break response_to(&head, &received),
            Ok(None) => {}
            // Malformed HTTP, or a version that is not served: the answer is no more than "this is HTTPS".
            Err(_) if is_http(&received) => {
                break bad_request("this port speaks HTTPS only: write https:// for http://", has_token(&received));
            }
            Err(_) => return,
        }
        if !is_http(&received) || !matches!(tcp.read_buf(&mut received).await, Ok(1..)) {
            return;
        }
    };
    if tcp.write_all(&answer).await.is_ok() && tcp.shutdown().await.is_ok() {
        // Until the client has read it: a reset for unread bytes would take the answer away again.
        let _ = tokio::io::copy(&mut tcp.take(64 * 1024), &mut tokio::io::sink()).await;
    }
}

/// Under this prefix, secrets are in the body.
const SECRETS_PREFIX: &[u8] = b"/api/auth";

fn response_to(head: &head::Head, received: &[u8]) -> Vec<u8> {
    let path = received.get(head.path.clone()).unwrap_or_default();
    if head.has_credentials || (head.has_body() && path.starts_with(SECRETS_PREFIX)) {
        return bad_request("", true);
    }
    let target = received.get(head.path.start..).unwrap_or_default();
    let target = target.split(|byte| *byte == b' ').next().unwrap_or_default();
    let host = received.get(head.host.clone()).unwrap_or_default();
    // Both were checked character by character when the head was scanned.
    let location = format!("https://{}{}", String::from_utf8_lossy(host), String::from_utf8_lossy(target));
    error_response::http1_response(
        StatusCode::PERMANENT_REDIRECT,
        "text/plain",
        &[("location", &location)],
        "this port speaks HTTPS only: write https:// for http://\n",
    )
}

fn bad_request(detail: &str, is_exposed: bool) -> Vec<u8> {
    let detail = if is_exposed {
        "the credentials in this request crossed the network unencrypted and must be considered exposed: revoke them, \
         and use https"
    } else {
        detail
    };
    let response = Problem::new(Kind::InvalidArgument, detail).response(Form::Api);
    let body = String::from_utf8_lossy(response.body());
    error_response::http1_response(StatusCode::BAD_REQUEST, "application/problem+json", &[], &body)
}

/// Whether it begins like a request line.
fn is_http(received: &[u8]) -> bool {
    received.iter().take_while(|byte| **byte != b' ').take(10).all(u8::is_ascii_uppercase)
}

/// For a head that is malformed and may carry a token all the same.
fn has_token(received: &[u8]) -> bool {
    received
        .split(|byte| *byte == b'\n')
        .any(|line| line.get(..14).is_some_and(|name| name.eq_ignore_ascii_case(b"authorization:")))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn answer_of(request: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        let answering = tokio::spawn(answer(tcp, 1024));
        client.write_all(request).await.unwrap();
        client.shutdown().await.unwrap();
        let mut received = String::new();
        client.read_to_string(&mut received).await.unwrap();
        answering.await.unwrap();
        received
    }

    #[tokio::test]
    async fn a_request_is_redirected_to_https() {
        let received = answer_of(b"GET /v2/models?x=1 HTTP/1.1\r\nHost: nebula:8095\r\n\r\n").await;
        assert!(received.starts_with("HTTP/1.1 308 "), "{received}");
        assert!(received.contains("location: https://nebula:8095/v2/models?x=1\r\n"), "{received}");
        let received = answer_of(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}").await;
        assert!(received.starts_with("HTTP/1.1 308 "), "{received}");
    }

    #[tokio::test]
    async fn a_token_is_reported_as_exposed() {
        for request in [
            "GET / HTTP/1.1\r\nHost: a\r\nauthorization: Bearer x\r\n\r\n",
            "GET / HTTP/1.0\r\nAuthorization: Bearer x\r\n\r\n",
            "POST /api/auth/token HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\npassword=",
            "POST /api/auth/token HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ] {
            let received = answer_of(request.as_bytes()).await;
            assert!(received.starts_with("HTTP/1.1 400 ") && received.contains("exposed"), "{received}");
        }
    }

    #[tokio::test]
    async fn bytes_that_are_not_http_get_no_answer() {
        assert_eq!(answer_of(b"\x00\x01\x02\x03").await, "");
        assert!(answer_of(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    }
}
