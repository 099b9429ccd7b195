//! Ctrl-C while something long runs.
//!
//! Every state on disk is one that a crash may leave, so the process ends at
//! once; what is needed is only a word about going on.

use std::process;

use tokio::signal::unix::{SignalKind, signal};

/// Ends the process at the first SIGINT or SIGTERM with the shell's code for it,
/// after telling `advice`.
pub(super) fn watch(advice: &'static str) {
    let listen = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        // Without a runtime the signals keep their default action, which will do.
        let Ok(runtime) = runtime else { return };
        let number = runtime.block_on(async {
            let interrupt = signal(SignalKind::interrupt());
            let terminate = signal(SignalKind::terminate());
            let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else {
                return None;
            };
            tokio::select! {
                _ = interrupt.recv() => Some(2),
                _ = terminate.recv() => Some(15),
            }
        });
        if let Some(number) = number {
            eprintln!("\ngptoss-ctl: interrupted; {advice}");
            process::exit(128 + number);
        }
    };
    // The same holds without the thread.
    let _ = std::thread::Builder::new()
        .name("signals".into())
        .spawn(listen);
}
