//! ZipMap, which scikit-learn's exporters put last: it makes a list of maps, class to probability, of a matrix.
//!
//! Maps are no tensors of the protocol, and slow. The matrix that goes into it is served instead, with the classes as the
//! names of its columns. <https://onnx.ai/onnx/operators/onnx_aionnxml_ZipMap.html>

use prost::Message;

use super::{
    format::varint,
    messages::{Attribute, Dimension, NodeProto, Shape, TensorType, TypeProto, ValueInfo},
};

/// What it is called by those who use the protocol.
pub(crate) const PROBABILITIES: &str = "probabilities";
/// `onnx.TensorProto.FLOAT`, the only element type that it takes.
const FLOAT: i32 = 1;
/// The numbers of fields of `onnx.ModelProto` and `onnx.GraphProto`.
const MODEL_GRAPH: u64 = 7;
const GRAPH_NODE: u64 = 1;
const GRAPH_OUTPUT: u64 = 12;

/// One ZipMap of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ZipMap {
    /// The matrix that it reads.
    pub(crate) scores: String,
    /// The maps that it gives.
    pub(crate) output: String,
    /// In the order of the matrix's columns.
    pub(crate) classes: Vec<String>,
}

/// One field of a message.
struct Field<'a> {
    number: u64,
    /// With its key.
    whole: &'a [u8],
    /// Without; empty for what has no length.
    body: &'a [u8],
}

// === impl ZipMap ===

impl ZipMap {
    pub(super) fn find(nodes: &[NodeProto]) -> Result<Vec<Self>, String> {
        let zipmaps = nodes.iter().filter(|node| is_zipmap(node)).map(Self::of).collect::<Result<Vec<_>, _>>()?;
        let is_read = |zipmap: &Self| nodes.iter().any(|node| node.input.contains(&zipmap.output));
        match zipmaps.iter().find(|zipmap| is_read(zipmap)) {
            None => Ok(zipmaps),
            Some(zipmap) => Err(format!(
                "another node computes with the maps {:?} of a ZipMap, and maps are not served: export the model without it \
                 (options={{'zipmap': False}})",
                zipmap.output
            )),
        }
    }

    fn of(node: &NodeProto) -> Result<Self, String> {
        let ([scores], [output]) = (&*node.input, &*node.output) else {
            return Err("a ZipMap without one input and one output".to_owned());
        };
        let mut classes = Vec::new();
        for attribute in &node.attribute {
            let attribute = Attribute::decode(attribute.clone()).map_err(|error| format!("a ZipMap: {error}"))?;
            match &*attribute.name {
                "classlabels_int64s" => classes.extend(attribute.ints.iter().map(i64::to_string)),
                "classlabels_strings" => classes.extend(attribute.texts()),
                _ => {}
            }
        }
        Ok(Self { scores: scores.clone(), output: output.clone(), classes })
    }

    fn matrix(&self) -> ValueInfo {
        let classes = i64::try_from(self.classes.len()).ok();
        let dimensions = vec![Dimension { length: None }, Dimension { length: classes }];
        let tensor = TensorType { element: FLOAT, shape: Some(Shape { dimensions }) };
        ValueInfo {
            name: self.scores.clone(),
            r#type: Some(TypeProto { tensor: Some(tensor), ..TypeProto::default() }),
        }
    }
}

fn is_zipmap(node: &NodeProto) -> bool {
    node.op_type == "ZipMap" && node.domain == "ai.onnx.ml"
}

/// The model with the matrices as outputs in the place of the maps, and without the nodes that made these.
pub(crate) fn without_zipmaps(model: &[u8], zipmaps: &[ZipMap]) -> Result<Vec<u8>, String> {
    let mut rewritten = Vec::with_capacity(model.len());
    for field in fields(model) {
        let field = field?;
        if field.number == MODEL_GRAPH {
            put(&mut rewritten, MODEL_GRAPH, &rewrite_graph(field.body, zipmaps)?);
        } else {
            rewritten.extend_from_slice(field.whole);
        }
    }
    Ok(rewritten)
}

fn rewrite_graph(graph: &[u8], zipmaps: &[ZipMap]) -> Result<Vec<u8>, String> {
    let malformed = |error: prost::DecodeError| format!("not an ONNX model: {error}");
    let mut rewritten = Vec::with_capacity(graph.len());
    for field in fields(graph) {
        let field = field?;
        match field.number {
            // The operator's name is looked for first: most nodes of a large graph are not decoded twice.
            GRAPH_NODE if field.body.windows(6).any(|part| part == b"ZipMap") => {
                let node = NodeProto::decode(field.body).map_err(malformed)?;
                if !is_zipmap(&node) {
                    rewritten.extend_from_slice(field.whole);
                }
            }
            GRAPH_OUTPUT => {
                let name = ValueInfo::decode(field.body).map_err(malformed)?.name;
                match zipmaps.iter().find(|zipmap| zipmap.output == name) {
                    Some(zipmap) => put(&mut rewritten, GRAPH_OUTPUT, &zipmap.matrix().encode_to_vec()),
                    None => rewritten.extend_from_slice(field.whole),
                }
            }
            _ => rewritten.extend_from_slice(field.whole),
        }
    }
    Ok(rewritten)
}

