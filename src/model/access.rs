//! Why a place may not be read or written, in words: who it belongs to, who we are,
//! which file system it is on, and what to do.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use super::Store;
use super::mounts::{self, Mount};

/// What was to be done with a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Read a file, or list a folder.
    Read,
    /// Write a file, or change a folder's entries.
    Write,
}

impl Need {
    /// What the action of a [`super::StoreError::Io`] wants.
    pub(super) fn of(action: &str) -> Self {
        match action.starts_with("read") || action == "open the store" {
            true => Self::Read,
            false => Self::Write,
        }
    }
}

/// What stands in the way of a failed operation and what to do about it. Displayed, it
/// is the end of a sentence in English.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Advice {
    /// The disk is full.
    #[error("free some space or name a store on another disk with --store")]
    FreeSpace,
    /// We may not.
    #[error("{0}")]
    Refused(Refusal),
    /// The disk does not answer as it should.
    #[error("the disk of {place} does not answer as it should: `dmesg` says more")]
    Disk {
        /// Where it is mounted, and its device.
        place: String,
    },
}

/// What to do about a failed operation, where that is known.
pub(super) fn advice(error: &io::Error, need: Need, path: &Path) -> Option<Advice> {
    if super::is_no_space(error) {
        return Some(Advice::FreeSpace);
    }
    match Errno::from_io_error(error)? {
        Errno::ACCESS | Errno::PERM => Some(Advice::Refused(Found::find(path, need).explain())),
        Errno::ROFS => Some(Advice::Refused(read_only(path))),
        Errno::IO | Errno::NXIO | Errno::NODEV | Errno::STALE | Errno::NOTCONN => {
            let place = mounts::of(path).map_or_else(
                || path.display().to_string(),
                |Mount { place, device, .. }| format!("{} ({device})", place.display()),
            );
            Some(Advice::Disk { place })
        }
        _ => None,
    }
}

/// Why we may not do something with a place; none where we may, or where it is not
/// there and could be made.
pub fn refusal(path: &Path, need: Need) -> Option<Refusal> {
    let found = Found::find(path, need);
    if found.lacking {
        return Some(found.explain());
    }
    let there = path.ancestors().find(|place| place.exists())?;
    let asked = accessat(CWD, there, Access::WRITE_OK, AtFlags::EACCESS);
    (need == Need::Write && asked == Err(Errno::ROFS)).then(|| read_only(path))
}

fn read_only(path: &Path) -> Refusal {
    match mounts::of(path) {
        Some(Mount { place, kind, .. }) => Refusal::MountedReadOnly { place, kind },
        None => Refusal::ReadOnly,
    }
}

/// Why we may not use a place. Users are `NAME (NUMBER)`, or `user NUMBER`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is on a file system that is mounted read-only.
    #[error(
        "{0} ({kind}) is mounted read-only: `mount -o remount,rw {0}` makes it writable, --store \
         names another store",
        place.display()
    )]
    MountedReadOnly {
        /// Where that is mounted.
        place: PathBuf,
        /// What it is: `ext4`.
        kind: String,
    },
    /// It is read-only, and it is not known on which file system it is.
    #[error("the store is read-only here: name another one with --store")]
    ReadOnly,
    /// We may not even look.
    #[error("{} cannot be looked at by {us}", place.display())]
    Hidden {
        /// The place.
        place: PathBuf,
        /// This user.
        us: String,
    },
    /// Its owner and mode are not enough, or something beyond them refuses.
    #[error(
        "{} belongs to {owner}, has mode {mode:04o}, and this is {us}{remedy}",
        place.display()
    )]
    Owned {
        /// The place.
        place: PathBuf,
        /// Its owner.
        owner: String,
        /// Its permissions.
        mode: u32,
        /// This user.
        us: String,
        /// What to do.
        remedy: Remedy,
    },
}

