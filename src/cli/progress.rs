//! What a command shows while it works.
//!
//! On a terminal: bars with speed and time left, and one line for the whole.
//! Elsewhere: a line when something happens and one every ten seconds. Progress
//! goes to standard error, results to standard output.

use std::collections::HashMap;
use std::fmt;
use std::io::{IsTerminal, stderr};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use serde::Serialize;

use super::messages::{message, size};
use super::terminal::say;
use crate::model::incoming::Progress;

/// How often a long task tells about itself where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Bytes whose proof takes long enough to be told of.
const LONG_CHECK: u64 = 64 << 20;

/// How often a bar is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);

const BAR: &str = "{msg:36!} {bar:24} {numbers}";

/// The command's way of talking.
#[derive(Debug, Clone)]
pub(super) struct Ui {
    json: bool,
    bars: Option<MultiProgress>,
}

impl Ui {
    pub(super) fn new(json: bool) -> Self {
        let bars = (!json && stderr().is_terminal()).then(MultiProgress::new);
        Self { json, bars }
    }

    /// A line about progress.
    pub(super) fn note(&self, line: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// The result: `people` as text, or `program` as JSON.
    pub(super) fn result(&self, people: &str, program: &impl Serialize) {
        if !self.json {
            say!("{people}");
            return;
        }
        match serde_json::to_string_pretty(program) {
            Ok(text) => say!("{text}"),
            Err(error) => {
                let message = message!("progress-no-json", error = %error);
                eprintln!("gptoss-ctl: {message}");
            }
        }
    }

    /// A task of `total` bytes.
    pub(super) fn task(&self, label: &str, total: u64) -> Task {
        Task {
            label: label.to_owned(),
            ui: self.clone(),
            bar: self.bars.as_ref().map(|bars| bars.add(bar(label, total))),
            pace: Mutex::new(Pace::new(0)),
        }
    }

    /// The display of a transfer of these files, name and size.
    pub(super) fn transfer<'a>(
        &self,
        label: &str,
        files: impl Iterator<Item = (&'a str, u64)>,
    ) -> Transfer {
        let sizes: HashMap<String, u64> = files.map(|(n, s)| (n.to_owned(), s)).collect();
        let total = sizes.values().sum();
        let sum = self
            .bars
            .as_ref()
            .map(|bars| bars.add(bar(&message!("progress-all-files"), total)));
        Transfer {
            label: label.to_owned(),
            ui: self.clone(),
            sizes,
            total,
            sum,
            state: Mutex::new(Progressing {
                positions: HashMap::new(),
                bars: HashMap::new(),
                done: 0,
                proven: 0,
                pace: Pace::new(0),
            }),
        }
    }
}

fn bar(label: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(BAR)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("numbers", write_numbers)
        .progress_chars("━╸─");
    let bar = ProgressBar::new(total)
        .with_style(style)
        .with_message(label.to_owned());
    bar.enable_steady_tick(DRAW_EVERY);
    bar
}

fn write_numbers(state: &ProgressState, out: &mut dyn fmt::Write) {
    let total = state.len().unwrap_or_default();
    let numbers = numbers(state.pos(), total, state.per_sec(), state.eta());
    // Writing to a line in memory does not fail.
    let _ = out.write_str(&numbers);
}

/// How far a bar is, how many bytes a second it makes, and what time is left.
fn numbers(done: u64, total: u64, rate: f64, left: Duration) -> String {
    let rate = format!("{}/s", size(rate as u64));
    message!(
        "progress-bar",
        done = format!("{:>9}", size(done)),
        total = format!("{:<9}", size(total)),
        rate = format!("{rate:>12}"),
        left = human_time(left),
    )
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Speed since the beginning, and when the last line was written.
#[derive(Debug)]
struct Pace {
    started: Instant,
    from: u64,
    told: Instant,
}

impl Pace {
    fn new(from: u64) -> Self {
        let now = Instant::now();
        Self {
            started: now,
            from,
            told: now,
        }
    }

    /// A line, when it is time for one.
    fn line(&mut self, what: &str, done: u64, total: u64) -> Option<String> {
        if self.told.elapsed() < LINE_EVERY {
            return None;
        }
        self.told = Instant::now();
        let rate = done.saturating_sub(self.from) as f64 / self.started.elapsed().as_secs_f64();
        let speed = size(rate as u64);
        let left = (rate >= 1.0).then(|| total.saturating_sub(done) as f64 / rate);
        let (done, total) = (size(done), size(total));
        Some(match left {
            None => message!(
                "progress-line",
                what = what,
                done = done,
                total = total,
                rate = speed,
            ),
            Some(seconds) => message!(
                "progress-line-left",
                what = what,
                done = done,
                total = total,
                rate = speed,
                left = human_time(Duration::from_secs_f64(seconds)),
            ),
        })
    }
}

fn human_time(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3600, s / 60 % 60),
    }
}

