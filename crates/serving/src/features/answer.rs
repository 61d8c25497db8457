//! The answer to records: a prediction for each, by the names of the outputs and of their columns.

use axum::{body::Body, response::Response};
use engine::{
    TensorSpec,
    tensor::{Data, Tensor},
};
use http::{HeaderValue, header};
use model_repository::Model;
use problem::{Kind, Problem};

/// What of a request its answer needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reply {
    /// How many records there were.
    pub(super) rows: usize,
    /// Whether the first dimension of outputs is theirs.
    pub(super) has_rows: bool,
}

/// One output, cut into its parts for the records.
struct Output<'a> {
    /// Its name with quotes and colon.
    key: Vec<u8>,
    data: &'a Data,
    /// The dimensions of a part.
    shape: &'a [i64],
    /// The elements of a part.
    width: usize,
    /// Its names with quotes and colon, if its last dimension has some.
    columns: Vec<Vec<u8>>,
    is_scalar: bool,
}

/// Writes the predictions in the order of the records, in at most so many bytes: names are repeated in each of them.
pub(super) fn write(reply: Reply, model: &Model, outputs: &[Tensor], bytes_max: usize) -> Result<Response, Problem> {
    let specs = model.signature.outputs.iter().zip(outputs);
    let outputs: Vec<Output<'_>> =
        specs.map(|(spec, tensor)| Output::new(spec, tensor, reply)).collect::<Result<_, _>>()?;
    let mut body = Vec::with_capacity(256);
    body.extend_from_slice(b"{\"model\":");
    write_text(model.identity.name.as_str(), &mut body);
    body.extend_from_slice(b",\"version\":");
    write_text(&model.version_text, &mut body);
    body.extend_from_slice(b",\"sha256\":");
    write_text(&model.identity.digest.to_string(), &mut body);
    body.extend_from_slice(b",\"predictions\":[");
    write_predictions(reply.rows, &outputs, &mut body, bytes_max)?;
    body.extend_from_slice(b"]}");
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn write_predictions(rows: usize, outputs: &[Output<'_>], body: &mut Vec<u8>, bytes_max: usize) -> Result<(), Problem> {
    for row in 0..rows {
        let start = body.len();
        body.extend_from_slice(if row > 0 { b",{" } else { b"{" });
        for (index, output) in outputs.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&output.key);
            output.write_part(row, body).map_err(|fault| output.problem(row, fault))?;
            if body.len() > bytes_max {
                let detail = format!(
                    "the predictions take more than {bytes_max} bytes with their names; ask for fewer at a time"
                );
                return Err(Problem::new(Kind::TooLarge, detail));
            }
        }
        body.push(b'}');
        // Predictions are about as long as each other.
        if row == 0 {
            body.reserve((body.len() - start).saturating_mul(rows - 1).min(bytes_max));
        }
    }
    Ok(())
}

/// Why an element cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum NotJson {
    #[error("is NaN or infinite, which JSON cannot carry")]
    NonFinite,
    #[error("is a string that is not UTF-8")]
    Text,
}

// === impl Output ===

impl<'a> Output<'a> {
    fn new(spec: &TensorSpec, tensor: &'a Tensor, reply: Reply) -> Result<Self, Problem> {
        // Some converters declare 1 where any number comes out.
        let is_cut = reply.has_rows && matches!(spec.shape.first(), Some(-1 | 1));
        let (count, shape) = match tensor.shape().split_first() {
            Some((first, rest)) if is_cut => (usize::try_from(*first).ok(), rest),
            _ => (Some(1), tensor.shape()),
        };
        if count != Some(reply.rows) {
            let detail = format!(
                "the model answered {} with the shape {:?}, which has not a part for each of {} records; /v2/models/…/infer gives it as it is",
                spec.name,
                tensor.shape(),
                reply.rows
            );
            return Err(Problem::new(Kind::InvalidArgument, detail));
        }
        let width = tensor.data().len().checked_div(reply.rows).unwrap_or(0);
        let names_fit = |length: &i64| usize::try_from(*length) == Ok(spec.columns.len());
        let has_columns = !spec.columns.is_empty() && matches!(shape, [length] if names_fit(length));
        let columns = if has_columns { spec.columns.iter().map(|column| key(column)).collect() } else { Vec::new() };
        let is_scalar = shape.is_empty() || !has_columns && shape == [1] && (is_cut || spec.shape == [1]);
        Ok(Self { key: key(&spec.name), data: tensor.data(), shape, width, columns, is_scalar })
    }

    fn write_part(&self, row: usize, body: &mut Vec<u8>) -> Result<(), NotJson> {
        let mut next = row * self.width;
        if self.is_scalar {
            return write_element(self.data, next, body);
        }
        if self.columns.is_empty() {
            return self.write_list(self.shape, &mut next, body);
        }
        for (index, column) in self.columns.iter().enumerate() {
            body.push(if index > 0 { b',' } else { b'{' });
            body.extend_from_slice(column);
            write_element(self.data, next + index, body)?;
        }
        body.push(b'}');
        Ok(())
    }

    fn write_list(&self, shape: &[i64], next: &mut usize, body: &mut Vec<u8>) -> Result<(), NotJson> {
        let Some((length, rest)) = shape.split_first() else {
            write_element(self.data, *next, body)?;
            *next += 1;
            return Ok(());
        };
        body.push(b'[');
        for index in 0..*length {
            if index > 0 {
                body.push(b',');
            }
            self.write_list(rest, next, body)?;
        }
        body.push(b']');
        Ok(())
    }

