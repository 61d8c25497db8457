//! Figures of the operating system about this process, read at each scrape.

use std::fs;

use metrics::{Unit, describe_gauge, gauge};

const CPU: &str = "ml_process_cpu_seconds";
const RESIDENT: &str = "ml_process_resident_memory_bytes";
const OPEN_FILES: &str = "ml_process_open_fds";
const OPEN_FILES_MAX: &str = "ml_process_max_fds";
const THREADS: &str = "ml_process_threads";
const STARTED: &str = "ml_process_start_time_seconds";

/// Fields of `/proc/self/stat` counted from the first one after the command name, which may hold spaces itself.
const UTIME: usize = 11;
const STIME: usize = 12;
const NUM_THREADS: usize = 17;
const STARTTIME: usize = 19;
const RSS: usize = 21;

/// One reading.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Figures {
    cpu_seconds: f64,
    resident_bytes: f64,
    threads: f64,
    started_seconds: f64,
}

pub(crate) fn describe() {
    describe_gauge!(CPU, Unit::Seconds, "Processor time of this process, user and system.");
    describe_gauge!(RESIDENT, Unit::Bytes, "Memory of this process that is resident.");
    describe_gauge!(OPEN_FILES, Unit::Count, "Open file descriptors.");
    describe_gauge!(OPEN_FILES_MAX, Unit::Count, "File descriptors that may be open.");
    describe_gauge!(THREADS, Unit::Count, "Threads of this process.");
    describe_gauge!(STARTED, Unit::Seconds, "When this process started, in seconds since 1970.");
}

/// Sets the gauges. What cannot be read keeps its last value: measuring must never fail a scrape.
pub(crate) fn measure() {
    if let Some(figures) = figures() {
        gauge!(CPU).set(figures.cpu_seconds);
        gauge!(RESIDENT).set(figures.resident_bytes);
        gauge!(THREADS).set(figures.threads);
        gauge!(STARTED).set(figures.started_seconds);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // One of them is the directory that is being read.
        gauge!(OPEN_FILES).set(precise(entries.count().saturating_sub(1)));
    }
    if let Some(max) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        gauge!(OPEN_FILES_MAX).set(precise(max));
    }
}

fn figures() -> Option<Figures> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot_seconds = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    parse(&stat, boot_seconds, precise(rustix::param::clock_ticks_per_second()), precise(rustix::param::page_size()))
}

fn parse(stat: &str, boot_seconds: f64, ticks_per_second: f64, page_bytes: f64) -> Option<Figures> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some(Figures {
        cpu_seconds: (number(UTIME)? + number(STIME)?) / ticks_per_second,
        resident_bytes: number(RSS)? * page_bytes,
        threads: number(NUM_THREADS)?,
        started_seconds: boot_seconds + number(STARTTIME)? / ticks_per_second,
    })
}

/// Exact up to 2^53, which no figure here reaches but "unlimited".
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn precise(value: impl TryInto<u64>) -> f64 {
    value.try_into().unwrap_or(u64::MAX) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_spaces_and_brackets_is_skipped() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 4 0 1000 99999 12 184 1";
        let figures = parse(stat, 1_000_000.0, 100.0, 4_096.0).unwrap();
        let expected =
            Figures { cpu_seconds: 3.0, resident_bytes: 49_152.0, threads: 4.0, started_seconds: 1_000_010.0 };
        assert_eq!(figures, expected);
        assert_eq!(parse("nonsense", 0.0, 100.0, 4_096.0), None);
    }

    #[test]
    fn this_process_can_be_measured() {
        let figures = figures().unwrap();
        assert!(figures.resident_bytes > 100_000.0 && figures.threads >= 1.0, "{figures:?}");
        assert!(figures.started_seconds > 1_600_000_000.0, "{figures:?}");
    }
}
