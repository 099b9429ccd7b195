//! Work that may never end, since a driver may not.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Why there is no result, as what follows "it".
#[derive(Debug, thiserror::Error)]
pub(super) enum NoResult {
    /// In all the time that it had.
    #[error("did not end within {} s", .0.as_secs())]
    Late(Duration),
    /// It panicked.
    #[error("panicked")]
    Panicked,
    /// It did not begin.
    #[error("has no thread: {0}")]
    NoThread(#[from] io::Error),
}

/// Does `work` on a thread of its own, of that name: what hangs must not hang this
/// program. Such a thread cannot be ended and is left behind; what it makes after all is
/// dropped there.
pub(super) fn within<T: Send + 'static>(
    limit: Duration,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NoResult> {
    let (send, receive) = channel();
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(move || {
        // The receiver may have given up; then nobody wants the answer.
        let _ = send.send(work());
    })?;
    receive.recv_timeout(limit).map_err(|error| match error {
        RecvTimeoutError::Timeout => NoResult::Late(limit),
        RecvTimeoutError::Disconnected => NoResult::Panicked,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: Duration = Duration::from_secs(60);

    #[test]
    fn what_hangs_is_left_behind() {
        let (release, hold) = channel::<()>();
        let limit = Duration::from_millis(50);
        let (made, after_all) = channel();
        let hangs = within(limit, "test", move || {
            let _ = hold.recv();
            Dropped(made)
        });
        assert!(matches!(hangs, Err(NoResult::Late(given)) if given == limit));
        drop((hangs, release));
        assert_eq!(after_all.recv_timeout(PLENTY), Ok("test".to_owned()));
    }

    /// Tells the name of the thread that drops it.
    struct Dropped(std::sync::mpsc::Sender<String>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            let name = std::thread::current().name().map(str::to_owned);
            let _ = self.0.send(name.unwrap_or_default());
        }
    }

    #[test]
    fn what_ends_is_given_and_a_panic_is_told() {
        assert_eq!(within(PLENTY, "test", || 3).unwrap(), 3);
        let panics = within(PLENTY, "test", || panic!("a test panics"));
        assert!(matches!(panics, Err::<(), _>(NoResult::Panicked)));
    }
}
