//! Which language the environment asks for.

use unic_langid::LanguageIdentifier;

/// A language that the messages are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Language {
    /// What the program is written in.
    English,
    /// `fr`, of any country.
    French,
}

impl Language {
    /// The language of this locale, if it is one of ours: `fr_CA.UTF-8@euro`, `en`.
    fn of(locale: &str) -> Option<Self> {
        let name = locale.split(['.', '@']).next().unwrap_or(locale);
        let locale: LanguageIdentifier = name.parse().ok()?;
        match locale.language.as_str() {
            "en" => Some(Self::English),
            "fr" => Some(Self::French),
            _ => None,
        }
    }

    /// As programs find it that use gettext: the locale is the first of `LC_ALL`,
    /// `LC_MESSAGES` and `LANG` that is set. If it is none (`C`, `POSIX`), or of a
    /// charset that cannot show what is written here, it is English; else the first
    /// of `LANGUAGE` that is known, and then the locale itself.
    ///
    /// Source: POSIX.1-2024, 8.2 Internationalization Variables; GNU gettext's
    /// manual, 2.3 Setting the Locale through Environment Variables.
    pub(super) fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().find_map(set);
        let Some(locale) = locale.filter(|locale| is_shown(locale)) else {
            return Self::English;
        };
        let preferred = set("LANGUAGE").unwrap_or_default();
        let wanted = preferred.split(':').chain([locale.as_str()]);
        wanted
            .into_iter()
            .find_map(Self::of)
            .unwrap_or(Self::English)
    }
}

/// Whether this is a locale of a country whose charset is Unicode.
fn is_shown(locale: &str) -> bool {
    let name = locale.split('@').next().unwrap_or(locale);
    let (name, charset) = name.split_once('.').unwrap_or((name, "UTF-8"));
    let charset = charset.to_ascii_lowercase();
    !matches!(name, "C" | "POSIX") && matches!(charset.as_str(), "utf-8" | "utf8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn language(variables: &[(&str, &str)]) -> Language {
        let value = |name: &str| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Language::from_environment(value)
    }

    #[test]
    fn the_environment_decides_as_for_other_programs() {
        use Language::{English, French};
        for (variables, wanted) in [
            (&[][..], English),
            (&[("LANG", "fr_FR.UTF-8")], French),
            (&[("LANG", "fr_CA.utf8@euro")], French),
            (&[("LANG", "fr")], French),
            (&[("LANG", "de_DE.UTF-8")], English),
            (&[("LANG", "C")], English),
            (&[("LANG", "C.UTF-8"), ("LANGUAGE", "fr")], English),
            (&[("LANG", "fr_FR.ISO-8859-1")], English),
            (&[("LANG", "fr_FR.UTF-8"), ("LC_ALL", "C")], English),
            (&[("LANG", "fr_FR.UTF-8"), ("LC_ALL", "")], French),
            (
                &[("LANG", "en_US.UTF-8"), ("LC_MESSAGES", "fr_FR.UTF-8")],
                French,
            ),
            (&[("LANG", "en_US.UTF-8"), ("LANGUAGE", "fr:en")], French),
            (&[("LANG", "de_DE.UTF-8"), ("LANGUAGE", "de:fr")], French),
            (&[("LANG", "fr_FR.UTF-8"), ("LANGUAGE", "en:fr")], English),
            (&[("LANG", "../../etc/passwd")], English),
            (&[("LANG", "français")], English),
        ] {
            assert_eq!(language(variables), wanted, "{variables:?}");
        }
    }
}