/// What to do about a place that may not be used. `owner` is as sudo takes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Remedy {
    /// It is ours.
    #[error(": `chmod u+rwX {}` gives you back what is yours", place.display())]
    Ours {
        /// The place.
        place: PathBuf,
    },
    /// The machine's models may be read by everybody.
    #[error(
        ": `sudo chmod -R a+rX {}` lets everybody read the machine's models",
        store.display()
    )]
    OpenMachines {
        /// The machine's store.
        store: PathBuf,
    },
    /// Somebody else's models.
    #[error(": run this as {owner}, or ask {owner} to let you in")]
    AskToRead {
        /// Whose they are.
        owner: String,
    },
    /// The machine's store has a puller.
    #[error(
        ": `sudo systemctl start gptoss-pull@NAME` brings a model into the machine's store, \
         `sudo -u {owner} gptoss-ctl --store {} …` does the rest; --store names one of your own",
        store.display()
    )]
    MachinesPuller {
        /// Whose it is.
        owner: String,
        /// The machine's store.
        store: PathBuf,
    },
    /// Somebody else's store.
    #[error(": run this as {owner}, or use a store of your own with --store")]
    OwnStore {
        /// Whose it is.
        owner: String,
    },
    /// SELinux refuses.
    #[error(
        "; these allow it, and SELinux enforces its policy on {0}, {1}: `sudo restorecon -Rv {0}` \
         gives it the context of its place, `sudo ausearch -m AVC -ts recent` shows what was \
         refused",
        place.display(),
        in_context(context.as_deref())
    )]
    Selinux {
        /// The place.
        place: PathBuf,
        /// Its context, if it has one.
        context: Option<String>,
    },
    /// A profile of AppArmor's refuses.
    #[error(
        "; these allow it, and the AppArmor profile {profile} does not: `journalctl -k -g \
         apparmor` shows what it refused"
    )]
    Apparmor {
        /// The profile.
        profile: String,
    },
    /// Something else does.
    #[error(
        "; these allow it, and something else refuses: `lsattr -d`, `getfacl` and `findmnt -T` on \
         it tell more"
    )]
    Beyond,
}

impl Remedy {
    /// Whether owner and mode are enough, and something else refuses.
    pub fn is_beyond_modes(&self) -> bool {
        matches!(
            self,
            Self::Selinux { .. } | Self::Apparmor { .. } | Self::Beyond
        )
    }
}

fn in_context(context: Option<&str>) -> String {
    match context {
        Some(context) => format!("whose context is {context}"),
        None => "which has no context".into(),
    }
}

/// The place on the way to a path that lacks a permission, and who may give it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    place: PathBuf,
    /// Its owner and its mode, where it can be looked at.
    owner: Option<(u32, u32)>,
    /// Whether owner and mode are what refuses. If not, something else does.
    lacking: bool,
    need: Need,
}

impl Found {
    fn find(path: &Path, need: Need) -> Self {
        let at = |place: &Path, lacking| Self {
            place: place.to_owned(),
            owner: fs::metadata(place).ok().map(|m| (m.uid(), m.mode())),
            lacking,
            need,
        };
        let may = |place: &Path, access| {
            let asked = accessat(CWD, place, access, AtFlags::EACCESS);
            !matches!(asked, Err(Errno::ACCESS | Errno::PERM))
        };
        let mut folders: Vec<&Path> = path.ancestors().skip(1).collect();
        folders.reverse();
        folders.retain(|folder| !folder.as_os_str().is_empty());
        // The first that cannot be entered hides everything below.
        for folder in &folders {
            if folder.exists() && !may(folder, Access::EXEC_OK) {
                return at(folder, true);
            }
        }
        let there = path.symlink_metadata().is_ok();
        let places = match need {
            Need::Read => vec![(path, Access::READ_OK)],
            // A file is replaced by changing its folder, a folder by changing itself.
            Need::Write => {
                let folder = folders.iter().rfind(|folder| folder.is_dir());
                let parent = folder.filter(|_| !path.is_dir());
                let own = there.then_some(path);
                own.into_iter()
                    .chain(parent.copied())
                    .map(|place| (place, Access::WRITE_OK))
                    .collect()
            }
        };
        let lacking = places
            .into_iter()
            .find(|(place, access)| place.exists() && !may(place, *access));
        match lacking {
            Some((place, _)) => at(place, true),
            None => at(path.ancestors().find(|p| p.exists()).unwrap_or(path), false),
        }
    }

