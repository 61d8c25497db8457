//! The body of a REST request: read whole, within the limit, unpacked within the same limit.

use std::{error::Error, io::Read, time::Instant};

use axum::body::Body;
use bytes::Bytes;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, header};
use http_body_util::{BodyExt, Limited};
use problem::{Kind, Problem};

use crate::{
    byte_budget::{BodyLate, CallBytes, OverBudget, over_budget},
    protocol::is_too_long,
};

/// The codings of a body that are undone.
const CODINGS: &str = "gzip, deflate";

/// How a body was packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip,
    Deflate,
}

/// Reads a body to its end, until it is due. What is longer than `bytes_max`, packed or unpacked, is refused, and what there is no
/// room for.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    bytes: &CallBytes,
    due: Instant,
    bytes_max: usize,
) -> Result<Bytes, Problem> {
    read_with(headers, Body::new(bytes.count(body, due)), bytes_max, |packed| {
        bytes.hold_unpacked(packed, bytes_max).map(|()| bytes.clone())
    })
    .await
}

/// The same of a body that only steers.
pub(crate) async fn read_small(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    read_with(headers, body, bytes_max, |_| Ok(())).await
}

/// `make_room` is asked for the room that a packed body takes when it is unpacked.
async fn read_with<H: Send + 'static>(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
    make_room: impl FnOnce(usize) -> Result<H, OverBudget>,
) -> Result<Bytes, Problem> {
    let packing = packing(headers)?;
    let body = Limited::new(body, bytes_max).collect().await.map_err(|error| broken(&*error, bytes_max))?.to_bytes();
    match packing {
        None => Ok(body),
        Some(packing) => {
            let room = make_room(body.len())?;
            let unpack = move || {
                let _room = room;
                unpack(&body, packing, bytes_max)
            };
            let unpacked = tokio::task::spawn_blocking(unpack).await;
            unpacked.unwrap_or_else(|error| Err(Problem::internal(error)))
        }
    }
}

/// A list of codings in any case (RFC 9110, 8.4). One of them may be more than the word for none.
fn packing(headers: &HeaderMap) -> Result<Option<Packing>, Problem> {
    let lists = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut packing = None;
    for coding in lists.flat_map(|list| list.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii) {
        let is = |names: &[&str]| names.iter().any(|name| coding.eq_ignore_ascii_case(name.as_bytes()));
        let next = match () {
            () if is(&["", "identity"]) => continue,
            () if is(&["gzip", "x-gzip"]) => Packing::Gzip,
            () if is(&["deflate"]) => Packing::Deflate,
            () => {
                let shown: String = String::from_utf8_lossy(coding).chars().take(32).collect();
                let detail =
                    format!("{shown:?} is not unpacked here; send the body as it is, or packed with one of {CODINGS}");
                return Err(Problem::wrong_coding(detail, CODINGS));
            }
        };
        if packing.replace(next).is_some() {
            let detail = format!("names two codings; send the body as it is, or packed once with one of {CODINGS}");
            return Err(Problem::wrong_coding(detail, CODINGS));
        }
    }
    Ok(packing)
}

fn unpack(packed: &[u8], packing: Packing, bytes_max: usize) -> Result<Bytes, Problem> {
    // One byte more than allowed is enough to know; a bomb is never unpacked beyond it.
    let limit = bytes_max as u64 + 1;
    let mut unpacked = Vec::with_capacity(packed.len().saturating_mul(4).min(bytes_max));
    let read = match packing {
        Packing::Gzip => MultiGzDecoder::new(packed).take(limit).read_to_end(&mut unpacked),
        Packing::Deflate => ZlibDecoder::new(packed).take(limit).read_to_end(&mut unpacked),
    };
    if unpacked.len() > bytes_max {
        return Err(too_large(bytes_max));
    }
    match read {
        Ok(_) => Ok(Bytes::from(unpacked)),
        Err(error) => Err(Problem::new(Kind::InvalidArgument, format!("the body is not what it says: {error}"))
            .field("content-encoding")),
    }
}

fn broken(error: &(dyn Error + 'static), bytes_max: usize) -> Problem {
    if let Some(over) = over_budget(error) {
        return over.into();
    }
    if has_source::<BodyLate>(error) {
        return Problem::new(Kind::InvalidArgument, BodyLate.to_string());
    }
    if is_too_long(error) { too_large(bytes_max) } else { Problem::new(Kind::InvalidArgument, "the body broke off") }
}

fn has_source<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    error.is::<E>() || error.source().is_some_and(has_source::<E>)
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(Kind::TooLarge, format!("the body is longer than {bytes_max} bytes"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    async fn read_gzip(body: Vec<u8>, bytes_max: usize) -> Result<Bytes, Kind> {
        let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, "gzip".parse().unwrap())]);
        read_small(&headers, Body::from(body), bytes_max).await.map_err(|problem| problem.kind())
    }

    #[tokio::test]
    async fn the_limit_holds_packed_and_unpacked() {
        assert_eq!(read_gzip(gzip(b"abc"), 100).await.as_deref(), Ok(&b"abc"[..]));
        let bomb = gzip(&vec![0; 1 << 20]);
        assert!(bomb.len() < 4096);
        assert_eq!(read_gzip(bomb, 4096).await, Err(Kind::TooLarge));
        assert_eq!(read_gzip(vec![0; 101], 100).await, Err(Kind::TooLarge));
        assert_eq!(read_gzip(b"abc".to_vec(), 100).await, Err(Kind::InvalidArgument));
        assert_eq!(read_small(&HeaderMap::new(), Body::from("abc"), 2).await.unwrap_err().kind(), Kind::TooLarge);
    }

    #[test]
    fn codings_are_a_list_in_any_case() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, value.parse().unwrap());
            }
            packing(&headers)
                .map_err(|problem| (problem.kind(), problem.response(problem::Form::Inference).into_parts().0))
        };
        for (values, packing) in [
            (&[][..], None),
            (&["", "identity"][..], None),
            (&["Identity, IDENTITY"], None),
            (&["GZIP"], Some(Packing::Gzip)),
            (&["X-Gzip"], Some(Packing::Gzip)),
            (&["identity , gzip,"], Some(Packing::Gzip)),
            (&["identity", "Deflate"], Some(Packing::Deflate)),
        ] {
            assert_eq!(of(values).unwrap(), packing, "{values:?}");
        }
        for values in [&["br"][..], &["gzip, br"], &["gzip, deflate"], &["gzip", "gzip"], &["gzip;q=1"], &["\u{e9}"]] {
            let (kind, head) = of(values).unwrap_err();
            assert_eq!(
                (kind, &head.headers["accept-encoding"]),
                (Kind::UnsupportedMediaType, &CODINGS.parse().unwrap())
            );
        }
    }

    #[tokio::test]
    async fn a_cut_gzip_body_is_refused() {
        let mut packed = gzip(&[7; 1000]);
        packed.truncate(packed.len() - 5);
        assert_eq!(read_gzip(packed, 4096).await, Err(Kind::InvalidArgument));
    }
}