/// One task with one bar. Usable from several threads.
#[derive(Debug)]
pub(super) struct Task {
    label: String,
    ui: Ui,
    bar: Option<ProgressBar>,
    pace: Mutex<Pace>,
}

impl Task {
    /// `done` of `total` bytes are done.
    pub(super) fn set(&self, done: u64, total: u64) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            None => {
                if let Some(line) = lock(&self.pace).line(&self.label, done, total) {
                    self.ui.note(&line);
                }
            }
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Files on their way: a bar for each file at work and one for the whole.
#[derive(Debug)]
pub(super) struct Transfer {
    label: String,
    ui: Ui,
    sizes: HashMap<String, u64>,
    total: u64,
    sum: Option<ProgressBar>,
    state: Mutex<Progressing>,
}

#[derive(Debug)]
struct Progressing {
    positions: HashMap<String, u64>,
    bars: HashMap<String, ProgressBar>,
    done: u64,
    proven: usize,
    pace: Pace,
}

impl Transfer {
    fn size(&self, path: &str) -> u64 {
        self.sizes.get(path).copied().unwrap_or(0)
    }
}

impl Progress for Transfer {
    fn position(&self, path: &str, bytes: u64) {
        let mut state = lock(&self.state);
        let before = state.positions.insert(path.to_owned(), bytes).unwrap_or(0);
        state.done = (state.done + bytes).saturating_sub(before);
        let done = state.done;
        let (Some(bars), Some(sum)) = (&self.ui.bars, &self.sum) else {
            if let Some(line) = state.pace.line(&self.label, done, self.total) {
                self.ui.note(&line);
            }
            return;
        };
        sum.set_position(done);
        let fresh = || bars.insert_before(sum, bar(path, self.size(path)));
        let file = state.bars.entry(path.to_owned()).or_insert_with(fresh);
        file.set_position(bytes);
    }

    fn checking(&self, path: &str, bytes: u64) {
        if bytes >= LONG_CHECK {
            let line = message!("progress-checking", file = path, size = size(bytes));
            self.ui.note(&line);
        }
    }

    fn resumed(&self, path: &str, bytes: u64) {
        self.position(path, bytes);
        let mut state = lock(&self.state);
        state.pace.from += bytes;
        // What was there already says nothing about the speed.
        if let Some(bar) = state.bars.get(path) {
            bar.reset_eta();
        }
        if let Some(sum) = &self.sum {
            sum.reset_eta();
        }
        drop(state);
        self.ui.note(&message!(
            "progress-resumed",
            file = path,
            done = size(bytes),
            size = size(self.size(path)),
        ));
    }

    fn proven(&self, path: &str) {
        let mut state = lock(&self.state);
        state.proven += 1;
        if let Some(bar) = state.bars.remove(path) {
            bar.finish_and_clear();
        }
        let line = message!(
            "progress-proven",
            file = path,
            size = size(self.size(path)),
            proven = state.proven,
            files = self.sizes.len(),
        );
        drop(state);
        self.ui.note(&line);
    }

    fn retrying(&self, path: &str, why: &str) {
        let line = message!("progress-retrying", file = path, why = why);
        self.ui.note(&line);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        for bar in lock(&self.state).bars.values() {
            bar.finish_and_clear();
        }
        if let Some(sum) = &self.sum {
            sum.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bars_template_is_valid() {
        ProgressStyle::with_template(BAR).unwrap();
    }

    #[test]
    fn a_bar_says_its_numbers_in_columns() {
        let left = Duration::from_secs(125);
        assert_eq!(
            numbers(5_000_000, 13_790_000_000, 12.3e6, left),
            "   5.0 MB of 13.79 GB     12.3 MB/s  2 min 5 s left"
        );
        let unknown = numbers(0, 7, f64::NAN, Duration::ZERO);
        assert_eq!(unknown, "      0 B of 7 B              0 B/s  0 s left");
    }

    #[test]
    fn times_for_people() {
        for (seconds, text) in [(5, "5 s"), (125, "2 min 5 s"), (7300, "2 h 1 min")] {
            assert_eq!(human_time(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn the_sum_follows_restarts() {
        let ui = Ui {
            json: true,
            bars: None,
        };
        let transfer = ui.transfer("fetching", [("a", 10), ("b", 20)].into_iter());
        transfer.position("a", 6);
        transfer.position("b", 20);
        assert_eq!(lock(&transfer.state).done, 26);
        transfer.position("a", 0);
        assert_eq!(lock(&transfer.state).done, 20);
    }
}
