//! The head of an HTTP/1.1 request, read strictly before pingora's parser sees it.
//!
//! pingora 0.9.1 accepts a bare LF, `Content-Length` beside `Transfer-Encoding`, HTTP/1.0 and up to 1 MiB of header:
//! what two parsers may read differently is how requests are smuggled, so here there is one way to write a request.
//! This module checks and counts; it parses no more than the front needs.

mod fields;

use std::ops::Range;

use self::fields::Fields;

/// More header fields than this are refused; real clients send about ten.
const FIELDS_MAX: usize = 100;

/// What the front must know of a request before it hands it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes up to and with the empty line.
    pub length: usize,
    /// Where the path lies in the buffer, without the query.
    pub path: Range<usize>,
    /// Bytes of the body that follows; `None` if it says itself where it ends.
    pub body_bytes: Option<u64>,
    /// Whether there is an `Authorization` field.
    pub has_credentials: bool,
    /// Where the value of `Host` lies in the buffer.
    pub host: Range<usize>,
}

/// Why a head is refused. Each is one sentence for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Longer than the limit, or too many fields.
    #[error("the request header is over its limit")]
    TooLarge,
    /// A line ends with LF alone, or a CR stands alone.
    #[error("header lines end with CR LF, and neither stands anywhere else")]
    LineEnding,
    /// Not `METHOD target HTTP/1.1`.
    #[error("the request line is not `METHOD /path HTTP/1.1`")]
    RequestLine,
    /// HTTP/1.0, or a newer version that is not a text protocol.
    #[error("only HTTP/1.1 and HTTP/2 are spoken here")]
    Version,
    /// A field without a name, with a space before the colon, folded, or with control characters.
    #[error("a header field is not `name: value`")]
    Field,
    /// No `Host`, or more than one.
    #[error("exactly one Host header field is needed")]
    Host,
    /// `Content-Length` twice, not a number, or beside `Transfer-Encoding`.
    #[error("the length of the body is not clear: one Content-Length, or one `Transfer-Encoding: chunked`")]
    Framing,
    /// More than one `Authorization`: which of them counts?
    #[error("more than one Authorization header field")]
    Credentials,
}

impl Head {
    /// Whether a body follows.
    pub fn has_body(&self) -> bool {
        self.body_bytes != Some(0)
    }
}

/// Looks for a whole head at the start of `buffer`. `scanned` is how much was looked at before, so that a head that
/// trickles in is not read again from its start; `None` asks for more bytes.
pub fn scan(buffer: &[u8], scanned: &mut usize, bytes_max: usize) -> Result<Option<Head>, HeadError> {
    let Some(length) = find_end(buffer, scanned)? else {
        return if buffer.len() >= bytes_max { Err(HeadError::TooLarge) } else { Ok(None) };
    };
    if length > bytes_max {
        return Err(HeadError::TooLarge);
    }
    parse(buffer.get(..length).unwrap_or_default()).map(Some)
}

/// The form of an unfinished or refused head's route, as far as it is known.
pub fn path_of_unfinished(buffer: &[u8]) -> &str {
    let line = buffer.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
    let target = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    std::str::from_utf8(path).unwrap_or_default()
}

/// The length of the head, once its empty line is there. Refuses line ends that are not CR LF on the way.
fn find_end(buffer: &[u8], scanned: &mut usize) -> Result<Option<usize>, HeadError> {
    let mut position = *scanned;
    while let Some(found) = buffer.get(position..).and_then(|rest| memchr::memchr2(b'\r', b'\n', rest)) {
        position += found;
        match buffer.get(position..position + 2) {
            Some(b"\r\n") => {
                if buffer.get(..position).is_some_and(|before| before.ends_with(b"\r\n")) {
                    return Ok(Some(position + 2));
                }
                position += 2;
            }
            None if buffer.get(position) == Some(&b'\r') => {
                *scanned = position;
                return Ok(None);
            }
            _ => return Err(HeadError::LineEnding),
        }
    }
    *scanned = buffer.len();
    Ok(None)
}

fn parse(head: &[u8]) -> Result<Head, HeadError> {
    let mut lines = Lines { rest: head, offset: 0 };
    let (_, request_line) = lines.next().ok_or(HeadError::RequestLine)?;
    let path = parse_request_line(request_line)?;
    let mut fields = Fields::default();
    let mut count = 0;
    for (offset, line) in lines {
        if line.is_empty() {
            break;
        }
        count += 1;
        if count > FIELDS_MAX {
            return Err(HeadError::TooLarge);
        }
        fields.add(offset, line)?;
    }
    let is_chunked = fields.is_chunked;
    if is_chunked && fields.content_length.is_some() {
        return Err(HeadError::Framing);
    }
    Ok(Head {
        length: head.len(),
        path,
        body_bytes: if is_chunked { None } else { Some(fields.content_length.unwrap_or(0)) },
        has_credentials: fields.has_credentials,
        host: fields.host.ok_or(HeadError::Host)?,
    })
}

