//! The first prediction through the front door, and how to repeat it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use http::Method;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::{access_folder::AccessFolder, api_path::ApiPath, client::Client, readiness::wait_for_model, say};

/// Used if it serves; otherwise the first model that does and has a golden example.
const PREFERRED_MODEL: &str = "breast-cancer-forest";
/// A model that serves on one replica is about to on the others.
const REPLICAS_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Datatypes without a JSON form in the inference protocol; by feature name they have one.
const NOT_IN_JSON: [&str; 2] = ["FP16", "BF16"];

/// A platform with its models and the folder with its tokens.
pub struct Demonstration<'a> {
    /// Has the tokens.
    pub folder: &'a AccessFolder,
    /// The folder of models, for golden examples.
    pub models: &'a Path,
    /// Of the front door.
    pub client: &'a Client,
    /// The front door's URL.
    pub front: &'a str,
    /// The CA that signed its certificate.
    pub ca_file: &'a Path,
    /// What else to print about the platform.
    pub notes: &'a [(&'a str, String)],
}

/// Which version is called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// That of the golden example.
    Version,
    /// The model's own choice: a registry numbers versions anew.
    Champion,
}

/// Inputs that a model takes.
struct Example {
    model: String,
    /// Of the version that is called, in the inference protocol.
    model_path: ApiPath,
    /// By feature name.
    predict_path: ApiPath,
    inputs: Vec<Value>,
}

// === impl Demonstration ===

