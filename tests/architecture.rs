//! Holds the code to ARCHITECTURE.md: who may use whom, where `unsafe` may
//! stand, how long a file may be.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::Visit;

/// The table of ARCHITECTURE.md: a module of the library, what it may use of
/// ours, and which outside crates it must not name.
const RULES: &[Rule] = &[
    Rule::of("bin", &["daemon", "cli"], &["zbus", "ort"]),
    Rule::of(
        "daemon",
        &[
            "dbus",
            "session",
            "engine",
            "harmony",
            "runtime",
            "model",
            "config",
            "platform",
            "gptoss_onnx",
        ],
        &["ort"],
    ),
    Rule::of("dbus", &["session", "engine", "model"], &["ort"]),
    Rule::of("session", &["engine", "harmony"], &["zbus", "ort"]),
    Rule::of("engine", &["harmony"], &["zbus", "ort"]),
    Rule::of("harmony", &[], &["zbus", "ort", "tokio", "gptoss_onnx"]),
    Rule::of(
        "runtime",
        &["engine", "model", "platform", "gptoss_onnx"],
        &["zbus"],
    ),
    Rule::of(
        "model",
        &["platform"],
        &["zbus", "ort", "hf_hub", "gptoss_onnx"],
    ),
    Rule::of("config", &["platform"], &["zbus", "ort", "gptoss_onnx"]),
    Rule::of(
        "platform",
        &[],
        &["zbus", "ort", "tokio", "hf_hub", "gptoss_onnx"],
    ),
    Rule::of("client", &[], &["ort", "gptoss_onnx"]),
    Rule::of(
        "fetch",
        &["model", "platform"],
        &["zbus", "ort", "gptoss_onnx"],
    ),
    Rule::of(
        "bundle",
        &["model", "platform"],
        &["zbus", "ort", "reqwest", "gptoss_onnx"],
    ),
    Rule::of(
        "wheel",
        &["fetch", "model", "runtime"],
        &["zbus", "ort", "reqwest", "gptoss_onnx"],
    ),
    Rule::of(
        "cli",
        &[
            "bundle",
            "client",
            "config",
            "daemon",
            "engine",
            "fetch",
            "harmony",
            "model",
            "platform",
            "runtime",
            "session",
            "wheel",
            "gptoss_onnx",
        ],
        &["ort"],
    ),
];

/// Folders and files that may hold `unsafe`: kernels and FFI.
const UNSAFE_MAY_STAND_IN: &[&str] = &[
    "onnx/src/kernels",
    "onnx/src/operators",
    "onnx/src/checkpoint",
    "src/platform/macos.rs",
    "src/runtime",
];

/// Files outside `src/platform` that may ask which system it is: where the linker puts
/// an initialiser is an attribute, and what is pinned for whom a list.
const SYSTEM_MAY_BE_ASKED_IN: &[&str] = &[
    "src/runtime/library.rs",
    "src/runtime/pinned.rs",
    // The graph crate uses nothing of ours; reads past the page cache are Linux's, and
    // so is how a process asks for the registers of AMX.
    "onnx/src/kernels/amx.rs",
    "onnx/src/streaming/files.rs",
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "misc", "common"];

const LONGEST_FILE: usize = 600;

struct Rule {
    module: &'static str,
    ours: &'static [&'static str],
    forbidden: &'static [&'static str],
}

impl Rule {
    const fn of(
        module: &'static str,
        ours: &'static [&'static str],
        forbidden: &'static [&'static str],
    ) -> Self {
        Self {
            module,
            ours,
            forbidden,
        }
    }
}

/// First segments of every path and import of a file: `crate::engine::…`
/// counts as `engine`, `ort::…` as `ort`.
#[derive(Default)]
struct Names {
    ours: BTreeSet<String>,
    outside: BTreeSet<String>,
    holds_unsafe: bool,
}

impl Names {
    fn note(&mut self, segments: &[String]) {
        match segments {
            [root, module, ..] if root == "crate" || root == "gptoss" => {
                self.ours.insert(module.clone());
            }
            [first, ..] => {
                self.outside.insert(first.clone());
            }
            [] => {}
        }
    }

