//! Where a system has settings, data and sockets.
//!
//! ```text
//!                        Linux                        macOS
//! machine's settings     /usr/lib/gptoss, /etc/gptoss /Library/Application Support/gptoss
//! machine's models       /var/lib/gptoss              /Library/Application Support/gptoss
//! a user's settings      ~/.config/gptoss             ~/Library/Application Support/gptoss
//! a user's models        ~/.local/share/gptoss        ~/Library/Application Support/gptoss
//! what can be made anew  ~/.cache/gptoss             ~/Library/Caches/gptoss
//! socket, unless named   none: there is a bus         ~/Library/Application Support/gptoss/socket
//! ```
//!
//! `XDG_CONFIG_HOME`, `XDG_DATA_HOME` and `XDG_CACHE_HOME` count on both.

use std::ffi::OsString;
use std::path::PathBuf;

/// What macOS has such folders in.
const APPLICATION_SUPPORT: &str = "Library/Application Support";

/// Settings of the machine, later ones before earlier ones.
pub const MACHINE_SETTINGS: &[&str] = match IS_MACOS {
    true => &["/Library/Application Support/gptoss"],
    false => &["/usr/lib/gptoss", "/etc/gptoss"],
};

/// Models of the machine.
pub const MACHINE_STORE: &str = match IS_MACOS {
    true => "/Library/Application Support/gptoss",
    false => "/var/lib/gptoss",
};

const IS_MACOS: bool = cfg!(target_os = "macos");

type Variable<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The user's settings; `None` without a home. An environment's relative path is none.
pub fn user_settings_folder(variable: Variable<'_>) -> Option<PathBuf> {
    let path = |name: &str| absolute(variable, name);
    Some(base(&path, "XDG_CONFIG_HOME", IS_MACOS, ".config")?.join("gptoss"))
}

/// The user's models; `None` without a home.
pub fn user_data_folder(variable: Variable<'_>) -> Option<PathBuf> {
    let path = |name: &str| variable(name).map(PathBuf::from);
    Some(base(&path, "XDG_DATA_HOME", IS_MACOS, ".local/share")?.join("gptoss"))
}

/// What this user's programs keep and can make anew; `None` without a home. An
/// environment's relative path is none.
pub fn user_cache_folder(variable: Variable<'_>) -> Option<PathBuf> {
    let below = match IS_MACOS {
        true => "Library/Caches",
        false => ".cache",
    };
    let path = |name: &str| absolute(variable, name);
    let base = path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(below)));
    Some(base?.join("gptoss"))
}

/// Where a daemon is that nobody said the place of, where there is no bus.
pub fn default_socket(variable: Variable<'_>) -> Option<PathBuf> {
    socket(variable, IS_MACOS)
}

fn socket(variable: Variable<'_>, macos: bool) -> Option<PathBuf> {
    let home = absolute(variable, "HOME").filter(|_| macos)?;
    Some(home.join(APPLICATION_SUPPORT).join("gptoss/socket"))
}

/// A folder that the environment names. An empty or relative path is none.
fn absolute(variable: Variable<'_>, name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(variable(name)?);
    path.is_absolute().then_some(path)
}

fn base(
    path: &dyn Fn(&str) -> Option<PathBuf>,
    named: &str,
    macos: bool,
    linux: &str,
) -> Option<PathBuf> {
    let below = if macos { APPLICATION_SUPPORT } else { linux };
    path(named).or_else(|| Some(path("HOME")?.join(below)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> Option<PathBuf> {
        (name == "HOME").then(|| "/home/u".into())
    }

    #[test]
    fn each_system_has_its_own() {
        let on = |macos| base(&path, "XDG_DATA_HOME", macos, ".local/share").unwrap();
        assert_eq!(on(false), PathBuf::from("/home/u/.local/share"));
        assert_eq!(
            on(true),
            PathBuf::from("/home/u/Library/Application Support")
        );
        let named = |name: &str| Some(PathBuf::from(format!("/{name}")));
        let found = base(&named, "XDG_DATA_HOME", true, "").unwrap();
        assert_eq!(found, PathBuf::from("/XDG_DATA_HOME"));
        assert_eq!(base(&|_| None, "XDG_DATA_HOME", true, ""), None);
    }

    #[test]
    fn a_socket_is_looked_for_where_there_is_no_bus() {
        let variable = |name: &str| path(name).map(OsString::from);
        assert_eq!(socket(&variable, false), None);
        let found = socket(&variable, true).unwrap();
        let expected = "/home/u/Library/Application Support/gptoss/socket";
        assert_eq!(found, PathBuf::from(expected));
        assert_eq!(socket(&|_| None, true), None);
        assert_eq!(socket(&|_| Some("here".into()), true), None);
    }

    #[test]
    fn relative_paths_of_the_environment_are_none() {
        let variable = |name: &str| match name {
            "XDG_CONFIG_HOME" => Some(OsString::from("relative")),
            "HOME" => Some("/home/u".into()),
            _ => None,
        };
        let found = user_settings_folder(&variable).unwrap();
        assert!(found.starts_with("/home/u") && found.ends_with("gptoss"));
        for nowhere in ["", "relative"] {
            let variable = |name: &str| match name {
                "XDG_CACHE_HOME" => Some(OsString::from(nowhere)),
                "HOME" => Some("/home/u".into()),
                _ => None,
            };
            let found = user_cache_folder(&variable).unwrap();
            assert!(found.starts_with("/home/u"), "{}", found.display());
            assert_eq!(user_cache_folder(&|_| Some(nowhere.into())), None);
        }
    }
}
