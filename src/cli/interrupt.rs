//! Ctrl-C while something long runs.
//!
//! Every state on disk is one that a crash may leave, so the process ends at
//! once; what is needed is only a word about going on.

use std::process;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::messages::message;
use super::terminal::tell;
use crate::client::{Answer, ClientError};

/// Exit code after Ctrl-C, as shells expect it: 128 and SIGINT.
pub(super) const INTERRUPTED: i32 = 130;

/// Ends the process at the first SIGINT or SIGTERM with the shell's code for it,
/// after telling `advice`.
pub(super) fn watch(advice: String) {
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
            let message = message!("interrupt-ended", advice = advice);
            tell(format_args!("\ngptoss-ctl: {message}\n"));
            process::exit(128 + number);
        }
    };
    // The same holds without the thread.
    let _ = std::thread::Builder::new()
        .name("signals".into())
        .spawn(listen);
}

/// An answer that Ctrl-C cancels.
pub(super) struct Interruptible {
    answer: Answer,
    interrupted: bool,
    /// What the daemon says to the first interrupt.
    cancelling: Option<JoinHandle<Result<(), ClientError>>>,
}

impl Interruptible {
    pub(super) fn new(answer: Answer) -> Self {
        Self {
            answer,
            interrupted: false,
            cancelling: None,
        }
    }

    /// The next event's line; `None` after the last, or after an interrupt that
    /// the daemon does not heed: the second, or where nobody is there to heed it.
    /// Dropping the answer cancels it as well.
    pub(super) async fn next_line(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            let cancelled = async {
                match &mut self.cancelling {
                    Some(cancelling) => cancelling.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                line = self.answer.next_line() => return line,
                cancelled = cancelled => {
                    self.cancelling = None;
                    match cancelled {
                        // It had ended already: what is left of it is on its way.
                        Ok(Ok(()) | Err(ClientError::Refused { .. })) => {}
                        Ok(Err(_)) | Err(_) => return Ok(None),
                    }
                }
                _ = tokio::signal::ctrl_c() => {
                    if std::mem::replace(&mut self.interrupted, true) {
                        return Ok(None);
                    }
                    let request = self.answer.request().clone();
                    let cancel = async move { Ok(request.cancel().await?) };
                    self.cancelling = Some(tokio::spawn(cancel));
                }
            }
        }
    }

    /// Whether Ctrl-C came.
    pub(super) fn was_interrupted(&self) -> bool {
        self.interrupted
    }
}
