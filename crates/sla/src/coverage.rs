//! How many minutes of a window are known, and the traffic that the unknown ones are taken to have had.

use time::{Duration, OffsetDateTime};

use crate::{
    totals::{HourFigures, MINUTES_PER_HOUR, hour_of},
    window::Window,
};

const SLOTS_PER_WEEK: usize = 7 * 24 * MINUTES_PER_HOUR;

/// What the minutes of a window say about known, unknown and usual traffic.
#[derive(Default)]
pub(crate) struct Coverage {
    pub(crate) known: u64,
    pub(crate) unknown: u64,
    /// Requests that the unknown minutes are taken to have had, rounded up.
    pub(crate) expected: u128,
}

/// Traffic of one minute of the week.
#[derive(Clone, Copy, Default)]
struct Slot {
    known: u64,
    unknown: u64,
    requests: u64,
}

// === impl Coverage ===

impl Coverage {
    pub(crate) fn of(hours: &[HourFigures], window: Window) -> Self {
        let mut slots = vec![Slot::default(); SLOTS_PER_WEEK];
        let mut hours = hours.iter().peekable();
        let mut start = hour_of(window.from);
        // Reported minutes beyond the window's end (not due, but there) count as known.
        while start < window.to || hours.peek().is_some() {
            let reported = hours.next_if(|hour| hour.start <= start).map(|hour| &hour.minutes);
            for index in 0..MINUTES_PER_HOUR {
                let minute = start + Duration::minutes(i64::try_from(index).unwrap_or(0));
                let Some(slot) = slots.get_mut(slot_of(minute)) else { continue };
                match reported.and_then(|minutes| minutes.get(index).copied().flatten()) {
                    Some(requests) => {
                        slot.known += 1;
                        slot.requests += requests;
                    }
                    None if minute >= window.from && minute < window.to => slot.unknown += 1,
                    None => {}
                }
            }
            start += Duration::HOUR;
        }
        Self::sum(&slots)
    }

    fn sum(slots: &[Slot]) -> Self {
        let known: u64 = slots.iter().map(|slot| slot.known).sum();
        let requests: u64 = slots.iter().map(|slot| slot.requests).sum();
        let unknown: u64 = slots.iter().map(|slot| slot.unknown).sum();
        // An unknown minute has the mean of the same minute in other weeks, or of all minutes where there is none.
        let alike =
            slots.iter().filter(|slot| slot.known > 0).map(|slot| share_up(slot.unknown, slot.requests, slot.known));
        let unlike: u64 = slots.iter().filter(|slot| slot.known == 0).map(|slot| slot.unknown).sum();
        let expected = alike.sum::<u128>() + if known > 0 { share_up(unlike, requests, known) } else { 0 };
        Self { known, unknown, expected }
    }
}

/// `minutes * requests / known`, rounded up, which lowers the lower bound.
fn share_up(minutes: u64, requests: u64, known: u64) -> u128 {
    (u128::from(minutes) * u128::from(requests)).div_ceil(known.into())
}

fn slot_of(minute: OffsetDateTime) -> usize {
    let day = usize::from(minute.weekday().number_days_from_monday());
    (day * 24 + usize::from(minute.hour())) * MINUTES_PER_HOUR + usize::from(minute.minute())
}
