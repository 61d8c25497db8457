//! The tensor object of the REST protocol: `{"name", "shape", "datatype", "parameters", "data"}`, in any order.

use std::borrow::Cow;

use engine::tensor::{Datatype, Tensor};

use crate::protocol::json::{Fault, Reader, ValueKind, read_data};

/// More dimensions than any real tensor has.
pub(crate) const RANK_MAX: usize = 32;

/// A tensor object as it was sent.
pub(crate) struct TensorObject<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) datatype: Datatype,
    pub(crate) shape: Vec<i64>,
    pub(crate) contents: Contents,
}

/// Where a tensor's elements are.
pub(crate) enum Contents {
    /// They were in `data`.
    Json(Tensor),
    /// They follow the JSON, this many bytes.
    Binary(usize),
}

/// A parameter's value; the protocol allows no others.
#[derive(Debug, PartialEq)]
pub(crate) enum Parameter<'a> {
    Text(Cow<'a, str>),
    Number(&'a str),
    Bool(bool),
}

/// What was read so far of an object whose fields may come in any order.
#[derive(Default)]
struct Fields<'a> {
    name: Option<Cow<'a, str>>,
    datatype: Option<Datatype>,
    shape: Option<Vec<i64>>,
    binary_size: Option<usize>,
    data: Option<Contents>,
    /// Where `data` lies, when it came before what is needed to read it.
    data_later: Option<usize>,
}

/// Reads one tensor object.
pub(crate) fn read_tensor<'a>(reader: &mut Reader<'a>) -> Result<TensorObject<'a>, Fault> {
    let (mut fields, mut parameters) = (Fields::default(), None);
    reader.object(|reader, key| match &*key {
        "data" | "parameters" if reader.null()? => Ok(()),
        "name" => fill(&mut fields.name, "name", || reader.string()),
        "datatype" => fill(&mut fields.datatype, "datatype", || read_datatype(reader)),
        "shape" => fill(&mut fields.shape, "shape", || read_shape(reader)),
        "parameters" => fill(&mut parameters, "parameters", || read_tensor_parameters(reader, &mut fields)),
        "data" => fields.read_data(reader).map_err(|fault| fault.key("data")),
        _ => reader.skip().map(drop).map_err(|fault| fault.key(key.into_owned())),
    })?;
    let missing = |field: &'static str| Fault::value("is missing").key(field);
    if let Some(offset) = fields.data_later.take() {
        // The data was put off until both were known; what never came is the fault, not the data.
        fields.datatype.as_ref().ok_or_else(|| missing("datatype"))?;
        fields.shape.as_ref().ok_or_else(|| missing("shape"))?;
        fields.read_data(&mut reader.at(offset)).map_err(|fault| fault.key("data"))?;
    }
    let contents = match (fields.data, fields.binary_size) {
        (Some(contents), None) => contents,
        (None, Some(size)) => Contents::Binary(size),
        (Some(_), Some(_)) => return Err(Fault::value("has both \"data\" and \"binary_data_size\"")),
        (None, None) => return Err(missing("data")),
    };
    Ok(TensorObject {
        name: fields.name.ok_or_else(|| missing("name"))?,
        datatype: fields.datatype.ok_or_else(|| missing("datatype"))?,
        shape: fields.shape.ok_or_else(|| missing("shape"))?,
        contents,
    })
}

/// Reads a `parameters` object, calling `visit` with each. One that is `null` is as if it were not there.
pub(crate) fn read_parameters<'a>(
    reader: &mut Reader<'a>,
    mut visit: impl FnMut(&str, Parameter<'a>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    reader.object(|reader, key| {
        if reader.null()? {
            return Ok(());
        }
        let value = match reader.peek()? {
            ValueKind::String => reader.string().map(Parameter::Text),
            ValueKind::Number => reader.number().map(Parameter::Number),
            ValueKind::Bool => reader.bool().map(Parameter::Bool),
            next => Err(Fault::value(format!("must be a string, a number or true or false, not {next}"))),
        };
        value.and_then(|value| visit(&key, value)).map_err(|fault| fault.key(key.into_owned()))
    })
}

/// Fills a field, and says of a fault under which key it lies.
pub(crate) fn fill<T>(
    slot: &mut Option<T>,
    key: &'static str,
    read: impl FnOnce() -> Result<T, Fault>,
) -> Result<(), Fault> {
    *slot = Some(read().map_err(|fault| fault.key(key))?);
    Ok(())
}

// === impl Fields ===

impl<'a> Fields<'a> {
    fn read_data(&mut self, reader: &mut Reader<'a>) -> Result<(), Fault> {
        let (Some(datatype), Some(shape)) = (self.datatype, &self.shape) else {
            self.data_later = Some(reader.skip()?);
            return Ok(());
        };
        self.data = Some(Contents::Json(read_data(reader, datatype, shape.clone())?));
        Ok(())
    }
}

