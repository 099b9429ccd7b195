//! The messages of both languages, and what the code asks of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::parse::{ParseStream, Parser};
use syn::{Expr, Ident, LitStr, Token};

use super::*;

/// Names of messages and of what is put into each.
type Names = BTreeMap<String, BTreeSet<String>>;

/// The messages of these files.
fn written(files: &[File]) -> Names {
    let mut names = Names::new();
    for (file, text) in files {
        let mut last = None;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((id, _)) = line.split_once('=').filter(|_| starts_one(line)) {
                let id = id.trim().to_owned();
                assert!(!names.contains_key(&id), "{file}: {id} is there twice");
                names.insert(id.clone(), BTreeSet::new());
                last = Some(id);
            }
            if let Some(message) = last.as_ref().and_then(|id| names.get_mut(id)) {
                message.extend(variables(line));
            }
        }
    }
    names
}

fn starts_one(line: &str) -> bool {
    line.starts_with(|c: char| c.is_ascii_alphabetic())
}

fn variables(line: &str) -> impl Iterator<Item = String> {
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    line.split('$').skip(1).map(move |rest| {
        let end = rest.find(|c| !name(c)).unwrap_or(rest.len());
        rest[..end].to_owned()
    })
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|e| e == "rs") => found.push(path),
            false => {}
        }
    }
}

/// Messages that the code says by this macro.
fn said(by: &str) -> Names {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut names = Names::new();
    for path in files
        .iter()
        .filter(|p| !p.starts_with(root.join("messages")))
    {
        let text = std::fs::read_to_string(path).unwrap();
        let tokens: TokenStream = text.parse().unwrap();
        search(tokens, by, &mut |call| {
            let (id, arguments) = call;
            let known = names.entry(id.clone()).or_insert_with(|| arguments.clone());
            assert_eq!(*known, arguments, "{}: {id}", path.display());
        });
    }
    names
}

fn search(tokens: TokenStream, name: &str, found: &mut impl FnMut((String, BTreeSet<String>))) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else {
            continue;
        };
        let before = tokens[..at].iter().rev().take(2).map(ToString::to_string);
        if before.eq(["!", name]) {
            let call = |input: ParseStream<'_>| call(input, name);
            found(call.parse2(group.stream()).unwrap());
        }
        search(group.stream(), name, found);
    }
}

/// `"id", name = value, name = %value`, after what `translated!` has in English.
fn call(input: ParseStream<'_>, name: &str) -> syn::Result<(String, BTreeSet<String>)> {
    if name == "translated" {
        input.parse::<Expr>()?;
        input.parse::<Token![,]>()?;
    }
    let id = input.parse::<LitStr>()?.value();
    let mut names = BTreeSet::new();
    while !input.is_empty() {
        input.parse::<Token![,]>()?;
        if input.is_empty() {
            break;
        }
        names.insert(input.parse::<Ident>()?.to_string());
        input.parse::<Token![=]>()?;
        input.parse::<Option<Token![%]>>()?;
        input.parse::<Expr>()?;
    }
    Ok((id, names))
}

#[test]
fn every_file_is_fluent() {
    for (name, text) in ENGLISH.iter().chain(FRENCH) {
        if let Err((_, errors)) = FluentResource::try_new((*text).to_owned()) {
            panic!("{name}.ftl: {errors:?}");
        }
    }
}

#[test]
fn what_is_said_is_written_and_what_is_written_is_said() {
    assert_eq!(said("message"), written(ENGLISH));
}

#[test]
fn french_says_what_english_says() {
    let (english, mut french) = (written(ENGLISH), written(FRENCH));
    for id in said("translated").into_keys() {
        assert!(french.remove(&id).is_some(), "fr: {id} is missing");
    }
    french.retain(|id, _| !id.starts_with("help-"));
    assert_eq!(french, english);
}

#[test]
fn translations_of_errors_take_what_the_errors_hold() {
    let french = written(FRENCH);
    for (id, arguments) in said("translated") {
        let unknown: Vec<_> = french[&id].difference(&arguments).collect();
        assert!(unknown.is_empty(), "{id}: {unknown:?}");
    }
}

#[test]
fn sizes_in_both_languages() {
    let size = |language| size_in(language, 13_790_000_000);
    assert_eq!(size(Language::English), "13.79 GB");
    assert_eq!(size(Language::French), "13,79\u{a0}Go");
    assert_eq!(size_in(Language::French, 999), "999\u{a0}o");
}

/// No line ends before such a sign, and an apostrophe is a comma above.
#[test]
fn french_has_its_spaces_and_apostrophes() {
    for (file, text) in FRENCH {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            for wrong in [" :", " ;", " !", " ?", " %", " »", "« ", "'"] {
                assert!(!line.contains(wrong), "{file}: {wrong:?} in {line}");
            }
        }
    }
}
