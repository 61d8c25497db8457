//! What a replica asks of a worker: a call, or to load or unload a model.
//!
//! A request is an id, a kind and a slot, and what its kind needs. A slot is a place for one model in a worker; one that has a single model
//! has it in slot 0.

use bytes::{Buf, Bytes};

use super::{LENGTH_BYTES, WireFault, begin, finish, get_count, get_tensors, put_count, put_tensors, put_u64};
use crate::tensor::Tensor;

/// The bytes of an id, a kind and a slot.
const HEAD_BYTES: usize = 13;

/// What a worker is to do next.
#[derive(Debug)]
pub(in crate::worker) struct Request {
    /// By which it can be cancelled.
    pub(in crate::worker) id: u64,
    /// Which of its models is meant.
    pub(in crate::worker) slot: u32,
    pub(in crate::worker) task: Task,
}

#[derive(Debug)]
pub(in crate::worker) enum Task {
    /// Compute these outputs.
    Call { inputs: Vec<Tensor>, wanted: Vec<usize> },
    /// Load and prove a model.
    Load(LoadFiles),
    /// Drop it.
    Unload,
}

/// What is loaded: the declaration (JSON), `golden.json`, the files with weights by their names, and the model file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::worker) struct LoadFiles {
    pub(in crate::worker) declared: Bytes,
    pub(in crate::worker) golden: Bytes,
    pub(in crate::worker) data: Vec<(String, Bytes)>,
    pub(in crate::worker) model: Bytes,
}

/// How the kinds of a request are numbered.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    Call = 0,
    Load = 1,
    Unload = 2,
}

/// A call with its length before it.
pub(in crate::worker) fn encode_call(id: u64, slot: u32, inputs: &[Tensor], wanted: &[usize]) -> Vec<u8> {
    let mut message = begin(64 + wanted.len() * 4, inputs);
    put_head(&mut message, id, Kind::Call, slot);
    put_count(&mut message, wanted.len());
    for position in wanted {
        put_count(&mut message, *position);
    }
    put_tensors(&mut message, inputs);
    finish(message)
}

/// The same for a load.
pub(in crate::worker) fn encode_load(id: u64, slot: u32, files: &LoadFiles) -> Vec<u8> {
    let LoadFiles { declared, golden, data, model } = files;
    let data_bytes: usize = data.iter().map(|(name, bytes)| name.len() + bytes.len() + 16).sum();
    let mut message = begin(64 + declared.len() + golden.len() + data_bytes + model.len(), &[]);
    put_head(&mut message, id, Kind::Load, slot);
    put_part(&mut message, declared);
    put_part(&mut message, golden);
    put_count(&mut message, data.len());
    for (name, bytes) in data {
        put_part(&mut message, name.as_bytes());
        put_part(&mut message, bytes);
    }
    message.extend_from_slice(model);
    finish(message)
}

/// The same for an unload.
pub(in crate::worker) fn encode_unload(id: u64, slot: u32) -> Vec<u8> {
    let mut message = begin(HEAD_BYTES, &[]);
    put_head(&mut message, id, Kind::Unload, slot);
    finish(message)
}

/// The same request under another id.
pub(in crate::worker) fn renumber(framed: &[u8], id: u64) -> Vec<u8> {
    let mut framed = framed.to_vec();
    if let Some(place) = framed.get_mut(LENGTH_BYTES..LENGTH_BYTES + size_of::<u64>()) {
        place.copy_from_slice(&id.to_le_bytes());
    }
    framed
}

pub(in crate::worker) fn decode_request(mut message: Bytes) -> Result<Request, WireFault> {
    let fault = WireFault(message.len());
    let mut decode = || {
        let id = message.try_get_u64_le().ok()?;
        let kind = message.try_get_u8().ok()?;
        let slot = message.try_get_u32_le().ok()?;
        let task = match kind {
            0 => {
                let wanted = (0..get_count(&mut message)?).map(|_| get_count(&mut message)).collect::<Option<_>>()?;
                Task::Call { inputs: get_tensors(&mut message)?, wanted }
            }
            1 => {
                let (declared, golden) = (get_part(&mut message)?, get_part(&mut message)?);
                let data = (0..get_count(&mut message)?).map(|_| get_data(&mut message)).collect::<Option<_>>()?;
                Task::Load(LoadFiles { declared, golden, data, model: message.split_off(0) })
            }
            2 => Task::Unload,
            _ => return None,
        };
        Some(Request { id, slot, task })
    };
    decode().ok_or(fault)
}