/// The fields of a message, in their order.
fn fields(message: &[u8]) -> impl Iterator<Item = Result<Field<'_>, String>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        (!rest.is_empty()).then(|| {
            let field = next_field(rest).ok_or_else(|| "not an ONNX model: it ends inside a field".to_owned());
            rest = field.as_ref().ok().and_then(|field| rest.get(field.whole.len()..)).unwrap_or_default();
            field
        })
    })
}

/// Wire types: <https://protobuf.dev/programming-guides/encoding/#structure>.
fn next_field(message: &[u8]) -> Option<Field<'_>> {
    let mut at = 0;
    let key = varint(message, &mut at)?;
    let mut body = 0..0;
    let end = match key & 7 {
        0 => {
            varint(message, &mut at)?;
            at
        }
        1 => at.checked_add(8)?,
        2 => {
            let length = usize::try_from(varint(message, &mut at)?).ok()?;
            body = at..at.checked_add(length)?;
            body.end
        }
        5 => at.checked_add(4)?,
        _ => return None,
    };
    Some(Field { number: key >> 3, whole: message.get(..end)?, body: message.get(body)? })
}

fn put(message: &mut Vec<u8>, number: u64, body: &[u8]) {
    prost::encoding::encode_varint(number << 3 | 2, message);
    prost::encoding::encode_varint(body.len() as u64, message);
    message.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model_file::graph::Graph;

    /// A ZipMap of a matrix `p`, with an attribute before it, in a graph with another node and another output.
    fn model() -> Vec<u8> {
        let classes = Attribute {
            name: "classlabels_strings".to_owned(),
            ints: vec![],
            strings: vec!["no".into(), "yes".into()],
        };
        let zipmap = NodeProto {
            input: vec!["p".to_owned()],
            output: vec!["maps".to_owned()],
            op_type: "ZipMap".to_owned(),
            attribute: vec![classes.encode_to_vec().into()],
            domain: "ai.onnx.ml".to_owned(),
        };
        let other = NodeProto { op_type: "NotAZipMap".to_owned(), ..NodeProto::default() };
        let output = |name: &str| ValueInfo { name: name.to_owned(), r#type: None };
        let mut graph = Vec::new();
        put(&mut graph, GRAPH_NODE, &other.encode_to_vec());
        put(&mut graph, GRAPH_NODE, &zipmap.encode_to_vec());
        put(&mut graph, GRAPH_OUTPUT, &output("label").encode_to_vec());
        put(&mut graph, GRAPH_OUTPUT, &output("maps").encode_to_vec());
        let mut model = vec![0x08, 9];
        put(&mut model, MODEL_GRAPH, &graph);
        model.extend_from_slice(&[0x42, 2, 0x10, 13]);
        model
    }

    #[test]
    fn the_matrix_takes_the_place_of_the_maps() {
        let model = model();
        let zipmaps = Graph::read(model.clone().into()).unwrap().zipmaps;
        let expected = ZipMap {
            scores: "p".to_owned(),
            output: "maps".to_owned(),
            classes: vec!["no".to_owned(), "yes".to_owned()],
        };
        assert_eq!(zipmaps, [expected]);
        let rewritten = without_zipmaps(&model, &zipmaps).unwrap();
        let graph = Graph::read(rewritten.clone().into()).unwrap();
        assert_eq!((graph.ir_version, graph.opset), (9, 13));
        assert!(graph.zipmaps.is_empty());
        let text = String::from_utf8_lossy(&rewritten);
        assert!(text.contains("NotAZipMap") && text.contains("label") && !text.contains("maps"));
    }

    #[test]
    fn maps_that_are_computed_with_cannot_be_left_out() {
        let node = |op_type: &str, input: &str, output: &str| NodeProto {
            op_type: op_type.to_owned(),
            input: vec![input.to_owned()],
            output: vec![output.to_owned()],
            domain: "ai.onnx.ml".to_owned(),
            attribute: vec![],
        };
        let nodes = [node("ZipMap", "p", "maps"), node("Other", "maps", "y")];
        assert!(ZipMap::find(&nodes).unwrap_err().contains("another node computes with the maps \"maps\""));
        let foreign = NodeProto { domain: "other".to_owned(), ..node("ZipMap", "p", "maps") };
        assert_eq!(ZipMap::find(&[foreign]), Ok(vec![]));
    }

    #[test]
    fn a_model_without_zipmaps_stays_as_it_is() {
        let model = without_zipmaps(&model(), &Graph::read(model().into()).unwrap().zipmaps).unwrap();
        assert_eq!(without_zipmaps(&model, &[]).unwrap(), model);
    }

    proptest! {
        /// Cut or damaged, a file is a fault or another file, and never a panic.
        #[test]
        fn a_damaged_file_is_no_panic(at in 0_usize..100, byte in any::<u8>(), end in 0_usize..200) {
            let mut model = model();
            let place = at % model.len();
            model[place] = byte;
            model.truncate(end);
            let zipmaps = Graph::read(model.clone().into()).map(|graph| graph.zipmaps).unwrap_or_default();
            let _either = without_zipmaps(&model, &zipmaps).is_ok();
        }
    }
}
