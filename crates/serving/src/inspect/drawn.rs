//! Rows that are made up for a model of which there are no others: numbers that most models compute, always the same.

use bytes::Bytes;
use engine::{
    TensorSpec,
    tensor::{Data, Datatype, Tensor},
};
use half::{bf16, f16};

/// Rows of a batch.
const ROWS: i64 = 3;
/// Every other length that the model leaves open, e.g. of a text or an image.
const LENGTH: i64 = 8;
/// Strides of a Weyl sequence: what it gives is spread evenly over [0, 1).
const STRIDE: f64 = 0.618_033_988_749_894_9;

/// A tensor for each input: floats from -1 to 1, whole numbers 0 and 1, which are indices of most tables, and words. If the model knows
/// words for as many columns as there are of words, its own are taken: most encoders refuse others.
pub(super) fn tensors(inputs: &[TensorSpec], categories: &[Vec<String>]) -> Vec<Tensor> {
    let words: usize = inputs.iter().filter(|spec| spec.datatype == Datatype::Bytes).map(columns).sum();
    let mut left = if categories.len() == words { categories } else { &[] };
    let tensor = |spec: &TensorSpec| {
        let shape = shape(spec);
        let count: usize = shape.iter().filter_map(|length| usize::try_from(*length).ok()).product();
        let own = if spec.datatype == Datatype::Bytes { left.split_off(..columns(spec)) } else { None };
        let data = match own {
            Some(known) => Data::Bytes(words_of(known, count)),
            None => data(spec.datatype, count),
        };
        Tensor::new(shape, data).expect("there are as many elements as the shape has")
    };
    inputs.iter().map(tensor).collect()
}

fn shape(spec: &TensorSpec) -> Vec<i64> {
    let length = |(index, dimension): (usize, &i64)| match dimension {
        -1 if index == 0 => ROWS,
        -1 => LENGTH,
        fixed => *fixed,
    };
    spec.shape.iter().enumerate().map(length).collect()
}

/// How many columns of a table an input is.
fn columns(spec: &TensorSpec) -> usize {
    shape(spec).get(1..).unwrap_or_default().iter().filter_map(|length| usize::try_from(*length).ok()).product()
}

/// Row after row, of each column another of its words in each row.
fn words_of(columns: &[Vec<String>], count: usize) -> Vec<Bytes> {
    let word = |(row, words): (usize, &Vec<String>)| {
        let words = words.iter().cycle().skip(row % words.len().max(1));
        words.map(|word| Bytes::from(word.clone())).next().unwrap_or_default()
    };
    (0..).flat_map(|row| columns.iter().map(move |words| (row, words))).map(word).take(count).collect()
}

fn data(datatype: Datatype, count: usize) -> Data {
    let fractions = || std::iter::successors(Some(STRIDE), |fraction| Some((fraction + STRIDE).fract())).take(count);
    let floats = || fractions().map(|fraction| 2.0 * fraction - 1.0);
    let bits = || fractions().map(|fraction| fraction >= 0.5);
    match datatype {
        Datatype::Bool => Data::Bool(bits().collect()),
        Datatype::Uint8 => Data::Uint8(bits().map(u8::from).collect()),
        Datatype::Uint16 => Data::Uint16(bits().map(u16::from).collect()),
        Datatype::Uint32 => Data::Uint32(bits().map(u32::from).collect()),
        Datatype::Uint64 => Data::Uint64(bits().map(u64::from).collect()),
        Datatype::Int8 => Data::Int8(bits().map(i8::from).collect()),
        Datatype::Int16 => Data::Int16(bits().map(i16::from).collect()),
        Datatype::Int32 => Data::Int32(bits().map(i32::from).collect()),
        Datatype::Int64 => Data::Int64(bits().map(i64::from).collect()),
        Datatype::Fp16 => Data::Fp16(floats().map(f16::from_f64).collect()),
        Datatype::Bf16 => Data::Bf16(floats().map(bf16::from_f64).collect()),
        #[expect(clippy::cast_possible_truncation, reason = "any number near will do")]
        Datatype::Fp32 => Data::Fp32(floats().map(|value| value as f32).collect()),
        Datatype::Fp64 => Data::Fp64(floats().collect()),
        Datatype::Bytes => Data::Bytes(bits().map(|bit| Bytes::from_static(if bit { b"b" } else { b"a" })).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_fits() {
        for (datatype, shape) in
            [(Datatype::Fp32, vec![-1, 4]), (Datatype::Int64, vec![]), (Datatype::Bytes, vec![-1, -1, 2])]
        {
            let spec = TensorSpec { name: "x".to_owned(), datatype, shape, columns: vec![] };
            let tensor = &tensors(std::slice::from_ref(&spec), &[])[0];
            assert_eq!(spec.admit(tensor.data().datatype(), tensor.shape()), Ok(()));
        }
    }

    #[test]
    fn words_are_those_that_the_model_knows() {
        let spec = |name: &str, datatype, width| TensorSpec {
            name: name.to_owned(),
            datatype,
            shape: vec![-1, width],
            columns: vec![],
        };
        let inputs = [spec("a", Datatype::Bytes, 1), spec("n", Datatype::Fp32, 1), spec("b", Datatype::Bytes, 2)];
        let known = [vec!["x".to_owned(), "y".to_owned()], vec!["u".to_owned()], vec!["v".to_owned(), "w".to_owned()]];
        let texts = |tensor: &Tensor| match tensor.data() {
            Data::Bytes(words) => {
                words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect::<String>()
            }
            _ => String::new(),
        };
        let drawn = tensors(&inputs, &known);
        assert_eq!((&*texts(&drawn[0]), &*texts(&drawn[2])), ("xyx", "uvuwuv"));
        // Words of other columns than those of the inputs say nothing.
        assert_eq!(texts(&tensors(&inputs, &known[..2])[0]), "bab");
    }
}
