//! The messages between a replica and a worker.
//!
//! Each is a 64-bit length and as many bytes; integers are little-endian. The first of a replica is the job (JSON); then come requests
//! (`wire/request.rs`), the first of them a load. Each has one answer, in the same order: a load its verdict (JSON), a call what was computed,
//! an unload nothing. The replica does not trust a worker: what it reads is bounded, and a tensor fills its shape or is a fault.

mod request;

use std::{
    io::{self, Read},
    time::Duration,
};

use bytes::{Buf, Bytes};
use strum::VariantArray;

pub(super) use request::{LoadFiles, Request, Task, decode_request, encode_call, encode_load, encode_unload, renumber};

use crate::{
    session::{Computed, RunFault},
    tensor::{Datatype, Tensor, decode_computed, encode_binary, encoded_len},
};

/// The bytes of a length.
const LENGTH_BYTES: usize = 8;
/// More dimensions than any tensor has.
const RANK_MAX: usize = 64;
/// What an answer takes besides the elements of its tensors: shapes, or the text of a fault.
pub(super) const ANSWER_OVERHEAD_BYTES: usize = 1 << 20;
/// A fault of ONNX Runtime in words; what is longer is cut.
const FAULT_BYTES_MAX: usize = 4096;

/// A message that is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("a message of {0} bytes is not well-formed")]
pub(super) struct WireFault(pub(super) usize);

/// How the kinds of an answer are numbered.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Status {
    Computed = 0,
    Inputs = 1,
    Memory = 2,
    AnswerTooLong = 3,
    Cancelled = 4,
    Panicked = 5,
    Engine = 6,
}

/// Puts the length before a message.
pub(super) fn frame(message: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(LENGTH_BYTES + message.len());
    framed.extend_from_slice(&(message.len() as u64).to_le_bytes());
    framed.extend_from_slice(message);
    framed
}

/// Reads one message; none at the end of the stream.
pub(super) fn read(stream: &mut impl Read, bytes_max: u64) -> io::Result<Option<Bytes>> {
    let mut length = [0; LENGTH_BYTES];
    match stream.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u64::from_le_bytes(length);
    if length > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    let mut message = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    stream.take(length).read_to_end(&mut message)?;
    if message.len() as u64 == length { Ok(Some(Bytes::from(message))) } else { Ok(None) }
}

/// An answer with its length before it. One that is longer than `bytes_max` becomes a fault.
pub(super) fn encode_answer(outcome: Result<Computed, RunFault>, is_over_mark: bool, bytes_max: u64) -> Vec<u8> {
    let outcome = outcome.and_then(|computed| {
        let bytes = computed.outputs.iter().map(|output| encoded_len(output.data()) as u64).sum();
        if bytes > bytes_max { Err(RunFault::AnswerTooLong { bytes, bytes_max }) } else { Ok(computed) }
    });
    let outputs = outcome.as_ref().map_or(&[][..], |computed| &computed.outputs);
    let mut message = begin(64 + FAULT_BYTES_MAX, outputs);
    message.push(u8::from(is_over_mark));
    match &outcome {
        Ok(computed) => {
            message.push(Status::Computed as u8);
            put_u64(&mut message, u64::try_from(computed.compute.as_nanos()).unwrap_or(u64::MAX));
            put_tensors(&mut message, &computed.outputs);
        }
        Err(RunFault::Inputs(text)) => put_fault(&mut message, Status::Inputs, text),
        Err(RunFault::Memory(text)) => put_fault(&mut message, Status::Memory, text),
        Err(RunFault::AnswerTooLong { bytes, bytes_max }) => {
            message.push(Status::AnswerTooLong as u8);
            put_u64(&mut message, *bytes);
            put_u64(&mut message, *bytes_max);
        }
        Err(RunFault::Cancelled) => message.push(Status::Cancelled as u8),
        Err(RunFault::Panicked) => message.push(Status::Panicked as u8),
        Err(RunFault::Engine(text)) => put_fault(&mut message, Status::Engine, text),
    }
    finish(message)
}

