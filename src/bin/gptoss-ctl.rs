//! `gptoss-ctl`: the model manager and command-line client.

fn main() -> std::process::ExitCode {
    gptoss::cli::main()
}
