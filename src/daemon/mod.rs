//! Lifecycle of `gptossd`: wiring, readiness, watchdog, signals.

/// Entry point of `gptossd`.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
