//! `gptossd.toml(5)`, made of the commented example of the settings, which a test
//! holds to the settings themselves.

use roff::{Inline, Roff, bold, roman};

const EXAMPLE: &str = include_str!("../../../packaging/gptossd.toml");

/// Name of the page.
pub(super) const NAME: &str = "gptossd.toml";
/// Its section: file formats.
pub(super) const SECTION: &str = "5";

/// A line of the example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line<'a> {
    /// Words about what follows.
    Words(&'a str),
    /// Words that stand as they are, such as a list of paths.
    Kept(&'a str),
    /// `[table]`
    Table(&'a str),
    /// `key` and the value of `#key = value`.
    Setting(&'a str, &'a str),
    /// Between paragraphs.
    Gap,
}

fn lines() -> impl Iterator<Item = Line<'static>> {
    EXAMPLE.lines().map(|line| {
        let text = line.strip_prefix('#').unwrap_or(line);
        let setting = || text.split_once(" = ");
        match text.chars().next() {
            None => Line::Gap,
            Some('[') => Line::Table(text),
            Some('a'..='z') => setting().map_or(Line::Words(text), |(k, v)| Line::Setting(k, v)),
            Some(_) if text.starts_with("  ") => Line::Kept(text),
            Some(_) => Line::Words(text.trim_start()),
        }
    })
}

/// The page.
pub(super) fn page() -> String {
    let mut page = Roff::new();
    let source = concat!("gptoss ", env!("CARGO_PKG_VERSION"));
    page.control("TH", [NAME, SECTION, "", source, ""]);
    page.control("SH", ["NAME"]);
    page.text([roman(
        "gptossd.toml - settings of gptossd and of gptoss-ctl",
    )]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([
        roman("This page is made of "),
        bold("/usr/share/doc/gptoss/examples/gptossd.toml"),
        roman(". A setting stands with its default, or with an example where it has none."),
    ]);
    page.control("PP", []);
    let mut words: Vec<&str> = Vec::new();
    let mut kept = false;
    for line in lines() {
        if kept && !matches!(line, Line::Kept(_)) {
            page.control("fi", []);
            page.control("PP", []);
            kept = false;
        }
        match line {
            Line::Words(text) => words.push(text),
            Line::Kept(text) => {
                flush(&mut page, &mut words);
                if !kept {
                    page.control("PP", []);
                    page.control("nf", []);
                    kept = true;
                }
                page.text([roman(text)]);
            }
            Line::Table(name) => {
                flush(&mut page, &mut words);
                page.control("SH", [name]);
            }
            Line::Setting(key, value) => {
                page.control("TP", []);
                page.text([bold(key), roman(format!(" = {value}"))]);
                flush(&mut page, &mut words);
            }
            Line::Gap if words.is_empty() => {}
            Line::Gap => {
                flush(&mut page, &mut words);
                page.control("PP", []);
            }
        }
    }
    flush(&mut page, &mut words);
    page.control("SH", ["SEE ALSO"]);
    page.text([
        bold("gptossd"),
        roman("(8), "),
        bold("gptoss-ctl"),
        roman("(1)"),
    ]);
    page.render()
}

/// Writes the words that were gathered as one paragraph.
fn flush(page: &mut Roff, words: &mut Vec<&str>) {
    if !words.is_empty() {
        let text: [Inline; 1] = [roman(words.join(" "))];
        page.text(text);
        words.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_of_the_example_is_on_the_page() {
        let page = page();
        let settings: Vec<_> = lines()
            .filter_map(|line| match line {
                Line::Setting(key, _) => Some(key),
                _ => None,
            })
            .collect();
        assert!(settings.contains(&"unload-idle-seconds") && settings.len() > 20);
        assert_eq!(page.matches("\n.TP\n").count(), settings.len());
        for key in settings {
            let shown = format!("\\fB{}\\fR = ", key.replace('-', "\\-"));
            assert!(page.contains(&shown), "{key}");
        }
        for table in ["[model]", "[trust]"] {
            assert!(page.contains(&format!(".SH {table}")), "{table}");
        }
    }

    /// Each line of the example is on the page: none is taken for something else.
    #[test]
    fn a_settings_words_follow_it() {
        let page = page();
        let (_, after) = page.split_once("\\fBunload\\-idle\\-seconds\\fR").unwrap();
        let words = after.lines().nth(1).unwrap();
        assert!(words.starts_with("Seconds after which a model"), "{words}");
        assert!(page.contains("later ones win"));
    }
}
