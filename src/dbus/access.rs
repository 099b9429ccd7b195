//! Who may call.

use std::collections::HashMap;

use zbus::Connection;
use zbus::message::{Flags, Header};
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

use super::error::Error;

/// Which bus the daemon is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// The machine's.
    System,
    /// One user's.
    Session,
}

impl Bus {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Bus::System => "system",
            Bus::Session => "session",
        }
    }
}

/// How calls come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Over a bus.
    Bus(Bus),
    /// Over a socket of the daemon's own.
    Socket,
}

/// What a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// To ask the model.
    Use,
    /// To load and unload models.
    Manage,
}

impl Right {
    /// The name of polkit's action.
    fn action(self) -> &'static str {
        match self {
            Right::Use => "org.gptoss.use",
            Right::Manage => "org.gptoss.manage",
        }
    }

    /// Who has it by default.
    fn holders(self) -> &'static str {
        match self {
            Right::Use => {
                "users at the machine's own screen have it, and members of group gptoss \
                 (`adduser NAME gptoss`)"
            }
            Right::Manage => "administrators have it",
        }
    }
}

/// The rule. On a session bus the daemon's own user may call, nobody else; on a
/// socket root may as well. On the system bus these two may, and whom polkit lets.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    way: Way,
    own: u32,
}

impl Access {
    /// The rule for the process' own user.
    pub fn new(way: Way) -> Self {
        let own = rustix::process::geteuid().as_raw();
        Self { way, own }
    }

    /// Whether user `uid`, who sent a call, has this right.
    ///
    /// # Errors
    /// Without it, or where nobody can say.
    pub async fn check(
        &self,
        right: Right,
        uid: u32,
        header: &Header<'_>,
        connection: &Connection,
    ) -> Result<(), Error> {
        match self.rule(uid) {
            Rule::Allowed => Ok(()),
            Rule::Denied(why) => Err(Error::AccessDenied(why.into())),
            Rule::Ask => ask(right, header, connection).await,
        }
    }

    /// Whether the daemon is this user's: root's or its own.
    pub fn owns(&self, uid: u32) -> bool {
        uid == self.own || (uid == 0 && self.way != Way::Bus(Bus::Session))
    }

    fn rule(&self, uid: u32) -> Rule {
        match self.way {
            _ if self.owns(uid) => Rule::Allowed,
            Way::Bus(Bus::System) => Rule::Ask,
            Way::Bus(Bus::Session) | Way::Socket => {
                Rule::Denied("this gptossd serves the user who started it alone")
            }
        }
    }
}

/// What the daemon knows of a user by itself.
#[derive(Debug, PartialEq, Eq)]
enum Rule {
    Allowed,
    Denied(&'static str),
    Ask,
}

/// Asks polkit. It asks nobody back, unless the call says that it may: a
/// dialogue must not appear because an application looked.
async fn ask(right: Right, header: &Header<'_>, connection: &Connection) -> Result<(), Error> {
    let mute = |e: &dyn std::fmt::Display| {
        Error::AccessDenied(format!(
            "polkit does not say who may use gptossd ({e}): without it root alone may, and whoever \
             starts one of their own with `gptossd --bus session`"
        ))
    };
    let polkit = AuthorityProxy::new(connection).await;
    let polkit = polkit.map_err(|e| mute(&e))?;
    let subject = Subject::new_for_message_header(header).map_err(|e| mute(&e))?;
    let may_ask = header
        .primary()
        .flags()
        .contains(Flags::ALLOW_INTERACTIVE_AUTH);
    let flags = match may_ask {
        true => CheckAuthorizationFlags::ALLOW_USER_INTERACTION,
        false => CheckAuthorizationFlags::empty(),
    };
    let none = HashMap::new();
    let answer = polkit.check_authorization(&subject, right.action(), &none, flags, "");
    let answer = answer.await.map_err(|e| mute(&e))?;
    match answer.is_authorized {
        true => Ok(()),
        false => Err(Error::AccessDenied(format!(
            "polkit does not grant you {}: {}",
            right.action(),
            right.holders()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_user_and_root() {
        let rule = |way, uid| Access { way, own: 1000 }.rule(uid);
        let (session, system) = (Way::Bus(Bus::Session), Way::Bus(Bus::System));
        assert_eq!(rule(session, 1000), Rule::Allowed);
        assert!(matches!(rule(session, 0), Rule::Denied(_)));
        assert!(matches!(rule(session, 1001), Rule::Denied(_)));
        assert_eq!(rule(system, 1000), Rule::Allowed);
        assert_eq!(rule(system, 0), Rule::Allowed);
        assert_eq!(rule(system, 1001), Rule::Ask);
        assert_eq!(rule(Way::Socket, 1000), Rule::Allowed);
        assert_eq!(rule(Way::Socket, 0), Rule::Allowed);
        assert!(matches!(rule(Way::Socket, 1001), Rule::Denied(_)));
    }
}
