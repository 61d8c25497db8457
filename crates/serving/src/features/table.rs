//! Records on their way into tensors: values arrive by feature and row, in any order of the features.

mod given;

use engine::tensor::{Data, Tensor};
use problem::{Kind, Problem};

use super::{
    faults::{Faults, Stop},
    layout::{Input, Layout, Part, Slot},
    values::{Scalar, Stored, empty, store},
};
use given::Given;

/// Records of one request. More of them are for the binary form of `/v2/…/infer`.
pub(crate) const ROWS_MAX: usize = 100_000;
/// Values that even the shortest body may stand for: records may leave out what may be missing.
const CELLS_MIN: usize = 1 << 16;

/// The tensors so far, and what is wrong so far.
pub(super) struct Table<'l, 's> {
    layout: &'l Layout<'s>,
    columns: Vec<Column>,
    /// Which features the record has, or the header.
    given: Given,
    pub(super) faults: Faults,
    /// Whether floats may be missing.
    pub(super) may_miss: bool,
    pub(super) rows: usize,
    cells: usize,
    cells_max: usize,
}

/// One input on its way.
struct Column {
    data: Data,
    /// Those of a record; none while only the first value can tell.
    dimensions: Vec<Option<usize>>,
}

/// A list on its way into an input.
#[derive(Clone, Copy)]
pub(super) struct OpenList {
    pub(super) input: usize,
    pub(super) row: usize,
    start: usize,
    next: usize,
}

// === impl Table ===

impl<'l, 's> Table<'l, 's> {
    /// An empty table for a body of so many bytes, each of which can stand for one value at most.
    pub(super) fn new(layout: &'l Layout<'s>, body_bytes: usize) -> Self {
        let column = |input: &Input<'_>| Column { data: empty(input.spec.datatype), dimensions: input.dimensions() };
        Self {
            layout,
            columns: layout.inputs().iter().map(column).collect(),
            given: Given::new(layout),
            faults: Faults::default(),
            may_miss: false,
            rows: 0,
            cells: 0,
            cells_max: body_bytes.max(CELLS_MIN),
        }
    }

    /// Whether the model has a feature of this name.
    pub(super) fn has_feature(&self, name: &str) -> bool {
        self.layout.find(name).is_some()
    }

    /// Where a feature belongs that is named once for all rows or, with a row, in this one. What is unknown or named twice is noted.
    pub(super) fn claim(&mut self, name: &str, row: Option<usize>) -> Result<Option<Slot>, Stop> {
        let Some(slot) = self.layout.find(name) else {
            self.faults.add_once(name, row, "is unknown: the model has no such feature")?;
            return Ok(None);
        };
        self.claim_slot(slot, name, row)
    }

    /// The same of a feature that was found before.
    pub(super) fn claim_slot(&mut self, slot: Slot, name: &str, row: Option<usize>) -> Result<Option<Slot>, Stop> {
        if self.given.mark(slot) {
            return Ok(Some(slot));
        }
        self.faults.add_once(name, row, "is given twice")?;
        Ok(None)
    }

    /// The features of a header, or of the records one after another, are all named: notes which are missing of all rows.
    pub(super) fn end_header(&mut self) -> Result<(), Stop> {
        for slot in self.given.missing() {
            self.faults.add(&self.name_of(slot), None, "is missing")?;
        }
        Ok(())
    }

    /// A record begins.
    pub(super) fn begin_record(&mut self, row: usize) -> Result<(), Stop> {
        self.given.reset();
        self.begin_row(row)
    }

    /// A record ends: notes which features it lacks.
    pub(super) fn end_record(&mut self, row: usize) -> Result<(), Stop> {
        if self.given.is_complete() {
            return Ok(());
        }
        for slot in self.given.missing() {
            match slot.part {
                Part::Cell(cell)
                    if self.store(slot.input, self.place(slot, row, cell), Scalar::Missing)? == Stored::AsNan =>
                {
                    self.note_missing(slot, row);
                }
                // The first record that lacks it tells enough.
                _ => self.faults.add_once(&self.name_of(slot), Some(row), "is missing")?,
            }
        }
        Ok(())
    }

    /// A row begins whose features are known.
    pub(super) fn begin_row(&mut self, row: usize) -> Result<(), Stop> {
        if row >= ROWS_MAX {
            let detail = format!("there are more than {ROWS_MAX} records");
            return Err(self.faults.stop(Problem::new(Kind::TooLarge, detail)));
        }
        self.rows = self.rows.max(row + 1);
        Ok(())
    }

    /// A value of a feature that is no list.
    pub(super) fn put(&mut self, slot: Slot, row: usize, value: Scalar<'_>) -> Result<(), Stop> {
        let Part::Cell(cell) = slot.part else { return self.refuse(slot, row, "must be a list") };
        match self.store(slot.input, self.place(slot, row, cell), value)? {
            Stored::Yes => Ok(()),
            Stored::AsNan => {
                self.note_missing(slot, row);
                Ok(())
            }
            Stored::No(detail) => self.refuse(slot, row, &detail),
        }
    }

    fn place(&self, slot: Slot, row: usize, cell: usize) -> usize {
        let width = self.column(slot.input).and_then(Column::width).unwrap_or(1);
        row.saturating_mul(width).saturating_add(cell)
    }

