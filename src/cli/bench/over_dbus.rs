//! `bench --over-dbus`: what an application sees of a running daemon, and what
//! the way from the model to it costs.
//!
//! What is counted as the bus' is more than it delays an answer: all that is not
//! the engine's time (the call, the queue's and the stream's ways), plus all
//! processor time of this program and of the daemon's bus threads, as if the
//! model had been waiting for it.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::samples::median;
use crate::cli::daemon::{Place, block_on, explain};
use crate::cli::messages::{decimal, message};
use crate::cli::terminal::say;
use crate::cli::{CliError, ExitStatus};
use crate::client::{Client, ClientError, Message, Options, StreamEvent, UsageNumbers};

/// What the name of the daemon's threads is that serve the bus.
const BUS_THREAD: &str = "bus";

/// What to ask for.
pub(super) struct Plan<'a> {
    pub model: &'a str,
    pub place: &'a Place,
    /// Words of the prompt, about as many tokens.
    pub prompt: usize,
    /// Most tokens of the answer.
    pub generate: usize,
    pub repetitions: usize,
}

/// One answer.
struct Run {
    usage: UsageNumbers,
    /// From the call to the first event with text, and to the last event.
    first: Duration,
    whole: Duration,
    /// Processor time of this program and of the daemon's bus threads.
    client_cpu: Duration,
    daemon_cpu: Duration,
}

impl Run {
    /// Time the engine needed.
    fn engine(&self) -> Duration {
        Duration::from_millis(self.usage.prefill_ms + self.usage.decode_ms)
    }

    /// What is not the model's, at most.
    fn overhead(&self) -> Duration {
        let around = self.whole.saturating_sub(self.engine());
        around + self.client_cpu + self.daemon_cpu
    }

    fn share(&self) -> f64 {
        self.overhead().as_secs_f64() / self.whole.as_secs_f64().max(1e-9)
    }

    fn per_token(&self) -> f64 {
        self.overhead().as_secs_f64() / self.usage.output_tokens.max(1) as f64
    }

    fn rate(&self) -> f64 {
        let after_first = self.usage.output_tokens.saturating_sub(1) as f64;
        after_first
            / self
                .whole
                .saturating_sub(self.first)
                .as_secs_f64()
                .max(1e-9)
    }
}

/// Asks `plan.repetitions` times and prints what it took.
pub(super) fn run(plan: &Plan<'_>, json: bool) -> Result<(), CliError> {
    block_on(async {
        let failed = |e| explain(e, plan.place);
        let client = plan.place.connect().await.map_err(failed)?;
        let process = client.daemon_process().await.map_err(failed)?;
        // Loads the model, and warms what there is to warm.
        ask(&client, plan, usize::MAX, 8).await?;
        let mut runs = Vec::new();
        for repetition in 0..plan.repetitions {
            let before = (own_cpu(), bus_cpu(process));
            let mut run = ask(&client, plan, repetition, plan.generate).await?;
            run.client_cpu = own_cpu().saturating_sub(before.0);
            run.daemon_cpu = bus_cpu(process).saturating_sub(before.1);
            runs.push(run);
        }
        match json {
            true => say!("{:#}", document(plan, &runs)),
            false => print(&runs),
        }
        Ok(())
    })
}

async fn ask(
    client: &Client,
    plan: &Plan<'_>,
    repetition: usize,
    generate: usize,
) -> Result<Run, CliError> {
    // Begins like no other: nothing of it is in the prefix cache.
    let words = " word".repeat(plan.prompt);
    let messages = [Message::new("user", format!("{repetition}:{words}"))];
    let options = Options::default()
        .set("model", plan.model)
        .set("show-reasoning", true)
        .set("seed", repetition as u64)
        .set(
            "max-output-tokens",
            u32::try_from(generate).unwrap_or(u32::MAX),
        );
    let failed = |e: ClientError| explain(e, plan.place);
    let begun = Instant::now();
    let mut answer = client.generate(&messages, &options).await.map_err(failed)?;
    let (mut first, mut usage) = (None, UsageNumbers::default());
    while let Some(event) = answer.next().await.map_err(failed)? {
        match event {
            StreamEvent::Delta { .. } => first = first.or_else(|| Some(begun.elapsed())),
            StreamEvent::Usage(numbers) => usage = numbers,
            StreamEvent::Error { name, message } => {
                return Err(crate::cli::daemon::refusal(&name, &message));
            }
            _ => {}
        }
    }
    let whole = begun.elapsed();
    if usage.output_tokens == 0 {
        return Err(CliError::new(
            ExitStatus::Failed,
            message!("bench-daemon-silent"),
        ));
    }
    Ok(Run {
        usage,
        first: first.unwrap_or(whole),
        whole,
        client_cpu: Duration::ZERO,
        daemon_cpu: Duration::ZERO,
    })
}

