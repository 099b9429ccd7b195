//! Who may call.

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

/// The rule. On a session bus the daemon's own user may call, nobody else. On
/// the system bus root and the daemon's own user may: other users need polkit,
/// which this version does not ask, so they are denied.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    bus: Bus,
    own: u32,
}

impl Access {
    /// The rule for the process' own user.
    pub fn new(bus: Bus) -> Self {
        let own = rustix::process::geteuid().as_raw();
        Self { bus, own }
    }

    /// Whether user `uid` may use the daemon.
    pub fn check(&self, uid: u32) -> Result<(), Error> {
        let allowed = uid == self.own || (self.bus == Bus::System && uid == 0);
        if allowed {
            return Ok(());
        }
        let message = match self.bus {
            Bus::Session => "this gptossd serves the user who started it alone",
            Bus::System => {
                "this version of gptossd serves root and its own user on the system bus; start \
                 one of your own with `gptossd --bus session`"
            }
        };
        Err(Error::AccessDenied(message.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_user_and_root() {
        let rule = |bus| Access { bus, own: 1000 };
        assert!(rule(Bus::Session).check(1000).is_ok());
        assert!(rule(Bus::Session).check(0).is_err());
        assert!(rule(Bus::Session).check(1001).is_err());
        assert!(rule(Bus::System).check(1000).is_ok());
        assert!(rule(Bus::System).check(0).is_ok());
        let denied = rule(Bus::System).check(1001).unwrap_err();
        assert!(denied.to_string().contains("--bus session"));
    }
}
