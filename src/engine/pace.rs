//! How hard the engine works, and what its thread does next.

/// How hard the engine works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    /// As fast as it can.
    #[default]
    Full,
    /// Interactive requests alone, with a rest after each step that is as long
    /// as the step was. Background requests wait.
    Slow,
    /// Nothing is computed. What runs goes on where it stopped.
    Paused,
}

/// What the worker is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Take what waits and compute a step.
    Work,
    /// Let go of what was abandoned and, where asked, of what is kept for
    /// prompts to come.
    Tidy { trim: bool },
    /// The engine stops and nothing runs.
    End,
}
