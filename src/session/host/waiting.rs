//! The line in front of a model.

use tokio::sync::watch;

/// Counts a request among those that wait for a model.
pub(super) struct Waiting(watch::Sender<usize>);

impl Waiting {
    /// Joins the line; says how many were in it before.
    pub fn join(count: &watch::Sender<usize>) -> (Self, usize) {
        let mut before = 0;
        count.send_modify(|n| {
            before = *n;
            *n += 1;
        });
        (Waiting(count.clone()), before)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}