fn read_datatype(reader: &mut Reader<'_>) -> Result<Datatype, Fault> {
    let name = reader.string()?;
    Datatype::parse(&name).map_err(|fault| Fault::value(fault.to_string()))
}

fn read_shape(reader: &mut Reader<'_>) -> Result<Vec<i64>, Fault> {
    let mut shape = Vec::with_capacity(4);
    reader.array(|reader, index| {
        if index == RANK_MAX {
            return Err(Fault::value(format!("more than {RANK_MAX} dimensions")));
        }
        let dimension = reader
            .number()
            .map_err(|fault| fault.index(index))?
            .parse::<i64>()
            .ok()
            .filter(|dimension| *dimension >= 0);
        shape.push(dimension.ok_or_else(|| Fault::value("a dimension is a whole number from 0").index(index))?);
        Ok(())
    })?;
    Ok(shape)
}

fn read_tensor_parameters(reader: &mut Reader<'_>, fields: &mut Fields<'_>) -> Result<(), Fault> {
    read_parameters(reader, |key, value| match (key, value) {
        ("binary_data_size", Parameter::Number(text)) => {
            fields.binary_size = Some(text.parse().map_err(|_| Fault::value("must be a number of bytes"))?);
            Ok(())
        }
        ("binary_data_size", _) => Err(Fault::value("must be a number of bytes")),
        ("shared_memory_region", _) => Err(Fault::value("shared memory is not offered")),
        _ => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use engine::tensor::Data;

    use super::*;

    fn read(text: &str) -> Result<TensorObject<'_>, String> {
        read_tensor(&mut Reader::new(text.as_bytes())).map_err(|fault| fault.to_string())
    }

    #[test]
    fn fields_come_in_any_order() {
        for text in [
            r#"{"name":"x","shape":[2],"datatype":"FP32","data":[1,2]}"#,
            r#"{"data":[1,2],"datatype":"FP32","extra":{"a":[null]},"shape":[2],"name":"x"}"#,
            r#"{"shape":[2],"data":[1,2],"parameters":{"note":"n"},"name":"\u0078","datatype":"FP32"}"#,
            r#"{"name":"x","shape":[2],"datatype":"FP32","parameters":{"note":null},"data":[1,2]}"#,
            r#"{"name":"x","shape":[2],"datatype":"FP32","data":[1,2],"parameters":null}"#,
        ] {
            let tensor = read(text).unwrap();
            assert_eq!((&*tensor.name, tensor.datatype, &*tensor.shape), ("x", Datatype::Fp32, &[2][..]));
            assert!(matches!(tensor.contents, Contents::Json(tensor) if *tensor.data() == Data::Fp32(vec![1.0, 2.0])));
        }
    }

    #[test]
    fn each_wrong_field_is_named() {
        let fault = |text: &str| read(text).err().unwrap();
        assert!(fault(r#"{"shape":[1],"datatype":"FP32","data":[1]}"#).starts_with("name: is missing"));
        assert!(fault(r#"{"name":"x","datatype":"FP32","shape":[1]}"#).starts_with("data: is missing"));
        assert!(fault(r#"{"name":"x","datatype":"fp32","shape":[1],"data":[1]}"#).starts_with("datatype:"));
        assert!(fault(r#"{"name":"x","datatype":"FP32","shape":[-1],"data":[1]}"#).starts_with("shape[0]:"));
        assert!(fault(r#"{"name":"x","datatype":"FP32","shape":"1","data":[1]}"#).starts_with("shape:"));
        assert!(fault(r#"{"name":"x","datatype":"FP16","shape":[1],"data":[1]}"#).contains("binary"));
        assert!(fault(r#"{"data":[1],"name":"x","datatype":"BF16","shape":[1]}"#).contains("binary"));
        assert!(fault(r#"{"name":"x","name":"y"}"#).contains("twice"));
        assert!(fault(r#"{"data":[1],"data":[2]}"#).contains("data: is given twice"));
        assert!(fault(r#"{"data":null,"data":[2]}"#).contains("data: is given twice"));
        assert!(fault(r#"{"extra":1,"extra":1}"#).contains("extra: is given twice"));
        assert!(
            fault(r#"{"name":"x","datatype":"FP32","shape":[1],"data":[1],"parameters":{"binary_data_size":4}}"#)
                .contains("both")
        );
        assert!(fault(r#"{"parameters":{"binary_data_size":-4}}"#).starts_with("parameters.binary_data_size:"));
        assert!(fault(r#"{"parameters":{"shared_memory_region":"r"}}"#).contains("shared memory"));
        assert!(fault(r#"{"parameters":{"a":[1]}}"#).starts_with("parameters.a:"));
        assert!(fault(r#"{"parameters":{"a":1,"\u0061":1}}"#).starts_with("parameters.a: is given twice"));
        assert!(fault(r#"{"parameters":{},"parameters":{}}"#).starts_with("parameters: is given twice"));
        assert!(fault(r#"{"name":null}"#).starts_with("name: must be a string, not null"));
    }
}