/// Processor time of this program.
fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Processor time of the daemon's bus threads, where `/proc` shows it.
fn bus_cpu(process: Option<u32>) -> Duration {
    let tasks = process.map(|process| std::fs::read_dir(format!("/proc/{process}/task")));
    let tasks = tasks.into_iter().flatten().flatten().flatten();
    tasks.filter_map(|task| thread_cpu(&task.path())).sum()
}

/// Nanoseconds on a processor are the first number of `schedstat`.
fn thread_cpu(task: &Path) -> Option<Duration> {
    let name = std::fs::read_to_string(task.join("comm")).ok()?;
    if name.trim_end() != BUS_THREAD {
        return None;
    }
    let times = std::fs::read_to_string(task.join("schedstat")).ok()?;
    let nanoseconds = times.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

fn print(runs: &[Run]) {
    say!(
        "| {:>6} | {:>6} | {:>11} | {:>8} | {:>9} | {:>9} | {:>10} | {:>14} |",
        "prompt",
        "answer",
        "first token",
        "tokens/s",
        "whole",
        "engine",
        "processor",
        "overhead"
    );
    say!(
        "| {:->5}: | {:->5}: | {:->10}: | {:->7}: | {:->8}: | {:->8}: | {:->9}: | {:->13}: |",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        ""
    );
    for run in runs {
        let cpu = (run.client_cpu + run.daemon_cpu).as_secs_f64() * 1e3;
        say!(
            "| {:>6} | {:>6} | {:>8.0} ms | {:>8.2} | {:>7.2} s | {:>7.2} s | {:>7.1} ms | {:>4.0} µs {:>5.2} % |",
            run.usage.prompt_tokens,
            run.usage.output_tokens,
            run.first.as_secs_f64() * 1e3,
            run.rate(),
            run.whole.as_secs_f64(),
            run.engine().as_secs_f64(),
            cpu,
            run.per_token() * 1e6,
            run.share() * 100.0,
        );
    }
    let shares: Vec<_> = runs.iter().map(Run::share).collect();
    say!("");
    let share = decimal(median(&shares) * 100.0, 2);
    say!("{}", message!("bench-overhead", share = share));
}

fn document(plan: &Plan<'_>, runs: &[Run]) -> Value {
    let row = |run: &Run| {
        json!({
            "model": plan.model,
            "n_prompt": run.usage.prompt_tokens,
            "n_gen": run.usage.output_tokens,
            "first_token_ns": nanoseconds(run.first),
            "whole_ns": nanoseconds(run.whole),
            "engine_ns": nanoseconds(run.engine()),
            "queue_ns": run.usage.queue_ms * 1_000_000,
            "client_cpu_ns": nanoseconds(run.client_cpu),
            "bus_cpu_ns": nanoseconds(run.daemon_cpu),
            "overhead_ns_per_token": run.per_token() * 1e9,
            "overhead_share": run.share(),
            "ts": run.rate(),
        })
    };
    runs.iter().map(row).collect()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overhead_is_what_is_not_the_engines() {
        let run = Run {
            usage: UsageNumbers {
                output_tokens: 100,
                prefill_ms: 400,
                decode_ms: 9500,
                ..UsageNumbers::default()
            },
            first: Duration::from_millis(450),
            whole: Duration::from_millis(9980),
            client_cpu: Duration::from_millis(15),
            daemon_cpu: Duration::from_millis(5),
        };
        assert_eq!(run.overhead(), Duration::from_millis(100));
        assert!((run.share() - 100.0 / 9980.0).abs() < 1e-9);
        assert!((run.per_token() - 1e-3).abs() < 1e-9);
        assert!((run.rate() - 99.0 / 9.53).abs() < 1e-6);
    }

    #[test]
    fn threads_have_times() {
        let name = std::thread::Builder::new().name(BUS_THREAD.into());
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let thread = name.spawn(move || {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(20) {}
            let _ = wait.recv();
        });
        while bus_cpu(Some(std::process::id())).is_zero() {
            std::thread::yield_now();
        }
        drop(done);
        thread.unwrap().join().unwrap();
    }
}
