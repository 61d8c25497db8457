//! Which features a model has by its signature, and where in its tensors each belongs.

use std::collections::HashMap;

use engine::{Signature, TensorSpec};
use problem::{Kind, Problem};

/// An input with more values has no name for each.
const NUMBERED_MAX: i64 = 1 << 16;

/// The features of a signature.
pub(super) struct Layout<'s> {
    inputs: Vec<Input<'s>>,
    names: HashMap<&'s str, Slot>,
}

/// How one input is made of features.
pub(super) struct Input<'s> {
    pub(super) spec: &'s TensorSpec,
    pub(super) form: Form,
    /// Whether its first dimension is that of records: any number of them, or 1 before other dimensions.
    pub(super) has_rows: bool,
}

/// What a record gives of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One value, by the name of the input.
    Scalar,
    /// So many values, by the names of the columns.
    Columns(usize),
    /// So many values: by the name of the input and their numbers, or as a list.
    Numbered(usize),
    /// A list of values, or of lists.
    Nested,
}

/// Where a feature belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) input: usize,
    pub(super) part: Part,
}

/// What of an input's part in a record a feature is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// One value.
    Cell(usize),
    /// All of them, as a list.
    Whole,
}

// === impl Layout ===

impl<'s> Layout<'s> {
    pub(super) fn new(signature: &'s Signature) -> Result<Self, Problem> {
        let inputs: Vec<Input<'s>> = signature.inputs.iter().map(Input::new).collect();
        let mut names = HashMap::new();
        for (input, Input { spec, form, .. }) in inputs.iter().enumerate() {
            let mut add = |name: &'s str, part| match names.insert(name, Slot { input, part }) {
                None => Ok(()),
                Some(_) => Err(ambiguous(name)),
            };
            match form {
                Form::Scalar => add(&spec.name, Part::Cell(0))?,
                Form::Numbered(_) | Form::Nested => add(&spec.name, Part::Whole)?,
                Form::Columns(_) => {
                    spec.columns.iter().enumerate().try_for_each(|(cell, column)| add(column, Part::Cell(cell)))?;
                }
            }
        }
        Ok(Self { inputs, names })
    }

    pub(super) fn inputs(&self) -> &[Input<'s>] {
        &self.inputs
    }

    /// Where a feature belongs, if there is one of this name.
    pub(super) fn find(&self, name: &str) -> Option<Slot> {
        if let Some(slot) = self.names.get(name) {
            return Some(*slot);
        }
        self.inputs.iter().enumerate().find_map(|(input, it)| {
            let Form::Numbered(count) = it.form else { return None };
            let number = name.strip_prefix(&*it.spec.name)?.strip_prefix('_')?;
            let cell = number.parse().ok().filter(|cell: &usize| *cell < count && number == cell.to_string())?;
            Some(Slot { input, part: Part::Cell(cell) })
        })
    }

    /// Whether a record is a whole request: no dimension of some input counts records.
    pub(super) fn takes_one_record(&self) -> bool {
        self.inputs.iter().any(|input| input.spec.shape.first() != Some(&-1))
    }

    /// Whether the first dimension of outputs is that of records.
    pub(super) fn has_rows(&self) -> bool {
        self.inputs.iter().any(|input| input.has_rows)
    }
}

fn ambiguous(name: &str) -> Problem {
    let detail = format!(
        "the model has two features named {name:?}, so it cannot be called by feature name; /v2/models/…/infer takes its tensors"
    );
    Problem::new(Kind::Conflict, detail)
}

// === impl Form ===

impl Form {
    /// How many values have names of their own.
    pub(super) fn cells(self) -> usize {
        match self {
            Self::Scalar => 1,
            Self::Columns(count) | Self::Numbered(count) => count,
            Self::Nested => 0,
        }
    }
}

// === impl Input ===

impl<'s> Input<'s> {
    fn new(spec: &'s TensorSpec) -> Self {
        let has_rows = matches!(&*spec.shape, [-1, ..] | [1, _, ..]);
        let of_record = spec.shape.get(usize::from(has_rows)..).unwrap_or_default();
        let form = match (of_record, &*spec.columns) {
            ([], _) => Form::Scalar,
            ([_], [_, ..]) => Form::Columns(spec.columns.len()),
            ([1], []) => Form::Scalar,
            ([count @ 2..=NUMBERED_MAX], []) => usize::try_from(*count).map_or(Form::Nested, Form::Numbered),
            _ => Form::Nested,
        };
        Self { spec, form, has_rows }
    }

