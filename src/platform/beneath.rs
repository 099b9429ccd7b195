//! Opens a file beneath a folder where the system has no call for it: step by step, each
//! without following links, but for the one at the end.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

/// Opens `path`, which must not leave `folder`. The file itself may be a link to another
/// place in the folder, as in the hub's cache: `snapshots/COMMIT/NAME` is one to
/// `../../blobs/DIGEST`. No other link is followed.
///
/// # Errors
/// The path, or what the link says, leads out of the folder; the system's.
pub(super) fn open(folder: &OwnedFd, path: &str, flags: OFlags) -> io::Result<File> {
    let steps = resolve(&[], path)?;
    let (above, name) = walk(folder, &steps)?;
    match openat(&above, name, flags | OFlags::NOFOLLOW, Mode::empty()) {
        Err(Errno::LOOP) => {}
        opened => return Ok(File::from(opened?)),
    }
    let link = readlinkat(&above, name, Vec::new())?;
    let link = link.to_str().map_err(|_| leaves())?;
    let parents = &steps[..steps.len() - 1];
    let steps = resolve(parents, link)?;
    let (above, name) = walk(folder, &steps)?;
    let opened = openat(&above, name, flags | OFlags::NOFOLLOW, Mode::empty());
    Ok(File::from(opened?))
}

fn leaves() -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        "it leads out of its folder",
    )
}

/// The steps from the folder to `path`, seen from `base`; at least one.
fn resolve<'a>(base: &[&'a str], path: &'a str) -> io::Result<Vec<&'a str>> {
    let mut steps = base.to_vec();
    for step in path.split('/') {
        match step {
            // An absolute path begins with an empty one.
            "" => return Err(leaves()),
            "." => {}
            ".." => {
                steps.pop().ok_or_else(leaves)?;
            }
            step => steps.push(step),
        }
    }
    match steps.is_empty() {
        true => Err(leaves()),
        false => Ok(steps),
    }
}

/// The folder of the last step, and that step.
fn walk<'s>(folder: &OwnedFd, steps: &[&'s str]) -> io::Result<(OwnedFd, &'s str)> {
    let (name, parents) = steps.split_last().ok_or_else(leaves)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut above = folder.as_fd().try_clone_to_owned()?;
    for parent in parents {
        above = openat(&above, *parent, flags, Mode::empty())?;
    }
    Ok((above, name))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use rustix::fs::CWD;

    use super::*;

    fn read(folder: &Path, path: &str) -> io::Result<String> {
        let folder = openat(CWD, folder, OFlags::RDONLY, Mode::empty())?;
        let mut text = String::new();
        open(&folder, path, OFlags::RDONLY)?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn a_caches_links_are_followed_and_no_other_one() {
        let outside = tempfile::tempdir().unwrap();
        let folder = outside.path().join("models--a--b");
        let snapshot = folder.join("snapshots/1");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir(folder.join("blobs")).unwrap();
        std::fs::write(folder.join("blobs/digest"), "inside").unwrap();
        std::fs::write(outside.path().join("secret"), "outside").unwrap();
        std::fs::write(snapshot.join("plain"), "plain").unwrap();
        for (name, target) in [
            ("cached", "../../blobs/digest"),
            ("climbs", "../../../secret"),
            ("absolute", "/etc/passwd"),
            ("chained", "cached"),
            ("itself", "."),
        ] {
            symlink(target, snapshot.join(name)).unwrap();
        }
        symlink(outside.path(), folder.join("away")).unwrap();
        let read = |path: &str| read(&folder, path);
        assert_eq!(read("snapshots/1/plain").unwrap(), "plain");
        assert_eq!(read("snapshots/1/cached").unwrap(), "inside");
        for path in [
            "snapshots/1/climbs",
            "snapshots/1/absolute",
            "snapshots/1/chained",
            "snapshots/1/itself",
            "away/secret",
            "../secret",
            "/etc/passwd",
            "snapshots/1/absent",
            "",
            ".",
        ] {
            assert!(read(path).is_err(), "{path}");
        }
    }
}