    fn problem(&self, row: usize, fault: NotJson) -> Problem {
        let name = String::from_utf8_lossy(self.key.strip_suffix(b":").unwrap_or_default());
        let detail =
            format!("of row {row} an element of the output {name} {fault}: ask /v2/models/…/infer for it as binary");
        Problem::new(Kind::InvalidArgument, detail).field("outputs")
    }
}

/// Writes an element as `/v2/…/infer` does; half precision, which has no form there, as the number that it is.
fn write_element(data: &Data, at: usize, body: &mut Vec<u8>) -> Result<(), NotJson> {
    match data {
        Data::Bool(values) => plain(values.get(at), body),
        Data::Uint8(values) => plain(values.get(at), body),
        Data::Uint16(values) => plain(values.get(at), body),
        Data::Uint32(values) => plain(values.get(at), body),
        Data::Uint64(values) => plain(values.get(at), body),
        Data::Int8(values) => plain(values.get(at), body),
        Data::Int16(values) => plain(values.get(at), body),
        Data::Int32(values) => plain(values.get(at), body),
        Data::Int64(values) => plain(values.get(at), body),
        Data::Fp16(values) => float32(values.get(at).map(|value| value.to_f32()), body)?,
        Data::Bf16(values) => float32(values.get(at).map(|value| value.to_f32()), body)?,
        Data::Fp32(values) => float32(values.get(at).copied(), body)?,
        Data::Fp64(values) => {
            let value = values.get(at).copied();
            value.is_none_or(f64::is_finite).then(|| plain(value.as_ref(), body)).ok_or(NotJson::NonFinite)?;
        }
        Data::Bytes(values) => {
            let text = values.get(at).map(|value| std::str::from_utf8(value)).transpose().map_err(|_| NotJson::Text)?;
            plain(text.as_ref(), body);
        }
    }
    Ok(())
}

fn float32(value: Option<f32>, body: &mut Vec<u8>) -> Result<(), NotJson> {
    value.is_none_or(f32::is_finite).then(|| plain(value.as_ref(), body)).ok_or(NotJson::NonFinite)
}

fn plain<T: serde::Serialize>(value: Option<&T>, body: &mut Vec<u8>) {
    serde_json::to_writer(body, &value).expect("numbers and strings always serialise into memory");
}

fn write_text(text: &str, body: &mut Vec<u8>) {
    serde_json::to_writer(body, text).expect("a string always serialises into memory");
}

fn key(name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 3);
    write_text(name, &mut key);
    key.push(b':');
    key
}

#[cfg(test)]
mod tests {
    use engine::tensor::Datatype;

    use super::*;

    fn written(
        declared: &[i64],
        columns: &[&str],
        shape: &[i64],
        rows: usize,
        has_rows: bool,
    ) -> Result<String, Problem> {
        let count: i64 = shape.iter().product();
        let data = Data::Fp32((0_u16..u16::try_from(count).unwrap()).map(f32::from).collect());
        let tensor = Tensor::new(shape.to_vec(), data).unwrap();
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        let spec = TensorSpec { name: "y".to_owned(), datatype: Datatype::Fp32, shape: declared.to_vec(), columns };
        let mut body = Vec::new();
        let output = Output::new(&spec, &tensor, Reply { rows, has_rows })?;
        write_predictions(rows, &[output], &mut body, 200)?;
        Ok(String::from_utf8(body).unwrap())
    }

    #[test]
    fn outputs_are_cut_by_record() {
        let batch = |declared: &[i64], columns: &[&str], shape: &[i64], rows| {
            written(declared, columns, shape, rows, true).unwrap()
        };
        assert_eq!(batch(&[-1], &[], &[2], 2), r#"{"y":0.0},{"y":1.0}"#);
        assert_eq!(batch(&[-1, 1], &[], &[2, 1], 2), r#"{"y":0.0},{"y":1.0}"#);
        assert_eq!(batch(&[-1, 2], &[], &[2, 2], 2), r#"{"y":[0.0,1.0]},{"y":[2.0,3.0]}"#);
        assert_eq!(batch(&[-1, -1], &["n", "p"], &[1, 2], 1), r#"{"y":{"n":0.0,"p":1.0}}"#);
        assert_eq!(batch(&[-1, -1], &["n", "p"], &[1, 3], 1), r#"{"y":[0.0,1.0,2.0]}"#);
        assert_eq!(batch(&[-1, 2, 1], &[], &[1, 2, 1], 1), r#"{"y":[[0.0],[1.0]]}"#);
        assert_eq!(batch(&[1], &[], &[2], 2), r#"{"y":0.0},{"y":1.0}"#);
        assert_eq!(batch(&[1, 2], &[], &[1, 2], 1), r#"{"y":[0.0,1.0]}"#);
        let whole = |declared: &[i64], shape: &[i64]| written(declared, &[], shape, 1, false).unwrap();
        assert_eq!(whole(&[], &[]), r#"{"y":0.0}"#);
        assert_eq!(whole(&[1], &[1]), r#"{"y":0.0}"#);
        assert_eq!(whole(&[-1], &[1]), r#"{"y":[0.0]}"#);
        assert_eq!(whole(&[1, 1], &[1, 1]), r#"{"y":[[0.0]]}"#);
    }

    #[test]
    fn what_has_no_part_for_each_record_is_refused() {
        assert_eq!(written(&[-1], &[], &[3], 2, true).unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(written(&[2], &[], &[2], 2, true).unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(written(&[-1, 40], &[], &[2, 40], 2, true).unwrap_err().kind(), Kind::TooLarge);
    }
}