    fn walk_use(&mut self, tree: &syn::UseTree, prefix: &mut Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.walk_use(&path.tree, prefix);
                prefix.pop();
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.walk_use(tree, prefix);
                }
            }
            syn::UseTree::Name(syn::UseName { ident })
            | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
                prefix.push(ident.to_string());
                self.note(prefix);
                prefix.pop();
            }
            syn::UseTree::Glob(_) => self.note(prefix),
        }
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.walk_use(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if segments.len() > 1 {
            self.note(&segments);
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        // Arguments of a macro are tokens, not paths: read them as text.
        let text = mac.tokens.to_string().replace(' ', "");
        for (at, _) in text.match_indices("crate::") {
            let module: String = text[at + 7..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            self.ours.insert(module);
        }
        self.visit_path(&mac.path);
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.holds_unsafe = true;
        syn::visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.holds_unsafe |= item.unsafety.is_some();
        syn::visit::visit_item_impl(self, item);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.holds_unsafe |= signature.unsafety.is_some();
        syn::visit::visit_signature(self, signature);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        // Tests beside the code may use what they need.
        if !item.attrs.iter().any(is_cfg_test) {
            syn::visit::visit_item_mod(self, item);
        }
    }
}

fn is_cfg_test(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute
            .parse_args::<syn::Path>()
            .is_ok_and(|path| path.is_ident("test"))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn names_in(file: &Path) -> Names {
    let text = fs::read_to_string(file).expect("a file just listed is readable");
    let parsed = syn::parse_file(&text).expect("the compiler accepts this file");
    let mut names = Names::default();
    names.visit_file(&parsed);
    names
}

/// `tests.rs` beside a module is test code.
fn is_test(file: &Path) -> bool {
    file.file_stem().is_some_and(|stem| stem == "tests") || file.iter().any(|part| part == "tests")
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let source = root().join("src");
    let modules: BTreeSet<&str> = RULES.iter().map(|rule| rule.module).collect();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for file in rust_files(&source) {
        let relative = file.strip_prefix(&source).expect("listed below it");
        let Some(first) = relative.iter().next().and_then(|part| part.to_str()) else {
            continue;
        };
        if first == "lib.rs" || is_test(&file) {
            continue;
        }
        let Some(rule) = RULES.iter().find(|rule| rule.module == first) else {
            wrong.push(format!("src/{first} is in no row of the table"));
            continue;
        };
        seen.insert(rule.module);
        let names = names_in(&file);
        for ours in names
            .ours
            .iter()
            .filter(|name| modules.contains(name.as_str()))
        {
            if ours != rule.module && !rule.ours.contains(&ours.as_str()) {
                wrong.push(format!("{} uses crate::{ours}", relative.display()));
            }
        }
        for outside in &names.outside {
            let unlisted = outside == "gptoss_onnx" && !rule.ours.contains(&"gptoss_onnx");
            if rule.forbidden.contains(&outside.as_str()) || unlisted {
                wrong.push(format!("{} names {outside}", relative.display()));
            }
        }
    }
    assert_eq!(seen, modules, "every row of the table has code");
    assert!(
        wrong.is_empty(),
        "against ARCHITECTURE.md:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_graph_crate_uses_nothing_of_ours() {
    for file in rust_files(&root().join("onnx/src")) {
        let names = names_in(&file);
        for foreign in ["gptoss", "zbus", "tokio"] {
            assert!(
                !names.outside.contains(foreign),
                "{} names {foreign}",
                file.display()
            );
        }
    }
}

#[test]
fn unsafe_stands_in_kernels_and_ffi_only() {
    for folder in ["src", "onnx/src"] {
        for file in rust_files(&root().join(folder)) {
            let relative = file.strip_prefix(root()).expect("listed below it");
            let allowed = UNSAFE_MAY_STAND_IN
                .iter()
                .any(|place| relative.to_string_lossy().starts_with(place));
            assert!(
                allowed || !names_in(&file).holds_unsafe,
                "{} holds unsafe code",
                relative.display()
            );
        }
    }
}

#[test]
fn one_module_knows_which_system_it_is() {
    for folder in ["src", "onnx/src"] {
        for file in rust_files(&root().join(folder)) {
            let relative = file.strip_prefix(root()).expect("listed below it");
            let allowed = relative.starts_with("src/platform")
                || SYSTEM_MAY_BE_ASKED_IN
                    .iter()
                    .any(|f| relative == Path::new(f));
            let text = fs::read_to_string(&file).expect("readable");
            assert!(
                allowed || !text.contains("target_os"),
                "{} asks for the system: src/platform is for that",
                relative.display()
            );
        }
    }
}

#[test]
fn files_are_short_and_named_for_what_they_hold() {
    for folder in ["src", "onnx", "tests"] {
        for file in rust_files(&root().join(folder)) {
            let lines = fs::read_to_string(&file).expect("readable").lines().count();
            assert!(
                lines <= LONGEST_FILE,
                "{} has {lines} lines",
                file.display()
            );
            let stem = file
                .file_stem()
                .and_then(|s| s.to_str())
                .unwrap_or_default();
            assert!(
                !EMPTY_NAMES.contains(&stem),
                "{}: name it for what it holds",
                file.display()
            );
        }
    }
}

#[test]
fn the_page_shows_every_row() {
    let page =
        fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    for rule in RULES {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `src/{}/`", rule.module)))
            .unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for src/{}/", rule.module));
        for ours in rule.ours {
            let shown = if *ours == "gptoss_onnx" { "onnx" } else { ours };
            assert!(
                row.contains(&format!("`{shown}`")),
                "{row}\ndoes not show {shown}"
            );
        }
    }
}
