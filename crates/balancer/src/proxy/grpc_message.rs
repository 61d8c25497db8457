//! A message of gRPC as the whole body of a call, in the few places where the balancer reads or writes one itself.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use problem::Problem;
use prost::Message;

use super::{broadcast::Trailers, headers::GRPC_STATUS};

/// A flag and four bytes of length come before a message.
const PREFIX_BYTES: usize = 5;

/// Why a body is not one message that can be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    #[error("the body is not one message behind its length")]
    Framing,
    #[error("the message is compressed, which is not supported here")]
    Compressed,
    #[error("the message cannot be read")]
    Content(#[from] prost::DecodeError),
}

/// Reads the only message of a body.
pub(super) fn read<M: Message + Default>(body: &Bytes) -> Result<M, MessageError> {
    let (prefix, message) = body.split_at_checked(PREFIX_BYTES).ok_or(MessageError::Framing)?;
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    match prefix.split_first() {
        Some((0, declared)) if declared == length => Ok(M::decode(message)?),
        Some((1, declared)) if declared == length => Err(MessageError::Compressed),
        _ => Err(MessageError::Framing),
    }
}

/// A call's good end with one message.
pub(super) fn answer(message: &impl Message) -> Result<Response<Bytes>, Problem> {
    let length = u32::try_from(message.encoded_len()).map_err(Problem::internal)?;
    let mut body = vec![0];
    body.extend(length.to_be_bytes());
    message.encode(&mut body).map_err(Problem::internal)?;
    let mut response = Response::new(Bytes::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]);
    response.extensions_mut().insert(Trailers(trailers));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use proto::inference::ModelStatisticsRequest;

    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let message = ModelStatisticsRequest { name: "m".into(), version: "2".into() };
        let body = answer(&message).unwrap().into_body();
        assert_eq!(read::<ModelStatisticsRequest>(&body).unwrap(), message);
        let other = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = body.to_vec();
            change(&mut bytes);
            read::<ModelStatisticsRequest>(&bytes.into()).unwrap_err()
        };
        assert!(matches!(other(&|bytes| bytes.clear()), MessageError::Framing));
        assert!(matches!(other(&|bytes| bytes.push(0)), MessageError::Framing));
        assert!(matches!(other(&|bytes| bytes.truncate(bytes.len() - 1)), MessageError::Framing));
        assert!(matches!(other(&|bytes| bytes[0] = 1), MessageError::Compressed));
        assert!(matches!(other(&|bytes| bytes[0] = 2), MessageError::Framing));
        assert!(matches!(other(&|bytes| bytes[5] = 0xff), MessageError::Content(_)));
    }
}