fn parse_request_line(line: &[u8]) -> Result<Range<usize>, HeadError> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(HeadError::RequestLine);
    };
    let is_target = target.starts_with(b"/") && target.iter().all(|byte| byte.is_ascii_graphic());
    if method.is_empty() || !method.iter().all(u8::is_ascii_uppercase) || !is_target {
        return Err(HeadError::RequestLine);
    }
    if version != b"HTTP/1.1" {
        return Err(if version.starts_with(b"HTTP/") { HeadError::Version } else { HeadError::RequestLine });
    }
    let start = method.len() + 1;
    let path = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    Ok(start..start + path)
}

/// Lines of a head whose line ends were checked, with their offsets.
struct Lines<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = (usize, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let end = memchr::memchr(b'\r', self.rest)?;
        let (line, rest) = self.rest.split_at_checked(end)?;
        let offset = self.offset;
        self.rest = rest.get(2..)?;
        self.offset += end + 2;
        Some((offset, line))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan_all(text: &str) -> Result<Option<Head>, HeadError> {
        scan(text.as_bytes(), &mut 0, 32 * 1024)
    }

    #[test]
    fn a_head_is_parsed_as_far_as_needed() {
        let text = "POST /v2/models/m/infer?x=1 HTTP/1.1\r\nHost:  localhost:8095\r\ncontent-length: 3\r\n\
                    Authorization: Bearer t\r\nContent-Type: application/json\r\n\r\nabcd";
        let head = scan_all(text).unwrap().unwrap();
        assert_eq!(&text[head.path.clone()], "/v2/models/m/infer");
        assert_eq!(&text[head.host.clone()], "localhost:8095");
        assert_eq!(&text[head.length..], "abcd");
        assert_eq!(head.body_bytes, Some(3));
        assert!(head.has_body() && head.has_credentials);
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        for (text, why) in [
            ("GET / HTTP/1.1\nHost: a\n\n", HeadError::LineEnding),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: b\nY: c\r\n\r\n", HeadError::LineEnding),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n", HeadError::LineEnding),
            ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", HeadError::Version),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", HeadError::Version),
            ("GET /\r\nHost: a\r\n\r\n", HeadError::RequestLine),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::RequestLine),
            ("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::RequestLine),
            ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::RequestLine),
            ("get / HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::RequestLine),
            ("GET / HTTP/1.1\r\n\r\n", HeadError::Host),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", HeadError::Host),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", HeadError::Host),
            ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", HeadError::Host),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", HeadError::Field),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", HeadError::Field),
            ("GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", HeadError::Field),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", HeadError::Field),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                HeadError::Framing,
            ),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", HeadError::Framing),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", HeadError::Framing),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", HeadError::Framing),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", HeadError::Framing),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", HeadError::Framing),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                HeadError::Framing,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
                HeadError::Credentials,
            ),
        ] {
            assert_eq!(scan_all(text), Err(why), "{text:?}");
        }
    }

    #[test]
    fn one_byte_or_one_field_past_the_limit_is_too_large() {
        let with_padding = |padding: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(padding));
        let empty = with_padding(0).len();
        assert!(scan(with_padding(1000 - empty).as_bytes(), &mut 0, 1000).unwrap().is_some());
        assert_eq!(scan(with_padding(1001 - empty).as_bytes(), &mut 0, 1000), Err(HeadError::TooLarge));
        assert_eq!(scan(&[b'x'; 1000], &mut 0, 1000), Err(HeadError::TooLarge));
        let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count));
        assert!(scan_all(&fields(FIELDS_MAX - 1)).unwrap().is_some());
        assert_eq!(scan_all(&fields(FIELDS_MAX)), Err(HeadError::TooLarge));
    }

    proptest! {
        /// However a head is cut into pieces, the verdict is the one on the whole.
        #[test]
        fn splitting_a_head_changes_no_verdict(cuts in proptest::collection::vec(0usize..120, 0..6), flaw in 0usize..4) {
            let text = ["GET /a HTTP/1.1\r\nHost: b\r\nX: y\r\n\r\nbody",
                        "GET /a HTTP/1.1\r\nHost: b\nX: y\r\n\r\n",
                        "GET /a HTTP/1.1\r\nHost: b\r\r\nX: y\r\n\r\n",
                        "GET /a HTTP/1.1\r\nX: y\r\n\r\n"][flaw].as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.push(text.len());
            cuts.sort_unstable();
            let mut scanned = 0;
            let mut verdict = Ok(None);
            for cut in cuts {
                verdict = scan(&text[..cut], &mut scanned, 1000);
                if verdict != Ok(None) { break; }
            }
            prop_assert_eq!(verdict, scan(text, &mut 0, 1000));
        }

        /// No bytes make it panic, and what it accepts ends with an empty line.
        #[test]
        fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some(head)) = scan(&bytes, &mut 0, 200) {
                prop_assert!(bytes[..head.length].ends_with(b"\r\n\r\n"));
            }
            let _ = path_of_unfinished(&bytes);
        }
    }
}
