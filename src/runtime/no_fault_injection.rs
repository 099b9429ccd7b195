//! In releases nothing plays a provider; `fault_injection.rs` does where tests run.

use std::borrow::Cow;
use std::time::Duration;

use super::provider::Provider;
use crate::engine::backend::Backend;

/// Nothing is played.
pub const fn plays(_: Provider) -> bool {
    false
}

/// Nothing is played.
pub const fn register(_: Provider) -> Option<Result<(), String>> {
    None
}

/// Nothing strikes.
pub const fn strike(_: Provider) {}

/// The usual time.
pub const fn limit(_: Provider) -> Option<Duration> {
    None
}

/// The usual time.
pub const fn load_limit(_: Provider) -> Option<Duration> {
    None
}

/// The row as it is.
pub const fn logits(_: Provider, row: &[f32]) -> Cow<'_, [f32]> {
    Cow::Borrowed(row)
}

/// The model as it is.
pub fn failing_at_run(_: Provider, backend: Box<dyn Backend>) -> Box<dyn Backend> {
    backend
}
