//! How messages of the inference service are read: as prost reads them, but checked before memory is spent.
//!
//! A message within a message takes two bytes on the wire and hundreds in memory, so a body within its limit could still
//! become gigabytes. The fields are therefore counted first, at the top and within the tensors of an inference, whose
//! maps are as cheap to write. What holds numbers or bytes is not counted: it grows with the body and no faster.
//!
//! What is large is read and written where it holds up no other request: a message of 16 MB in short strings takes a tenth of a second.
//!
//! What cannot be parsed is INVALID_ARGUMENT. gRPC suggests INTERNAL, but the client is at fault, and an alert on internal
//! errors must not fire for it.

use std::{any::TypeId, marker::PhantomData};

use prost::{
    DecodeError, Message,
    bytes::Buf,
    encoding::{WireType, decode_key, decode_varint},
};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tonic_prost::{ProstCodec, ProstEncoder};

use crate::inference::ModelInferRequest;

/// More fields than any real request or answer has: a repository index of 256 models with 16 versions each is one.
const FIELDS_MAX: usize = 16_384;

/// What is longer is read and written beside the other tasks of its thread.
const SMALL_BYTES_MAX: usize = 256 << 10;

/// prost's codec with a bound on how many fields a message may have.
#[derive(Debug)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

/// prost's encoder.
#[derive(Debug)]
pub struct BoundedEncoder<T>(ProstEncoder<T>);

/// Counts fields, then decodes.
#[derive(Debug)]
pub struct BoundedDecoder<U>(PhantomData<U>);

// === impl BoundedCodec ===

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = BoundedEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        BoundedEncoder(ProstCodec::<T, U>::raw_encoder(BufferSettings::default()))
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(PhantomData)
    }
}

// === impl BoundedDecoder ===

impl<U: Message + Default + 'static> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // Neither this nor prost's reading of a `Bytes` field copies: both are shares of what arrived.
        let message = buf.copy_to_bytes(buf.remaining());
        beside_if_large(message.len(), || {
            let unreadable = |error: DecodeError| Status::invalid_argument(error.to_string());
            if count_fields(&message, nested::<U>()).map_err(unreadable)? > FIELDS_MAX {
                return Err(Status::invalid_argument(format!("the message has more than {FIELDS_MAX} fields")));
            }
            U::decode(message).map(Some).map_err(unreadable)
        })
    }
}

// === impl BoundedEncoder ===

impl<T: Message> Encoder for BoundedEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        beside_if_large(item.encoded_len(), || self.0.encode(item, buf))
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// Does work on a message of so many bytes. If it is large, and the runtime has other threads, they take over this thread's
/// other tasks first.
fn beside_if_large<R>(bytes: usize, work: impl FnOnce() -> R) -> R {
    let has_threads =
        || Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes > SMALL_BYTES_MAX && has_threads() { block_in_place(work) } else { work() }
}

/// The fields of a message whose own fields count too: the inputs and outputs of an inference.
fn nested<U: 'static>() -> &'static [u32] {
    if TypeId::of::<U>() == TypeId::of::<ModelInferRequest>() { &[5, 6] } else { &[] }
}

fn count_fields(mut message: &[u8], nested: &[u32]) -> Result<usize, DecodeError> {
    let mut count = 0;
    while !message.is_empty() {
        let (field, wire_type) = decode_key(&mut message)?;
        let length = match wire_type {
            WireType::Varint => {
                decode_varint(&mut message)?;
                0
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => decode_varint(&mut message)?,
            // What is in a group counts as if it were not.
            WireType::StartGroup | WireType::EndGroup => 0,
        };
        // A length beyond the end is prost's to refuse.
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(message.len());
        let (value, rest) = message.split_at(length);
        message = rest;
        count += 1;
        if wire_type == WireType::LengthDelimited && nested.contains(&field) {
            count += count_fields(value, &[])?;
        }
        if count > FIELDS_MAX {
            break;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::{ModelReadyRequest, model_infer_request::InferInputTensor};

    fn count<U: Message + 'static>(message: &U) -> usize {
        count_fields(&message.encode_to_vec(), nested::<U>()).unwrap()
    }

    #[test]
    fn fields_count_at_the_top_and_within_tensors() {
        let input = || InferInputTensor { name: "x".to_owned(), shape: vec![1, 2], ..Default::default() };
        let request = ModelInferRequest {
            model_name: "m".to_owned(),
            inputs: vec![input(), input()],
            raw_input_contents: vec![vec![0x2a; 100_000].into()],
            ..Default::default()
        };
        assert_eq!(count(&request), 2 + 2 * (1 + 2));
        assert_eq!(count(&ModelReadyRequest { name: "m".to_owned(), version: "1".to_owned() }), 2);
    }

    #[test]
    fn counting_stops_beyond_the_bound() {
        let empty_inputs = [0x2a, 0].repeat(8 << 20);
        assert_eq!(count_fields(&empty_inputs, &[5, 6]), Ok(FIELDS_MAX + 1));
        let parameters = [0x22, 0].repeat(FIELDS_MAX + 1);
        let input = InferInputTensor::decode(&*parameters).unwrap();
        assert_eq!(input.parameters.len(), 1, "they overwrite each other, but other names would not");
        let mut request = vec![0x2a];
        prost::encoding::encode_varint(parameters.len() as u64, &mut request);
        request.extend(parameters);
        assert!(count_fields(&request, &[5, 6]).unwrap() > FIELDS_MAX);
    }

    #[test]
    fn malformed_messages_never_panic() {
        for wrong in [&[0xff_u8; 12][..], &[0x00, 0x00], &[0x2f], &[0x2a]] {
            assert!(count_fields(wrong, &[5, 6]).is_err(), "{wrong:?}");
        }
        assert_eq!(count_fields(&[0x2a, 0xff, 0x01, 0x0a], &[]), Ok(1), "prost refuses the length");
    }
}