/// What a worker computed. The first byte says whether it holds too much memory.
pub(super) fn decode_answer(mut message: Bytes) -> Result<Result<Computed, RunFault>, WireFault> {
    let fault = WireFault(message.len());
    let mut decode = || {
        message.try_get_u8().ok()?;
        let status = message.try_get_u8().ok()?;
        let text = || String::from_utf8_lossy(message.get(..FAULT_BYTES_MAX).unwrap_or(&message)).into_owned();
        Some(match status {
            0 => {
                let compute = Duration::from_nanos(message.try_get_u64_le().ok()?);
                Ok(Computed { outputs: get_tensors(&mut message)?, compute })
            }
            1 => Err(RunFault::Inputs(text())),
            2 => Err(RunFault::Memory(text())),
            3 => {
                let bytes = message.try_get_u64_le().ok()?;
                Err(RunFault::AnswerTooLong { bytes, bytes_max: message.try_get_u64_le().ok()? })
            }
            4 => Err(RunFault::Cancelled),
            5 => Err(RunFault::Panicked),
            6 => Err(RunFault::Engine(text())),
            _ => return None,
        })
    };
    decode().ok_or(fault)
}

/// The answer to a load or an unload: this text, after the flag that every answer begins with.
pub(super) fn encode_text(text: &[u8]) -> Vec<u8> {
    let mut message = begin(1 + text.len(), &[]);
    message.push(0);
    message.extend_from_slice(text);
    finish(message)
}

/// What such an answer says.
pub(super) fn decode_text(mut message: Bytes) -> Result<Bytes, WireFault> {
    let fault = WireFault(message.len());
    message.try_get_u8().map(|_| message).map_err(|_| fault)
}

/// Room for a message with these tensors, and for its length.
fn begin(bytes: usize, tensors: &[Tensor]) -> Vec<u8> {
    let tensors: usize = tensors.iter().map(|tensor| 32 + tensor.shape().len() * 8 + encoded_len(tensor.data())).sum();
    let mut message = Vec::with_capacity(LENGTH_BYTES + bytes + tensors);
    message.extend_from_slice(&[0; LENGTH_BYTES]);
    message
}

fn finish(mut message: Vec<u8>) -> Vec<u8> {
    let length = (message.len() - LENGTH_BYTES) as u64;
    if let Some((head, _)) = message.split_first_chunk_mut() {
        *head = length.to_le_bytes();
    }
    message
}

fn put_u64(message: &mut Vec<u8>, number: u64) {
    message.extend_from_slice(&number.to_le_bytes());
}

