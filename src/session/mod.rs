//! A conversation: history, rendering, generation as typed events, token budget.
//!
//! - [`Prompt`]: what an application asked, checked before anything is queued.
//! - [`ModelHost`]: the model that answers, loaded on first use.
//! - [`Generation`]: one answer, from the prompt to the last [`StreamEvent`].
//! - [`Quota`]: what one user may have at once.
//!
//! Nothing here knows D-Bus.

pub mod event;
mod failure;
mod generation;
mod host;
mod prompt;
mod quota;
mod stop;

pub use event::StreamEvent;
pub use failure::{Failure, error_name};
pub use generation::{Generation, Interrupt, Interrupter, count_tokens};
pub use host::{
    Availability, Lease, LoadedModel, Loader, ModelHost, ModelSummary, ProviderInfo, Unavailable,
};
pub use prompt::{MessageParts, Options, Prompt};
pub use quota::{Place, Quota, QuotaLimits};
