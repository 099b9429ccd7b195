//! The daemon on a real bus: a private `dbus-daemon`, the real `gptossd` with
//! its simulated backend, the real `gptoss-ctl`.

mod admin;
mod cancel;
mod chat;
mod command;
mod doctor;
mod examples;
mod generate;
mod harness;
mod hostile;
mod interface;
mod lifecycle;
mod log;
mod machine;
mod metrics;
mod nano;
mod overhead;
mod pressure;
#[cfg(debug_assertions)]
mod provider;
mod refuse;
mod session;
mod soak;
mod socket;
mod socket_limits;
mod stress;
mod structured;
mod system;
mod terminal;
mod upstream;
