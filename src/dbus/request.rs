//! `org.gptoss.Daemon1.Request`: a generation at work.

use zbus::interface;
use zbus::message::Header;
use zbus::names::OwnedUniqueName;

use super::callers::Callers;
use super::clients::Kind;
use super::error::Error;
use crate::session::{Interrupt, Interrupter};

/// The object of one request. It disappears with the request's end.
pub struct Request {
    /// Who calls.
    pub callers: Callers,
    /// Who may cancel.
    pub owner: OwnedUniqueName,
    /// Ends the generation.
    pub interrupter: Interrupter,
}

#[interface(name = "org.gptoss.Daemon1.Request", introspection_docs = false)]
impl Request {
    /// Ends the request; its stream ends with finish reason `cancelled`.
    async fn cancel(&self, #[zbus(header)] header: Header<'_>) -> Result<(), Error> {
        self.callers
            .check_owner(&self.owner, Kind::Request, &header)?;
        self.interrupter.interrupt(Interrupt::Cancel);
        Ok(())
    }
}