    fn explain(self) -> Refusal {
        let uid = rustix::process::geteuid().as_raw();
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let us = user(uid, &passwd);
        let Some((owner, mode)) = self.owner else {
            let place = self.place;
            return Refusal::Hidden { place, us };
        };
        let remedy = match self.lacking {
            false => beyond_modes(&self.place),
            true => self.remedy(owner == uid, user_name(owner, &passwd)),
        };
        Refusal::Owned {
            place: self.place,
            owner: user(owner, &passwd),
            mode: mode & 0o7777,
            us,
            remedy,
        }
    }

    /// What to do where owner and mode refuse.
    fn remedy(&self, ours: bool, owner: String) -> Remedy {
        let store = Store::system_root();
        let machines = self.place.starts_with(&store);
        match self.need {
            _ if ours => Remedy::Ours {
                place: self.place.clone(),
            },
            Need::Read if machines => Remedy::OpenMachines { store },
            Need::Read => Remedy::AskToRead { owner },
            Need::Write if machines => Remedy::MachinesPuller { owner, store },
            Need::Write => Remedy::OwnStore { owner },
        }
    }
}

/// What refuses although owner and mode allow it.
fn beyond_modes(place: &Path) -> Remedy {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    if read("/sys/fs/selinux/enforce").trim() == "1" {
        return Remedy::Selinux {
            place: place.to_owned(),
            context: context(place),
        };
    }
    let profile = [
        "/proc/self/attr/apparmor/current",
        "/proc/self/attr/current",
    ]
    .into_iter()
    .map(read)
    .find(|text| !text.is_empty())
    .unwrap_or_default();
    match profile.trim().strip_suffix(" (enforce)") {
        Some(name) => Remedy::Apparmor {
            profile: name.to_owned(),
        },
        None => Remedy::Beyond,
    }
}

/// The SELinux context of a place.
fn context(place: &Path) -> Option<String> {
    let mut value = vec![0; 4096];
    let length = rustix::fs::lgetxattr(place, "security.selinux", &mut value[..]).ok()?;
    let text = String::from_utf8_lossy(value.get(..length)?);
    Some(text.trim_end_matches('\0').to_owned())
}

/// A user for people, by the local list of users.
fn user(uid: u32, passwd: &str) -> String {
    match user_name(uid, passwd) {
        name if name.starts_with('#') => format!("user {uid}"),
        name => format!("{name} ({uid})"),
    }
}

/// A user as sudo takes one: by name, or `#UID`.
fn user_name(uid: u32, passwd: &str) -> String {
    let named = |line: &str| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    };
    let name = passwd.lines().find_map(named);
    name.unwrap_or_else(|| format!("#{uid}"))
}