    /// The dimensions of a record's part, as far as they are fixed.
    pub(super) fn dimensions(&self) -> Vec<Option<usize>> {
        let of_record = self.spec.shape.get(usize::from(self.has_rows)..).unwrap_or_default();
        match self.form {
            Form::Columns(count) => vec![Some(count)],
            _ => of_record.iter().map(|dimension| usize::try_from(*dimension).ok()).collect(),
        }
    }

    /// The name of the feature at a cell.
    pub(super) fn cell_name(&self, cell: usize) -> String {
        match self.form {
            Form::Columns(_) => self.spec.columns.get(cell).cloned().unwrap_or_default(),
            Form::Numbered(_) => format!("{}_{cell}", self.spec.name),
            Form::Scalar | Form::Nested => self.spec.name.clone(),
        }
    }

    /// The name of the feature of a part.
    pub(super) fn part_name(&self, part: Part) -> String {
        match part {
            Part::Cell(cell) => self.cell_name(cell),
            Part::Whole => self.spec.name.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use engine::tensor::Datatype;

    use super::*;

    fn input(name: &str, shape: &[i64], columns: &[&str]) -> TensorSpec {
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        TensorSpec { name: name.to_owned(), datatype: Datatype::Fp32, shape: shape.to_vec(), columns }
    }

    fn cell(input: usize, cell: usize) -> Option<Slot> {
        Some(Slot { input, part: Part::Cell(cell) })
    }

    #[test]
    fn names_follow_the_shapes() {
        let signature = Signature {
            inputs: vec![
                input("age", &[-1, 1], &[]),
                input("m", &[-1, 2], &["width", "height"]),
                input("x", &[-1, 3], &[]),
                input("open", &[-1, -1], &["left", "right"]),
                input("image", &[-1, 2, 2], &[]),
                input("row", &[-1], &[]),
            ],
            outputs: vec![],
        };
        let layout = Layout::new(&signature).unwrap();
        let forms: Vec<Form> = layout.inputs().iter().map(|input| input.form).collect();
        assert_eq!(
            forms,
            [Form::Scalar, Form::Columns(2), Form::Numbered(3), Form::Columns(2), Form::Nested, Form::Scalar]
        );
        assert_eq!(layout.find("age"), cell(0, 0));
        assert_eq!(layout.find("height"), cell(1, 1));
        assert_eq!(layout.find("x_2"), cell(2, 2));
        assert_eq!(layout.find("x"), Some(Slot { input: 2, part: Part::Whole }));
        assert_eq!(layout.find("right"), cell(3, 1));
        assert_eq!(layout.find("image"), Some(Slot { input: 4, part: Part::Whole }));
        assert_eq!(layout.find("row"), cell(5, 0));
        for unknown in ["m", "x_3", "x_02", "x_+1", "x_", "age_0", "m_0", ""] {
            assert_eq!(layout.find(unknown), None, "{unknown}");
        }
        assert!(layout.has_rows() && !layout.takes_one_record());
    }

    #[test]
    fn an_input_without_a_batch_takes_one_record() {
        let signature = Signature {
            inputs: vec![input("scale", &[], &[]), input("n", &[1], &[]), input("v", &[4], &[])],
            outputs: vec![],
        };
        let layout = Layout::new(&signature).unwrap();
        assert!(layout.takes_one_record() && !layout.has_rows());
        assert_eq!((layout.find("scale"), layout.find("n"), layout.find("v_3")), (cell(0, 0), cell(1, 0), cell(2, 3)));
    }

    #[test]
    fn a_first_dimension_of_one_stands_for_the_one_record() {
        let signature =
            Signature { inputs: vec![input("x", &[1, 2], &["a", "b"]), input("i", &[1, 2, 2], &[])], outputs: vec![] };
        let layout = Layout::new(&signature).unwrap();
        assert!(layout.takes_one_record() && layout.has_rows());
        assert_eq!((layout.find("b"), layout.inputs()[1].dimensions()), (cell(0, 1), vec![Some(2), Some(2)]));
    }

    #[test]
    fn two_features_of_one_name_are_a_conflict() {
        let signature =
            Signature { inputs: vec![input("a", &[-1, 2], &["x", "y"]), input("y", &[-1], &[])], outputs: vec![] };
        assert_eq!(Layout::new(&signature).err().unwrap().kind(), Kind::Conflict);
    }
}
