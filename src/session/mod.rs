//! A conversation: history, rendering, generation as typed events, token budget.
