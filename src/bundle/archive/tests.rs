use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;

fn open(path: &Path) -> Result<Archive, BundleError> {
    Archive::open(Pieces::open(path)?)
}

fn archive_of(bytes: &[u8]) -> Result<Archive, BundleError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b.tar");
    fs::write(&path, bytes).unwrap();
    open(&path)
}

/// A tar of such members, by our writer.
fn ours(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, bytes) in members {
        write_header(&mut out, name, bytes.len() as u64).unwrap();
        out.extend_from_slice(bytes);
        write_padding(&mut out, bytes.len() as u64).unwrap();
    }
    write_end(&mut out).unwrap();
    out
}

fn read(archive: &Archive, name: &str, from: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let member = archive.member(name).unwrap();
    archive
        .section(member, from)
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

#[track_caller]
fn refused(bytes: &[u8], word: &str) {
    let error = archive_of(bytes).err().expect("refused").to_string();
    assert!(error.contains(word), "{error}");
}

#[test]
fn members_are_found_and_read_from_any_byte() {
    let bytes = ours(&[("a", b"hello"), ("blobs/b", &[7; 600]), ("empty", b"")]);
    assert_eq!(bytes.len() as u64, length([5, 600, 0].into_iter()));
    let archive = archive_of(&bytes).unwrap();
    assert_eq!(read(&archive, "a", 0), b"hello");
    assert_eq!(read(&archive, "a", 3), b"lo");
    assert_eq!(read(&archive, "a", 9), b"");
    assert_eq!(read(&archive, "blobs/b", 1).len(), 599);
    assert_eq!(read(&archive, "empty", 0), b"");
    assert!(archive.member("c").is_none());
}

/// Formats that other programs write: long names and sizes in extension headers.
#[test]
fn gnu_and_pax_headers_are_understood() {
    let long = format!("blobs/{}", "d".repeat(150));
    for header in [Header::new_gnu(), Header::new_ustar()] {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = header;
        header.set_size(3);
        header.set_mode(0o600);
        builder
            .append_data(&mut header.clone(), &long, &b"abc"[..])
            .unwrap();
        let mut folder = Header::new_gnu();
        folder.set_entry_type(EntryType::Directory);
        folder.set_size(0);
        builder
            .append_data(&mut folder, "./blobs/", &b""[..])
            .unwrap();
        builder
            .append_data(&mut header, "./second", &b"def"[..])
            .unwrap();
        let bytes = builder.into_inner().unwrap();
        let archive = archive_of(&bytes).unwrap();
        assert_eq!(read(&archive, &long, 0), b"abc");
        assert_eq!(read(&archive, "second", 0), b"def");
    }
    let mut builder = tar::Builder::new(Vec::new());
    let records = [("path", &b"renamed"[..]), ("size", b"3"), ("mtime", b"1.5")];
    builder.append_pax_extensions(records).unwrap();
    let mut header = Header::new_ustar();
    header.set_size(0);
    header.set_path("ignored").unwrap();
    header.set_cksum();
    let mut bytes = builder.into_inner().unwrap();
    bytes.truncate(1024);
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(b"xyz");
    bytes.resize(bytes.len().next_multiple_of(512) + 1024, 0);
    assert_eq!(read(&archive_of(&bytes).unwrap(), "renamed", 0), b"xyz");
}

fn with_name(name: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_size(0);
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(512 + 1024, 0);
    bytes
}

#[test]
fn names_that_leave_the_bundle_are_refused() {
    for name in [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "..",
        "./../x",
        ".//../x",
    ] {
        refused(&with_name(name.as_bytes()), "leaves the bundle");
    }
    refused(&with_name(b"blobs/\xff"), "not UTF-8");
    archive_of(&with_name(b"a..b/c")).unwrap();
}

#[test]
fn links_and_devices_are_refused() {
    for (kind, word) in [
        (EntryType::Symlink, "link"),
        (EntryType::Link, "link"),
        (EntryType::Char, "no file"),
        (EntryType::Fifo, "no file"),
        (EntryType::GNUSparse, "no file"),
    ] {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_path("a").unwrap();
        header.set_size(0);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(512 + 1024, 0);
        refused(&bytes, word);
    }
}

#[test]
fn lies_about_size_and_number_are_refused() {
    refused(&ours(&[("a", b"1"), ("a", b"2")]), "twice");
    for size in [1 << 40, u64::MAX] {
        let mut header = Header::new_gnu();
        header.set_path("a").unwrap();
        header.set_size(size);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(4096, 0);
        refused(&bytes, "ends too early");
    }
    let mut many = Vec::new();
    for i in 0..=HEADERS_MAX {
        write_header(&mut many, &i.to_string(), 0).unwrap();
    }
    write_end(&mut many).unwrap();
    refused(&many, "more than 4096");
    // An extension header that would be held in memory.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 20);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(2 << 20, b'a');
    refused(&bytes, "too long");
}

#[test]
fn other_files_are_told_apart() {
    refused(b"", "ends too early");
    refused(&[0x1f; 600], "neither a tar file");
    let mut gzip = vec![0x1f, 0x8b];
    gzip.resize(600, 1);
    refused(&gzip, "compressed");
    let whole = ours(&[("a", &[7; 5000]), ("b", b"x")]);
    for cut in [1, 511, 512, 1000, 5000, 5631, 6000, 6655] {
        refused(&whole[..cut], "ends too early");
    }
    let mut damaged = whole.clone();
    damaged[5632] ^= 1;
    refused(&damaged, "is damaged");
}

proptest! {
    /// Whatever the bytes, there is an answer.
    #[test]
    fn random_bytes_never_panic(
        members in prop::collection::vec(0usize..1500, 0..4),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        repair in any::<bool>(),
    ) {
        let names = ["a", "b", "c", "d"];
        let contents: Vec<Vec<u8>> = members.iter().map(|n| vec![1; *n]).collect();
        let list: Vec<_> = names.iter().copied().zip(contents.iter().map(Vec::as_slice)).collect();
        let mut bytes = ours(&list);
        for (place, value) in &flips {
            let at = place.index(bytes.len());
            bytes[at] = *value;
        }
        if repair {
            // A right sum lets the damage reach what is behind it.
            let mut header = Header::from_byte_slice(&bytes[..512]).clone();
            header.set_cksum();
            bytes[..512].copy_from_slice(header.as_bytes());
        }
        if let Ok(archive) = archive_of(&bytes) {
            for member in archive.members.values() {
                prop_assert!(member.at + member.size <= bytes.len() as u64);
            }
        }
    }
}