/// A number of things, or the position of one among them.
fn put_count(message: &mut Vec<u8>, count: usize) {
    message.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn get_count(message: &mut Bytes) -> Option<usize> {
    usize::try_from(message.try_get_u32_le().ok()?).ok()
}

fn put_fault(message: &mut Vec<u8>, status: Status, text: &str) {
    message.push(status as u8);
    message.extend(text.bytes().take(FAULT_BYTES_MAX));
}

fn put_tensors(message: &mut Vec<u8>, tensors: &[Tensor]) {
    put_count(message, tensors.len());
    for tensor in tensors {
        message.push(tensor.datatype() as u8);
        put_count(message, tensor.shape().len());
        for dimension in tensor.shape() {
            message.extend_from_slice(&dimension.to_le_bytes());
        }
        put_u64(message, encoded_len(tensor.data()) as u64);
        encode_binary(tensor.data(), message);
    }
}

fn get_tensors(message: &mut Bytes) -> Option<Vec<Tensor>> {
    let count = get_count(message)?;
    // No tensor takes less than its own head, so the reservation is bounded by what was sent.
    let mut tensors = Vec::with_capacity(count.min(message.len() / 13));
    for _ in 0..count {
        let datatype = *Datatype::VARIANTS.get(usize::from(message.try_get_u8().ok()?))?;
        let rank = get_count(message).filter(|rank| *rank <= RANK_MAX)?;
        let shape = (0..rank).map(|_| message.try_get_i64_le().ok()).collect::<Option<_>>()?;
        let bytes = usize::try_from(message.try_get_u64_le().ok()?).ok().filter(|bytes| *bytes <= message.len())?;
        tensors.push(decode_computed(datatype, shape, &message.split_to(bytes)).ok()?);
    }
    Some(tensors)
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::tensor::Data;

    pub(super) fn tensors() -> Vec<Tensor> {
        let tensor = |shape: &[i64], data| Tensor::new(shape.to_vec(), data).unwrap();
        vec![
            tensor(&[2, 2], Data::Fp32(vec![1.0, f32::NAN, -0.0, f32::INFINITY])),
            tensor(&[], Data::Int64(vec![i64::MIN])),
            tensor(&[2], Data::Bytes(vec![Bytes::from_static(b"a\0b"), Bytes::new()])),
            tensor(&[0, 3], Data::Fp16(Vec::<f16>::new())),
            tensor(&[3], Data::Bool(vec![true, false, true])),
        ]
    }

    pub(super) fn unframed(framed: &[u8]) -> Bytes {
        read(&mut &framed[..], u64::MAX).unwrap().unwrap()
    }

    #[test]
    fn answers_round_trip() {
        let computed = Computed { outputs: tensors(), compute: Duration::from_nanos(12) };
        let answer = unframed(&encode_answer(Ok(computed), true, 1 << 20));
        assert_eq!(answer[0], 1);
        let computed = decode_answer(answer).unwrap().unwrap();
        assert_eq!(computed.compute, Duration::from_nanos(12));
        // NaN is not equal to itself, its text is.
        assert_eq!(format!("{:?}", computed.outputs), format!("{:?}", tensors()));
        assert_eq!(decode_text(unframed(&encode_text(b"yes"))).unwrap(), "yes");
        assert!(decode_text(Bytes::new()).is_err());
    }

    #[test]
    fn every_fault_round_trips() {
        for fault in [
            RunFault::Inputs("ä".to_owned()),
            RunFault::Memory("m".to_owned()),
            RunFault::AnswerTooLong { bytes: 9, bytes_max: 8 },
            RunFault::Cancelled,
            RunFault::Panicked,
            RunFault::Engine(String::new()),
        ] {
            let answer = decode_answer(unframed(&encode_answer(Err(fault.clone()), false, 0))).unwrap();
            assert_eq!(answer.err(), Some(fault));
        }
    }

    #[test]
    fn an_answer_over_its_bound_becomes_a_fault() {
        let computed = || Computed { outputs: tensors(), compute: Duration::ZERO };
        let bytes: u64 = tensors().iter().map(|tensor| encoded_len(tensor.data()) as u64).sum();
        let outcome = |bytes_max| decode_answer(unframed(&encode_answer(Ok(computed()), false, bytes_max))).unwrap();
        assert!(outcome(bytes).is_ok());
        assert_eq!(outcome(bytes - 1).err(), Some(RunFault::AnswerTooLong { bytes, bytes_max: bytes - 1 }));
    }

    /// Cut anywhere, or with any bit changed, an answer is a fault or another answer, and never a panic.
    #[test]
    fn a_damaged_answer_is_no_panic() {
        let computed = Computed { outputs: tensors(), compute: Duration::ZERO };
        let whole = unframed(&encode_answer(Ok(computed), false, 1 << 20));
        for end in 0..whole.len() {
            assert!(decode_answer(whole.slice(..end)).is_err(), "{end}");
            for bit in 0..8 {
                let mut damaged = whole.to_vec();
                damaged[end] ^= 1 << bit;
                let _either = decode_answer(Bytes::from(damaged)).is_ok();
            }
        }
        assert!(read(&mut &9_u64.to_le_bytes()[..], 8).is_err());
        assert!(read(&mut &[9, 0, 0, 0, 0, 0, 0, 0, 1][..], 9).unwrap().is_none());
    }
}
