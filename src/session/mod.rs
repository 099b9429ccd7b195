//! A conversation: history, rendering, generation as typed events, token budget.
//!
//! - [`Prompt`]: what an application asked, checked before anything is queued.
//! - [`ModelHost`]: the model that answers, loaded on first use.
//! - [`Generation`]: one answer, from the prompt to the last [`StreamEvent`].
//! - [`Session`]: a conversation that is kept, turn by turn.
//! - [`Quota`]: what one user may have at once.
//!
//! Nothing here knows D-Bus.

mod conversation;
pub mod event;
mod failure;
mod generation;
mod grammar;
mod guide;
mod host;
mod loader;
mod meters;
mod moments;
mod overflow;
mod prompt;
mod quota;
mod reader;
mod standing;
mod stop;

pub use conversation::{Session, ToolResult, Turn};
pub use event::StreamEvent;
pub use failure::{Failure, error_name};
pub use generation::{Generation, Interrupt, Interrupter, count_tokens};
pub use host::{Lease, ModelHost};
pub use loader::{
    Availability, LoadedModel, Loader, ModelSummary, Pause, ProviderInfo, Unavailable, Unloaded,
};
pub use meters::{BUCKETS, Histogram, Outcomes};
pub use prompt::{MessageParts, Options, Prompt};
pub use quota::{Place, Quota, QuotaLimits, Seat};