impl Demonstration<'_> {
    /// Predicts with a model that serves, over HTTPS with a bearer token, and prints the way to do it again. A model may have been registered
    /// just now: it is waited for until `deadline`. What does not serve is printed with its reason.
    ///
    /// # Errors
    /// No model serves, or the prediction failed. What is printed is printed nevertheless.
    pub async fn run(&self, started: Instant, deadline: Instant) -> anyhow::Result<()> {
        let outcome = self.predict(started, deadline).await;
        self.print_notes();
        let example = outcome?;
        if let Some((path, file)) = example {
            say(&format!(
                "curl --cacert {} -H @{} -H 'Content-Type: application/json' -d @{} {}{path}",
                word(self.ca_file),
                word(&self.folder.header("analyst")),
                word(&file),
                self.front
            ));
            say("");
        }
        Ok(())
    }

    async fn predict(&self, started: Instant, deadline: Instant) -> anyhow::Result<Option<(ApiPath, PathBuf)>> {
        let candidates = candidates(self.models);
        if candidates.is_empty() {
            say(&format!("no model in {} has a golden.json: no prediction is made", self.models.display()));
            return Ok(None);
        }
        let token = fs::read_to_string(self.folder.token("analyst")).context("no token for the analyst")?;
        let (golden, version) = self.first_served(&candidates, &token, deadline).await?;
        let mut example = Example::read(golden, version)?;
        wait_for_model(self.client, &example.model, &token, REPLICAS_TIMEOUT).await?;
        let metadata = self.client.call(Method::GET, &example.model_path, Some(&token), None).await?;
        let metadata = metadata.expect_success("the model's metadata")?;
        if takes_rows(&metadata) {
            example.inputs =
                example.inputs.iter().map(|input| first_row(input).unwrap_or_else(|| input.clone())).collect();
        }
        let (path, body) = example.request(&metadata)?;
        let file = self.folder.root().join("example-request.json");
        fs::write(&file, body.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
        let answer = self.client.call(Method::POST, &path, Some(&token), Some(&body)).await?;
        let answer = answer.expect_success("the first prediction")?;
        let elapsed = started.elapsed().as_secs_f64();
        say(&format!("first prediction after {elapsed:.1} s: {} {}", example.model, summary(&answer)));
        Ok(Some((path, file)))
    }

    /// The golden example of the first of these models that serves, and whether its very version does.
    async fn first_served<'c>(
        &self,
        candidates: &'c [PathBuf],
        token: &str,
        deadline: Instant,
    ) -> anyhow::Result<(&'c Path, Which)> {
        loop {
            let index = self.client.call(Method::POST, "/v2/repository/index", Some(token), Some(&json!({}))).await?;
            let index = index.expect_success("listing the models")?;
            let is_over = Instant::now() >= deadline;
            // One that the index does not have yet may still come; those after it are for when it does not.
            let absent = candidates.iter().position(|golden| !is_listed(&index, golden)).filter(|_| !is_over);
            let known = candidates.get(..absent.unwrap_or(candidates.len())).unwrap_or_default();
            let served = |which| known.iter().find(|golden| serves(&index, golden, which)).map(|it| (&**it, which));
            let found = served(Which::Version).or_else(|| served(Which::Champion));
            if found.is_some() || is_over {
                report_faults(&index);
                return found.context("none of the models with a golden.json serves");
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn print_notes(&self) {
        let front = self.front;
        say("");
        say(&format!("  front door     {front}"));
        say(&format!("  status         {front}/api/loadbalancer/status"));
        say(&format!("  API            {front}/api/openapi.json"));
        say(&format!("  SLA            {front}/api/sla/ml-services/current"));
        for (what, note) in self.notes {
            say(&format!("  {what:<14} {note}"));
        }
        say("");
    }
}

/// Whether the index has this model, in whatever state.
fn is_listed(index: &Value, golden: &Path) -> bool {
    let Some((model, _)) = model_and_version(golden) else { return true };
    index.as_array().is_some_and(|rows| rows.iter().any(|row| row["name"] == *model))
}

fn serves(index: &Value, golden: &Path, which: Which) -> bool {
    let Some((model, version)) = model_and_version(golden) else { return false };
    let is_it = |row: &Value| row["name"] == *model && row["state"] == "READY";
    let is_version = |row: &Value| which == Which::Champion || row["version"] == *version;
    index.as_array().is_some_and(|rows| rows.iter().any(|row| is_it(row) && is_version(row)))
}

fn report_faults(index: &Value) {
    let text = |row: &Value, key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    for row in index.as_array().into_iter().flatten().filter(|row| row["state"] != "READY") {
        let (model, version) = (text(row, "name"), text(row, "version"));
        let version = if version.is_empty() { version } else { format!(" version {version}") };
        say(&format!("{model}{version} does not serve: {}", text(row, "reason")));
    }
}

/// Every `<models>/<model>/<version>/golden.json`, the preferred model's first, and of each model the newest version first.
fn candidates(models: &Path) -> Vec<PathBuf> {
    let of_model = |model: PathBuf| children(&model).into_iter().rev().map(|version| version.join("golden.json"));
    let mut found: Vec<PathBuf> = children(models).into_iter().flat_map(of_model).filter(|it| it.is_file()).collect();
    found.sort_by_key(|golden| model_and_version(golden).is_none_or(|(model, _)| model != PREFERRED_MODEL));
    found
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

fn model_and_version(golden: &Path) -> Option<(String, String)> {
    let name = |generation| Some(golden.ancestors().nth(generation)?.file_name()?.to_str()?.to_owned());
    Some((name(2)?, name(1)?))
}

// === impl Example ===

impl Example {
    /// The whole golden example: of what is in it the model is known to take it.
    fn read(golden: &Path, which: Which) -> anyhow::Result<Self> {
        let (model, version) = model_and_version(golden).context("the golden example lies in no model")?;
        let text = fs::read_to_string(golden).with_context(|| format!("cannot read {}", golden.display()))?;
        let file: Value = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", golden.display()))?;
        let inputs = file.get("inputs").and_then(Value::as_array).context("the golden example has no inputs")?.clone();
        let of_model = |route: &'static str| {
            let path = ApiPath::from(route).segment(&model)?;
            if which == Which::Version { path.then("/versions").segment(&version) } else { Ok(path) }
        };
        let (model_path, predict_path) = (of_model("/v2/models")?, of_model("/api/models")?.then("/predict"));
        Ok(Self { model, model_path, predict_path, inputs })
    }

    /// Where to post it, and what: tensors where the inference protocol has them in JSON, else values by feature name.
    fn request(&self, metadata: &Value) -> anyhow::Result<(ApiPath, Value)> {
        let may_miss = self.inputs.iter().filter_map(|input| input.get("data")).any(has_null);
        let is_in_json = |input: &Value| NOT_IN_JSON.iter().all(|datatype| input["datatype"] != *datatype);
        if !may_miss && self.inputs.iter().all(is_in_json) {
            return Ok((self.model_path.clone().then("/infer"), json!({ "inputs": self.inputs })));
        }
        let columns: Option<Vec<_>> = self.inputs.iter().map(|input| columns(input, metadata)).collect();
        let columns = columns.context("the golden example has an input without name, shape or data")?;
        let mut body = json!({ "columns": columns.into_iter().flatten().collect::<Map<_, _>>() });
        // In a golden example null is NaN.
        if let Some(body) = body.as_object_mut().filter(|_| may_miss) {
            body.insert("missing".to_owned(), "nan".into());
        }
        Ok((self.predict_path.clone(), body))
    }
}

/// The features that an input is, each with a value for each record.
fn columns(input: &Value, metadata: &Value) -> Option<Vec<(String, Value)>> {
    let name = input.get("name")?.as_str()?;
    let declared = metadata.get("inputs").and_then(Value::as_array).into_iter().flatten();
    let declared = declared.into_iter().find(|spec| spec.get("name").is_some_and(|it| it == name))?;
    let shape: Vec<i64> = serde_json::from_value(declared.get("shape")?.clone()).ok()?;
    let has_rows = matches!(&*shape, [-1, ..] | [1, _, ..]);
    let of_record = shape.get(usize::from(has_rows)..)?;
    let data = nested(input)?;
    let records = if has_rows { data.as_array()?.clone() } else { vec![data] };
    let each = |at: usize| records.iter().map(|record| record.get(at).cloned()).collect::<Option<Value>>();
    match declared.get("columns").and_then(Value::as_array) {
        Some(names) if of_record.len() == 1 => {
            names.iter().enumerate().map(|(at, name)| Some((name.as_str()?.to_owned(), each(at)?))).collect()
        }
        _ if *of_record == [1] => Some(vec![(name.to_owned(), each(0)?)]),
        _ => Some(vec![(name.to_owned(), records.into())]),
    }
}

fn has_null(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(|list| list.iter().any(has_null))
}

/// Whether any number of rows fits into every input.
fn takes_rows(metadata: &Value) -> bool {
    let inputs = metadata.get("inputs").and_then(Value::as_array);
    inputs.is_some_and(|inputs| inputs.iter().all(|input| input.pointer("/shape/0") == Some(&json!(-1))))
}

/// The same tensor with its first row only.
fn first_row(tensor: &Value) -> Option<Value> {
    let mut shape: Vec<usize> = serde_json::from_value(tensor.get("shape")?.clone()).ok()?;
    let data = tensor.get("data")?.as_array()?;
    let is_nested = data.first().is_some_and(Value::is_array);
    let length = if is_nested { 1 } else { shape.get(1..)?.iter().product() };
    let row = data.get(..length)?.to_vec();
    *shape.first_mut()? = 1;
    let mut cut = tensor.as_object()?.clone();
    cut.insert("shape".to_owned(), json!(shape));
    cut.insert("data".to_owned(), Value::Array(row));
    Some(Value::Object(cut))
}

/// The data of a tensor as lists in lists.
fn nested(tensor: &Value) -> Option<Value> {
    let shape: Vec<usize> = serde_json::from_value(tensor.get("shape")?.clone()).ok()?;
    let mut level = tensor.get("data")?.as_array()?.clone();
    if level.first().is_some_and(Value::is_array) {
        return Some(Value::Array(level));
    }
    for length in shape.iter().skip(1).rev().filter(|length| **length > 0) {
        level = level.chunks(*length).map(|part| Value::Array(part.to_vec())).collect();
    }
    Some(Value::Array(level))
}

fn summary(body: &Value) -> String {
    let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or("?").to_owned();
    let Some(outputs) = body.get("outputs").and_then(Value::as_array) else {
        return format!("version {} says {}", text("version"), body.pointer("/predictions/0").unwrap_or(&Value::Null));
    };
    let part = |output: &Value| {
        let data = output.get("data").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let rows = output.pointer("/shape/0").and_then(Value::as_u64).and_then(|rows| usize::try_from(rows).ok());
        let row = data.get(..data.len() / rows.unwrap_or(1).max(1)).unwrap_or(data);
        format!("{} {}", output.get("name").and_then(Value::as_str).unwrap_or("?"), Value::from(row))
    };
    format!("version {} says {}", text("model_version"), outputs.iter().map(part).collect::<Vec<_>>().join(", "))
}

/// A path as a word of a POSIX shell.
pub fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%:=,".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_nested_to_its_shape() {
        let tensor = json!({ "shape": [2, 2, 1], "data": [1, 2, 3, 4] });
        assert_eq!(nested(&tensor), Some(json!([[[1], [2]], [[3], [4]]])));
        assert_eq!(nested(&json!({ "shape": [2], "data": [1, 2] })), Some(json!([1, 2])));
    }

    /// What JSON cannot carry as a tensor goes by feature name: NaN as a value that is missing.
    #[test]
    fn values_that_are_missing_go_by_feature_name() {
        let request = |shape: Value, columns: Value, golden_shape: Value, data: Value| {
            let inputs = vec![json!({ "name": "x", "datatype": "FP32", "shape": golden_shape, "data": data })];
            let (model_path, predict_path) = (ApiPath::from("/tensors"), ApiPath::from("/features"));
            let example = Example { model: "m".to_owned(), model_path, predict_path, inputs };
            let metadata = json!({ "inputs": [{ "name": "x", "shape": shape, "columns": columns }] });
            example.request(&metadata).map(|(path, body)| (path.to_string(), body)).unwrap()
        };
        let of_features = |columns: Value| ("/features".to_owned(), json!({ "columns": columns, "missing": "nan" }));
        assert_eq!(request(json!([-1, 2]), json!(null), json!([1, 2]), json!([1, 2])).0, "/tensors/infer");
        for data in [json!([null, 2]), json!([[null, 2]])] {
            let plain = request(json!([-1, 2]), json!(null), json!([1, 2]), data.clone());
            assert_eq!(plain, of_features(json!({ "x": [[null, 2]] })));
            let named = request(json!([-1, 2]), json!(["a", "b"]), json!([1, 2]), data);
            assert_eq!(named, of_features(json!({ "a": [null], "b": [2] })));
        }
        let scalar = request(json!([-1, 1]), json!(null), json!([2, 1]), json!([null, 7]));
        assert_eq!(scalar, of_features(json!({ "x": [null, 7] })));
        let vector = request(json!([-1]), json!(null), json!([2]), json!([null, 7]));
        assert_eq!(vector, of_features(json!({ "x": [null, 7] })));
        let single = request(json!([2]), json!(null), json!([2]), json!([null, 7]));
        assert_eq!(single, of_features(json!({ "x": [[null, 7]] })));
    }

    #[test]
    fn a_row_is_cut_from_flat_and_nested_data() {
        let row = |data: Value| first_row(&json!({ "name": "x", "shape": [2, 2], "data": data })).unwrap();
        assert_eq!(row(json!([1, 2, 3, 4])), json!({ "name": "x", "shape": [1, 2], "data": [1, 2] }));
        assert_eq!(row(json!([[1, 2], [3, 4]])), json!({ "name": "x", "shape": [1, 2], "data": [[1, 2]] }));
    }

    #[test]
    fn a_path_with_a_space_is_one_word() {
        assert_eq!(word(Path::new("/a/b.pem")), "/a/b.pem");
        assert_eq!(word(Path::new("/it's here")), r"'/it'\''s here'");
    }
}