    fn note_missing(&mut self, slot: Slot, row: usize) {
        if !self.may_miss {
            self.faults.add_missing(&self.name_of(slot), row);
        }
    }

    /// A value that is wrong.
    pub(super) fn refuse(&mut self, slot: Slot, row: usize, detail: &str) -> Result<(), Stop> {
        self.faults.add(&self.name_of(slot), Some(row), detail)
    }

    /// The input that a slot is of.
    pub(super) fn input(&self, slot: Slot) -> Option<&'l Input<'s>> {
        self.layout.inputs().get(slot.input)
    }

    // --- lists ---

    /// A list for an input begins.
    pub(super) fn open_list(&self, input: usize, row: usize) -> OpenList {
        let column = self.column(input);
        let end = column.map_or(0, |column| column.data.len());
        let start = column.and_then(Column::width).map_or(end, |width| row.saturating_mul(width));
        OpenList { input, row, start, next: start }
    }

    /// How many levels of lists an input has.
    pub(super) fn depth(&self, input: usize) -> usize {
        self.column(input).map_or(0, |column| column.dimensions.len())
    }

    /// The next value of a list.
    pub(super) fn put_next(&mut self, list: &mut OpenList, value: Scalar<'_>) -> Result<(), Stop> {
        let (slot, at) = (Slot { input: list.input, part: Part::Whole }, list.next);
        list.next += 1;
        match self.store(list.input, at, value)? {
            Stored::Yes => Ok(()),
            Stored::AsNan if self.may_miss => Ok(()),
            Stored::AsNan => {
                self.faults.add_missing(&format!("{}[{}]", self.name_of(slot), at - list.start), list.row);
                Ok(())
            }
            Stored::No(detail) => {
                let name = format!("{}[{}]", self.name_of(slot), at - list.start);
                self.faults.add(&name, Some(list.row), detail)
            }
        }
    }

    /// A list at a depth had so many entries. Where the model leaves the length open the first one decides.
    pub(super) fn close_level(&mut self, list: &OpenList, depth: usize, count: usize) -> Result<(), Stop> {
        let column = self.columns.get_mut(list.input);
        let Some(dimension) = column.and_then(|column| column.dimensions.get_mut(depth)) else { return Ok(()) };
        let wanted = *dimension.get_or_insert(count);
        if wanted == count {
            return Ok(());
        }
        let slot = Slot { input: list.input, part: Part::Whole };
        self.refuse(slot, list.row, &format!("has a list of {count}, where one of {wanted} belongs"))
    }

    // --- the end ---

    /// The tensors, in the order of the signature's inputs, or everything that is wrong.
    pub(super) fn finish(mut self) -> Result<(Vec<Tensor>, usize), Problem> {
        if self.rows == 0 && self.faults.is_empty() {
            return Err(Problem::new(Kind::InvalidArgument, "there is no record"));
        }
        if self.rows > 1 && self.layout.takes_one_record() && self.faults.is_empty() {
            let detail = format!("the model takes one record at a time, not {}", self.rows);
            return Err(Problem::new(Kind::InvalidArgument, detail));
        }
        if let Some(problem) = std::mem::take(&mut self.faults).into_problem(self.may_miss) {
            return Err(problem);
        }
        let rows = self.rows;
        let finish = |(input, column): (&Input<'_>, Column)| column.finish(input, rows);
        let tensors: Result<_, _> = self.layout.inputs().iter().zip(self.columns).map(finish).collect();
        Ok((tensors?, rows))
    }

    fn column(&self, input: usize) -> Option<&Column> {
        self.columns.get(input)
    }

    fn name_of(&self, slot: Slot) -> String {
        self.input(slot).map_or_else(String::new, |input| input.part_name(slot.part))
    }

    fn store(&mut self, input: usize, at: usize, value: Scalar<'_>) -> Result<Stored, Stop> {
        let Some(column) = self.columns.get_mut(input) else { return Ok(Stored::No("is unknown".into())) };
        let before = column.data.len();
        let growth = at.saturating_add(1).saturating_sub(before);
        if self.cells.saturating_add(growth) > self.cells_max {
            let detail = "the records leave out so many values that their tensors are far larger than they are";
            return Err(self.faults.stop(Problem::new(Kind::TooLarge, detail)));
        }
        let stored = store(&mut column.data, at, value);
        self.cells += column.data.len() - before;
        Ok(stored)
    }
}

// === impl Column ===

impl Column {
    /// How many values a record gives.
    fn width(&self) -> Option<usize> {
        self.dimensions.iter().try_fold(1_usize, |width, dimension| Some(width.saturating_mul((*dimension)?)))
    }

    fn finish(self, input: &Input<'_>, rows: usize) -> Result<Tensor, Problem> {
        let batch = input.has_rows.then_some(rows);
        let dimensions = self.dimensions.iter().map(|dimension| dimension.unwrap_or(0));
        let shape = batch.into_iter().chain(dimensions).map(|dimension| i64::try_from(dimension).unwrap_or(i64::MAX));
        let tensor = Tensor::new(shape.collect(), self.data);
        tensor.ok_or_else(|| Problem::internal(format!("the records do not fill the input {:?}", input.spec.name)))
    }
}