fn put_head(message: &mut Vec<u8>, id: u64, kind: Kind, slot: u32) {
    put_u64(message, id);
    message.push(kind as u8);
    message.extend_from_slice(&slot.to_le_bytes());
}

fn put_part(message: &mut Vec<u8>, part: &[u8]) {
    put_u64(message, part.len() as u64);
    message.extend_from_slice(part);
}

fn get_data(message: &mut Bytes) -> Option<(String, Bytes)> {
    Some((String::from_utf8(get_part(message)?.to_vec()).ok()?, get_part(message)?))
}

fn get_part(message: &mut Bytes) -> Option<Bytes> {
    let bytes = usize::try_from(message.try_get_u64_le().ok()?).ok().filter(|bytes| *bytes <= message.len())?;
    Some(message.split_to(bytes))
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{tensors, unframed},
        *,
    };

    #[test]
    fn calls_round_trip() {
        let round_trip = |framed: &[u8]| {
            let request = decode_request(unframed(framed)).unwrap();
            let Task::Call { inputs, wanted } = request.task else { panic!("{request:?}") };
            // NaN is not equal to itself, its text is.
            assert_eq!(format!("{inputs:?}"), format!("{:?}", tensors()));
            (request.id, request.slot, wanted)
        };
        let framed = encode_call(7, 3, &tensors(), &[3, 0]);
        assert_eq!(round_trip(&framed), (7, 3, vec![3, 0]));
        assert_eq!(round_trip(&renumber(&framed, 8)), (8, 3, vec![3, 0]));
    }

    fn load(model: &'static [u8]) -> LoadFiles {
        let of = Bytes::from_static;
        LoadFiles { declared: of(b"{}"), golden: of(b"gold"), data: vec![("w".to_owned(), of(b"1"))], model: of(model) }
    }

    #[test]
    fn loads_and_unloads_round_trip() {
        let loaded = load(b"model");
        let request = decode_request(unframed(&encode_load(9, u32::MAX, &loaded))).unwrap();
        let Task::Load(files) = request.task else { panic!("{request:?}") };
        assert_eq!((request.id, request.slot), (9, u32::MAX));
        assert_eq!(files, loaded);
        let request = decode_request(unframed(&encode_unload(10, 4))).unwrap();
        assert!(matches!(request, Request { id: 10, slot: 4, task: Task::Unload }), "{request:?}");
    }

    /// Cut anywhere, or with any bit changed, a request is a fault or another request, and never a panic.
    #[test]
    fn a_damaged_request_is_no_panic() {
        let (call, load) = (encode_call(7, 1, &tensors(), &[0]), encode_load(7, 1, &load(b"")));
        for whole in [call, load, encode_unload(7, 1)].map(|framed| unframed(&framed)) {
            for end in 0..whole.len() {
                assert!(decode_request(whole.slice(..end)).is_err(), "{end} of {whole:?}");
                for bit in 0..8 {
                    let mut damaged = whole.to_vec();
                    damaged[end] ^= 1 << bit;
                    let _either = decode_request(Bytes::from(damaged)).is_ok();
                }
            }
        }
    }

    #[test]
    fn an_unknown_kind_and_a_part_beyond_the_end_are_faults() {
        let mut unknown = unframed(&encode_unload(7, 1)).to_vec();
        unknown[8] = 3;
        assert!(decode_request(Bytes::from(unknown)).is_err());
        let mut long = unframed(&encode_load(7, 1, &load(b"model"))).to_vec();
        long[HEAD_BYTES..HEAD_BYTES + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(decode_request(Bytes::from(long)).is_err());
    }
}
