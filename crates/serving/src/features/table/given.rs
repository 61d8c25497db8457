//! Which features were given: of the header, or of the record that is being read.

use crate::features::layout::{Form, Layout, Part, Slot};

/// Marks for every feature. A reset costs nothing: marks of another round do not count.
pub(super) struct Given {
    round: u32,
    inputs: Vec<Marks>,
    /// Inputs of which everything was given in this round.
    complete: usize,
}

struct Marks {
    form: Form,
    /// The round in which each cell was given; made when the first is.
    cells: Vec<u32>,
    /// The same of the whole as a list.
    whole: u32,
    /// How many cells in this round.
    count: usize,
    count_round: u32,
}

// === impl Given ===

impl Given {
    pub(super) fn new(layout: &Layout<'_>) -> Self {
        let marks = |form| Marks { form, cells: Vec::new(), whole: 0, count: 0, count_round: 0 };
        Self { round: 1, inputs: layout.inputs().iter().map(|input| marks(input.form)).collect(), complete: 0 }
    }

    /// Begins anew.
    pub(super) fn reset(&mut self) {
        self.round += 1;
        self.complete = 0;
    }

    /// Notes a feature; false if it was given before.
    pub(super) fn mark(&mut self, slot: Slot) -> bool {
        let Some(marks) = self.inputs.get_mut(slot.input) else { return false };
        let is_new = marks.mark(slot.part, self.round);
        self.complete += usize::from(is_new && marks.is_complete(self.round));
        is_new
    }

    /// Whether nothing is missing.
    pub(super) fn is_complete(&self) -> bool {
        self.complete == self.inputs.len()
    }

    /// What was not given. Of an input of which nothing was given that is its whole, if it has one.
    pub(super) fn missing(&self) -> Vec<Slot> {
        let missing = |(input, marks): (usize, &Marks)| {
            marks.missing(self.round).into_iter().map(move |part| Slot { input, part })
        };
        self.inputs.iter().enumerate().flat_map(missing).collect()
    }
}

// === impl Marks ===

impl Marks {
    fn mark(&mut self, part: Part, round: u32) -> bool {
        if self.count_round != round {
            (self.count, self.count_round) = (0, round);
        }
        if self.whole == round {
            return false;
        }
        match part {
            Part::Whole if self.count > 0 => false,
            Part::Whole => {
                self.whole = round;
                true
            }
            Part::Cell(cell) => {
                if self.cells.is_empty() {
                    self.cells = vec![0; self.form.cells()];
                }
                let is_new = self.cells.get_mut(cell).is_some_and(|mark| std::mem::replace(mark, round) != round);
                self.count += usize::from(is_new);
                is_new
            }
        }
    }

    fn is_complete(&self, round: u32) -> bool {
        self.whole == round || self.count_round == round && self.count > 0 && self.count == self.form.cells()
    }

    fn missing(&self, round: u32) -> Vec<Part> {
        if self.is_complete(round) {
            return Vec::new();
        }
        let has_cells = self.count_round == round && self.count > 0;
        if matches!(self.form, Form::Nested | Form::Numbered(_)) && !has_cells {
            return vec![Part::Whole];
        }
        let is_missing = |cell: &usize| self.cells.get(*cell) != Some(&round);
        (0..self.form.cells()).filter(is_missing).map(Part::Cell).collect()
    }
}