/// The first of a store's files and folders that others than its owner cannot read:
/// the machine's daemon is another user than the store's owner.
pub fn closed_to_others(store: &Store) -> Option<PathBuf> {
    let open =
        |path: &Path, bits: u32| fs::metadata(path).map_or(true, |m| m.mode() & bits == bits);
    let above = [store.root().to_owned(), store.root().join("models")];
    if let Some(folder) = above.iter().find(|folder| !open(folder, 0o005)) {
        return Some(folder.clone());
    }
    for model in store.models() {
        let name = model.dir.parent().map(Path::to_owned);
        let targets = model.manifest.targets.keys().map(|t| model.dir.join(t));
        let folders = name.into_iter().chain([model.dir.clone()]).chain(targets);
        let files = model.manifest.all_files().map(|f| model.dir.join(&f.path));
        let closed = folders
            .map(|folder| (folder, 0o005))
            .chain(files.map(|file| (file, 0o004)))
            .find(|(path, bits)| !open(path, *bits));
        if let Some((path, _)) = closed {
            return Some(path);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        gptoss-store:x:990:990::/:/usr/sbin/nologin\nbroken\n";

    #[test]
    fn users_have_names_or_numbers() {
        assert_eq!(user(990, PASSWD), "gptoss-store (990)");
        assert_eq!(user(4711, PASSWD), "user 4711");
        assert_eq!(user_name(4711, PASSWD), "#4711");
    }

    fn remedy(place: &Path, need: Need, ours: bool, owner: &str) -> String {
        let found = Found {
            place: place.to_owned(),
            owner: Some((990, 0o40755)),
            lacking: true,
            need,
        };
        found.remedy(ours, owner.to_owned()).to_string()
    }

    #[test]
    fn the_machines_store_has_a_puller() {
        let system = Store::system_root();
        let text = remedy(&system.join("models"), Need::Write, false, "gptoss-store");
        for word in [
            "systemctl start gptoss-pull@",
            "sudo -u gptoss-store gptoss-ctl --store",
            "--store names",
        ] {
            assert!(text.contains(word), "{text}");
        }
        let text = remedy(Path::new("/srv/x"), Need::Write, false, "bob");
        assert!(
            text.contains("run this as bob") && text.contains("--store"),
            "{text}"
        );
        let text = remedy(&system.join("models"), Need::Read, false, "gptoss-store");
        let all = format!("chmod -R a+rX {}`", system.display());
        assert!(text.contains(&all), "{text}");
        // Nobody is told to open what may be somebody's home.
        let text = remedy(Path::new("/srv/x"), Need::Read, false, "bob");
        assert!(
            !text.contains("chmod") && text.contains("ask bob"),
            "{text}"
        );
        let text = remedy(Path::new("/srv/x"), Need::Write, true, "bob");
        assert!(text.contains("chmod u+rwX /srv/x"), "{text}");
    }

    #[test]
    fn a_context_is_named() {
        let selinux = |context: Option<&str>| {
            let remedy = Remedy::Selinux {
                place: "/srv/gptoss".into(),
                context: context.map(str::to_owned),
            };
            remedy.to_string()
        };
        let text = selinux(Some("unconfined_u:object_r:user_home_t:s0"));
        for word in ["user_home_t", "restorecon -Rv /srv/gptoss", "ausearch"] {
            assert!(text.contains(word), "{text}");
        }
        assert!(selinux(None).contains("no context"));
    }

    #[test]
    fn what_may_be_done_is_not_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().to_owned(), dir.path().join("to/be/made")] {
            assert_eq!(refusal(&path, Need::Write), None, "{}", path.display());
        }
        assert_eq!(refusal(dir.path(), Need::Read), None);
        let error = io::Error::from_raw_os_error(Errno::ACCESS.raw_os_error());
        // Modes allow it: whatever refuses is something else.
        let text = advice(&error, Need::Write, dir.path()).unwrap().to_string();
        assert!(text.contains("these allow it"), "{text}");
    }

    #[test]
    fn the_place_that_refuses_is_found() {
        if rustix::process::geteuid().is_root() {
            // Nothing is forbidden to root: this is for everybody else.
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        set(&inner, 0o500);
        let found = Found::find(&inner.join("c/d"), Need::Write);
        assert_eq!((&found.place, found.lacking), (&inner, true));
        set(&dir.path().join("a"), 0o600);
        let found = Found::find(&inner.join("c"), Need::Read);
        assert_eq!(found.place, dir.path().join("a"));
        set(&dir.path().join("a"), 0o700);
    }

    #[test]
    fn what_others_cannot_read_is_found() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("models")).unwrap();
        let store = Store::open(dir.path()).unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        set(dir.path(), 0o755);
        set(&dir.path().join("models"), 0o755);
        assert_eq!(closed_to_others(&store), None);
        set(dir.path(), 0o700);
        assert_eq!(closed_to_others(&store), Some(dir.path().to_owned()));
    }
}
