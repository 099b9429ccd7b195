//! Steers what a sequence may say, token by token.

use std::fmt::Debug;

/// What may be said next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice<'a> {
    /// Any token.
    Any,
    /// One of these: bit `id % 32` of word `id / 32`. There must be one.
    Of(&'a [u32]),
    /// This one. The model is not asked.
    Only(u32),
    /// There is no way on: the sequence fails.
    Nothing,
}

/// Decides for one sequence what it may say. It lives on the model thread and
/// is asked before each token.
pub trait Guide: Send + Debug {
    /// What may follow what was said so far. Asked more than once, it gives the
    /// same answer.
    fn choice(&mut self) -> Choice<'_>;

    /// This was said.
    fn said(&mut self, id: u32);
}
