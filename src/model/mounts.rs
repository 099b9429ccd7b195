//! Which disk a folder is on, and which one it should be on.

use std::fs;
use std::path::{Path, PathBuf};

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where it is mounted.
    pub(super) place: PathBuf,
    /// Its kind: `ext4`, `nfs4`.
    pub(super) kind: String,
    /// What is mounted: `/dev/sda1`, `server:/export`.
    pub(super) device: String,
}

/// The file system that has a path, or would have it.
pub(super) fn of(path: &Path) -> Option<Mount> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let place = real_place(path).ok()?;
    let over = mounts(&table).filter(|m| place.starts_with(&m.place));
    // Of two at one place the later one is seen.
    over.max_by_key(|m| m.place.components().count())
}

/// Why a store's folder is not there although it should be: a disk that is not
/// mounted. None where nothing speaks for that.
pub(super) fn absent_disk(root: &Path) -> Option<String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let place = match real_place(root) {
        Ok(place) => place,
        Err((link, to)) => {
            return Some(format!(
                "{} is a link to {}, which is not there: mount the disk it is on",
                link.display(),
                to.display()
            ));
        }
    };
    if let Some(medium) = medium(&place).filter(|medium| !medium.exists()) {
        return Some(format!("nothing is mounted at {}", medium.display()));
    }
    let (device, place) = unmounted(&place, &read("/etc/fstab"), &read("/proc/self/mountinfo"))?;
    // A folder with something in it is used as it is: a container may have the fstab of
    // another machine.
    if fs::read_dir(&place).is_ok_and(|mut entries| entries.next().is_some()) {
        return None;
    }
    Some(format!(
        "/etc/fstab has {device} at {0}, and it is not mounted: `mount {0}`",
        place.display()
    ))
}

/// What `/proc/self/mountinfo` lists.
fn mounts(table: &str) -> impl Iterator<Item = Mount> {
    table.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let place = left.split(' ').nth(4)?;
        let mut right = right.split(' ');
        Some(Mount {
            place: unescape(place).into(),
            kind: right.next()?.to_owned(),
            device: unescape(right.next()?),
        })
    })
}

/// The deepest place of `fstab` that `path` is in, if nothing is mounted there.
fn unmounted(path: &Path, fstab: &str, mountinfo: &str) -> Option<(String, PathBuf)> {
    let entry = |line: &str| {
        let mut fields = line.split_whitespace();
        let (device, place) = (fields.next()?, PathBuf::from(unescape(fields.next()?)));
        let fits = !device.starts_with('#') && place.is_absolute() && path.starts_with(&place);
        fits.then(|| (device.to_owned(), place))
    };
    let entries = fstab.lines().filter_map(entry);
    let (device, place) = entries.max_by_key(|(_, place)| place.components().count())?;
    let root = place.parent().is_none();
    let mounted = root || mounts(mountinfo).any(|m| m.place == place);
    (!mounted).then_some((device, place))
}

/// The folder at which the desktop mounts the medium that has this path:
/// `/media/USER/LABEL` or `/run/media/USER/LABEL`.
fn medium(path: &Path) -> Option<PathBuf> {
    for above in ["/run/media", "/media"] {
        let Ok(below) = path.strip_prefix(above) else {
            continue;
        };
        let mut parts = below.components();
        if let (Some(user), Some(label)) = (parts.next(), parts.next()) {
            return Some(Path::new(above).join(user).join(label));
        }
    }
    None
}

/// A path with the links of what there is of it followed.
///
/// # Errors
/// A link on the way, and where it leads, if nothing is there.
fn real_place(path: &Path) -> Result<PathBuf, (PathBuf, PathBuf)> {
    for above in path.ancestors() {
        if let Ok(real) = above.canonicalize() {
            let rest = path.strip_prefix(above).unwrap_or(Path::new(""));
            return Ok(real.join(rest));
        }
        if let Ok(to) = fs::read_link(above) {
            return Err((above.to_owned(), to));
        }
    }
    Ok(path.to_owned())
}

/// A field with `\040` for a space and the like.
fn unescape(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FSTAB: &str = "# a comment /mnt/models\n\
        UUID=aa / ext4 defaults 0 1\n\
        UUID=bb /mnt/models xfs defaults 0 2\n\
        nas:/x /mnt/my\\040disk nfs noauto 0 0\n\
        UUID=cc none swap sw 0 0\n";
    const MOUNTED: &str = "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
        30 22 8:2 / /mnt/models rw,noatime shared:2 - xfs /dev/sdb1 rw\n";

    fn missing(path: &str, mountinfo: &str) -> Option<String> {
        unmounted(Path::new(path), FSTAB, mountinfo).map(|(device, _)| device)
    }

    #[test]
    fn a_disk_of_fstab_that_is_not_mounted_is_found() {
        let root_only = MOUNTED.lines().next().unwrap();
        assert_eq!(missing("/mnt/models/gptoss", MOUNTED), None);
        assert_eq!(
            missing("/mnt/models/gptoss", root_only),
            Some("UUID=bb".into())
        );
        assert_eq!(missing("/mnt/models", root_only), Some("UUID=bb".into()));
        assert_eq!(missing("/mnt/my disk/s", MOUNTED), Some("nas:/x".into()));
        assert_eq!(missing("/mnt/modelsx", root_only), None);
        assert_eq!(missing("/home/u/s", root_only), None);
        assert_eq!(missing("/mnt/models", ""), Some("UUID=bb".into()));
        assert_eq!(unmounted(Path::new("/x"), "UNCONFIGURED", MOUNTED), None);
    }

    #[test]
    fn mounts_of_the_kernels_table() {
        let found: Vec<_> = mounts(MOUNTED).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].place, Path::new("/mnt/models"));
        assert_eq!((&*found[1].kind, &*found[1].device), ("xfs", "/dev/sdb1"));
        assert!(of(Path::new("/proc/self")).is_some_and(|m| m.kind == "proc"));
    }

    #[test]
    fn media_of_the_desktop() {
        for (path, at) in [
            ("/media/u/STICK/gptoss", Some("/media/u/STICK")),
            ("/run/media/u/STICK", Some("/run/media/u/STICK")),
            ("/media/u", None),
            ("/mnt/u/STICK", None),
        ] {
            assert_eq!(medium(Path::new(path)), at.map(PathBuf::from), "{path}");
        }
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(r"a\040b\011c\134"), "a b\tc\\");
        assert_eq!(unescape(r"a\04"), r"a\04");
        assert_eq!(unescape(r"\999"), r"\999");
    }

    #[test]
    fn links_that_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("store");
        std::os::unix::fs::symlink("/nowhere/at/all", &link).unwrap();
        let text = absent_disk(&link).unwrap();
        assert!(text.contains("a link to /nowhere/at/all"), "{text}");
        assert_eq!(absent_disk(&dir.path().join("new")), None);
    }
}
