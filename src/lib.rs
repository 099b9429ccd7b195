//! gptoss runs OpenAI's gpt-oss models on one's own machine.
//!
//! The library behind two thin binaries: `gptossd`, the inference daemon that
//! local applications reach over D-Bus, and `gptoss-ctl`, the model manager.
//! `ARCHITECTURE.md` has the map; `tests/architecture.rs` holds it.

pub mod client;
pub mod config;
pub mod engine;
pub mod harmony;
pub mod model;
pub mod platform;
pub mod runtime;

#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
pub mod dbus;
#[cfg(feature = "daemon")]
pub mod session;

/// Of the daemon, its command line alone: `gptoss-ctl man` writes its page.
#[cfg(all(feature = "ctl", not(feature = "daemon")))]
pub mod daemon {
    pub mod arguments;
}

#[cfg(feature = "ctl")]
pub mod bundle;
#[cfg(feature = "ctl")]
pub mod cli;
#[cfg(feature = "ctl")]
pub mod fetch;
#[cfg(feature = "ctl")]
pub mod wheel;
