//! What `gptoss-ctl` tells people, in their language.
//!
//! ```text
//! messages/en/pull.ftl, fr/pull.ftl    what is said of pulls (Fluent syntax)
//!          …            fr/errors.ftl  errors of the layers below, which say
//!                                      themselves in English
//!                       fr/help.ftl    help, which clap's definitions hold in English
//! ```
//!
//! [`message!`] says a message of both. What programs read (`--json`, exit codes) and
//! what is written to a log is the same in every language: a command that answers a
//! program speaks English ([`speak_to_programs`]).

mod locale;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use fluent_bundle::concurrent::FluentBundle;
use fluent_bundle::{FluentArgs, FluentResource};

pub(super) use locale::Language;

/// A file of messages and what it says.
type File = (&'static str, &'static str);

macro_rules! files {
    ($language:literal: $($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!($language, "/", $name, ".ftl")))),*]
    };
}

const ENGLISH: &[File] = files!(
    "en": "bundle", "daemon", "machine", "measure", "pull", "store", "talk", "verify",
);
const FRENCH: &[File] = files!(
    "fr": "bundle", "daemon", "errors", "help", "machine", "measure", "pull", "store", "talk",
    "verify",
);

/// The messages of one language.
struct Messages {
    bundle: FluentBundle<FluentResource>,
}

static IN_ENGLISH: LazyLock<Messages> = LazyLock::new(|| Messages::of(Language::English));
static IN_FRENCH: LazyLock<Messages> = LazyLock::new(|| Messages::of(Language::French));

/// The language of the person at the terminal.
static ASKED: LazyLock<Language> = LazyLock::new(|| match cfg!(test) {
    // Unit tests read English, whoever runs them.
    true => Language::English,
    false => Language::from_environment(|name| std::env::var(name).ok()),
});

/// Whether a program reads the answer.
static TO_PROGRAMS: AtomicBool = AtomicBool::new(false);

/// From now on everything is said in English, since `--json` was asked for: no text
/// of another language gets into what programs read.
pub(super) fn speak_to_programs() {
    TO_PROGRAMS.store(true, Ordering::Relaxed);
}

impl Messages {
    fn of(language: Language) -> Self {
        let (tag, files) = match language {
            Language::English => ("en", ENGLISH),
            Language::French => ("fr", FRENCH),
        };
        // It decides how plurals are made. A test holds that both tags are such.
        let tag = tag.parse().unwrap_or_default();
        let mut bundle = FluentBundle::new_concurrent(vec![tag]);
        // No invisible marks around what is put in: it is copied to other programs.
        bundle.set_use_isolating(false);
        for (_, text) in files {
            // What does not parse is left out; a test finds it.
            let resource = match FluentResource::try_new((*text).to_owned()) {
                Ok(resource) | Err((resource, _)) => resource,
            };
            let _ = bundle.add_resource(resource);
        }
        Self { bundle }
    }

    /// A message with its arguments, if there is one of this name.
    fn text(&self, id: &str, arguments: &FluentArgs<'_>) -> Option<String> {
        let pattern = self.bundle.get_message(id)?.value()?;
        let mut errors = Vec::new();
        let text = self
            .bundle
            .format_pattern(pattern, Some(arguments), &mut errors);
        debug_assert!(errors.is_empty(), "{id}: {errors:?}");
        Some(text.into_owned())
    }
}

impl Language {
    fn messages(self) -> &'static Messages {
        match self {
            Self::English => &IN_ENGLISH,
            Self::French => &IN_FRENCH,
        }
    }

    /// The message of this name, if this language has it. For names that are made
    /// while the program runs, as those of help are.
    pub(super) fn text(self, id: &str, arguments: &FluentArgs<'_>) -> Option<String> {
        self.messages().text(id, arguments)
    }
}

/// The language that is spoken.
pub(super) fn language() -> Language {
    match TO_PROGRAMS.load(Ordering::Relaxed) {
        true => Language::English,
        false => *ASKED,
    }
}

/// The message of this name. Use [`message!`].
pub(super) fn text(id: &str, arguments: &FluentArgs<'_>) -> String {
    // A test holds that every name in the code is one of a message.
    language()
        .text(id, arguments)
        .unwrap_or_else(|| id.to_owned())
}

/// What the layer below says in English, in another language where that is spoken
/// and has it. Use [`translated!`].
pub(super) fn translation(id: &str, arguments: &FluentArgs<'_>) -> Option<String> {
    match language() {
        Language::English => None,
        Language::French => Language::French.text(id, arguments),
    }
}

/// `message!("pull-done", model = %model, files = count)`: the message of this name,
/// a `String`. A number given as such chooses plurals; `%` is for what is shown.
macro_rules! message {
    ($id:literal $(, $($arguments:tt)*)?) => {
        $crate::cli::messages::text(
            $id,
            &$crate::cli::messages::arguments!($($($arguments)*)?),
        )
    };
}
pub(super) use message;

/// `translated!(error, "store-busy", model = %model)`: the French message of this
/// name, or what `error` displays.
macro_rules! translated {
    ($english:expr, $id:literal $(, $($arguments:tt)*)?) => {
        $crate::cli::messages::translation(
            $id,
            &$crate::cli::messages::arguments!($($($arguments)*)?),
        )
        .unwrap_or_else(|| $english.to_string())
    };
}
pub(super) use translated;

/// Named arguments of a message.
macro_rules! arguments {
    (@set $set:ident $(,)?) => {};
    (@set $set:ident, $name:ident = % $value:expr $(, $($rest:tt)*)?) => {
        $set.set(stringify!($name), $value.to_string());
        $crate::cli::messages::arguments!(@set $set $(, $($rest)*)?);
    };
    (@set $set:ident, $name:ident = $value:expr $(, $($rest:tt)*)?) => {
        $set.set(stringify!($name), $value);
        $crate::cli::messages::arguments!(@set $set $(, $($rest)*)?);
    };
    ($($arguments:tt)*) => {{
        #[allow(unused_mut, reason = "a message may have no arguments")]
        let mut set = ::fluent_bundle::FluentArgs::new();
        $crate::cli::messages::arguments!(@set set, $($arguments)*);
        set
    }};
}
pub(super) use arguments;

/// `13.79 GB`, `13,79 Go`: see [`crate::model::human_size`].
pub(super) fn size(bytes: u64) -> String {
    size_in(language(), bytes)
}

fn size_in(language: Language, bytes: u64) -> String {
    let size = crate::model::human_size(bytes);
    match language {
        Language::English => size,
        // An octet; the space is one at which no line ends.
        Language::French => size
            .replace('.', ",")
            .replace('B', "o")
            .replace(' ', "\u{a0}"),
    }
}

/// A number with so many places, with the language's decimal sign.
pub(super) fn decimal(value: f64, places: usize) -> String {
    let text = format!("{value:.places$}");
    match language() {
        Language::English => text,
        Language::French => text.replace('.', ","),
    }
}
