//! `gptossd`: the inference daemon.

fn main() -> std::process::ExitCode {
    gptoss::daemon::main()
}
