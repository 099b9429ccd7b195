//! Words on lines that are as wide as the terminal.

use std::fmt::Write;

use anstyle::Style;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Wide punctuation that no line begins with.
const NEVER_FIRST: &str = "。，、．：；！？）」』】》〉…";

/// Puts words on lines. A word is written once it is complete; what is written
/// does not depend on how the text was cut.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Columns of the terminal; `None` leaves the breaking of lines to it.
    width: Option<usize>,
    /// Columns that are in use in the present line.
    column: usize,
    /// What the lines begin with that a paragraph is broken into.
    hanging: Piece,
    /// Whether the paragraph has text; before it spaces mean nothing.
    begun: bool,
    /// The paragraph's lines are its own: none is broken, no space is lost.
    verbatim: bool,
    /// Between the last word and the next.
    spaces: Piece,
    word: Vec<Piece>,
    word_width: usize,
    /// Whether the word's beginning is already written: it fits no line, and
    /// the terminal breaks it.
    long: bool,
}

/// Text of one style.
#[derive(Debug, Clone, Default, PartialEq)]
struct Piece {
    text: String,
    style: Style,
}

impl Piece {
    fn new(text: &str, style: Style) -> Self {
        Self {
            text: text.to_owned(),
            style,
        }
    }

    fn width(&self) -> usize {
        self.text.width()
    }

    /// Each piece ends its style, so that nothing is left if the rest is lost.
    fn write(&self, out: &mut String) {
        if !self.text.is_empty() {
            // Writing to a string cannot fail.
            let _ = write!(
                out,
                "{}{}{}",
                self.style.render(),
                self.text,
                self.style.render_reset()
            );
        }
    }
}

impl Layout {
    pub(super) fn new(width: Option<usize>) -> Self {
        Self {
            width,
            ..Self::default()
        }
    }

    pub(super) fn width(&self) -> Option<usize> {
        self.width
    }

    /// Begins a paragraph: its first line with `first`, its others with
    /// `hanging`.
    pub(super) fn begin(&mut self, first: &str, hanging: &str, style: Style, out: &mut String) {
        self.verbatim = false;
        self.begun = false;
        self.hanging = Piece::new(hanging, style);
        let first = Piece::new(first, style);
        first.write(out);
        self.column = first.width();
    }

    /// Begins a line that is kept as it is.
    pub(super) fn begin_verbatim(&mut self) {
        self.verbatim = true;
        self.column = 0;
    }

    /// More text of the paragraph.
    pub(super) fn text(&mut self, text: &str, style: Style, out: &mut String) {
        for c in text.chars() {
            if c == ' ' || c == '\t' {
                self.flush(out);
                self.long = false;
                if !self.begun && !self.verbatim {
                    continue;
                }
                self.space(c, style);
                continue;
            }
            if self.breaks_before(c) {
                self.flush(out);
                self.long = false;
            }
            self.push(c, style);
            if self.width.is_some_and(|width| self.fills(width)) {
                self.flush(out);
                self.long = true;
            }
        }
    }

    fn space(&mut self, c: char, style: Style) {
        if self.spaces.text.is_empty() {
            self.spaces.style = style;
        } else if self.spaces.style != style {
            self.spaces.style = Style::new();
        }
        self.spaces.text.push(if self.verbatim { c } else { ' ' });
    }

    /// Whether the word is as wide as a line. The characters' own widths are at
    /// least the word's.
    fn fills(&mut self, width: usize) -> bool {
        if self.word_width >= width {
            self.word_width = text_of(&self.word).width();
        }
        self.word_width >= width
    }

    fn push(&mut self, c: char, style: Style) {
        self.begun = true;
        self.word_width += c.width().unwrap_or(0);
        match self.word.last_mut() {
            Some(last) if last.style == style => last.text.push(c),
            _ => self
                .word
                .push(Piece::new(c.encode_utf8(&mut [0; 4]), style)),
        }
    }

    /// Scripts of wide characters have no spaces: a line may break at any,
    /// but inside of what is drawn as one.
    fn breaks_before(&self, c: char) -> bool {
        let Some(last) = self.word.last().and_then(|p| p.text.chars().next_back()) else {
            return false;
        };
        let joined = last == '\u{200d}' || c.width() == Some(0) || is_modifier(c);
        if joined || NEVER_FIRST.contains(c) {
            return false;
        }
        let after_wide = || self.word.last().is_some_and(|p| ends_wide(&p.text));
        c.width() == Some(2) || (c.is_alphanumeric() && after_wide())
    }

    /// Writes the word, in the next line where it does not fit this one.
    fn flush(&mut self, out: &mut String) {
        if self.word.is_empty() {
            return;
        }
        let mut pieces = std::mem::take(&mut self.word);
        self.word_width = 0;
        let width = text_of(&pieces).width();
        let spaces = std::mem::take(&mut self.spaces);
        let fits = |line: usize| self.column + spaces.width() + width <= line;
        let indent = self.hanging.width();
        match self.width {
            Some(line) if !self.verbatim && !self.long && !fits(line) && self.column > indent => {
                out.push('\n');
                self.hanging.write(out);
                self.column = indent;
            }
            _ => {
                self.column += spaces.width();
                match pieces.first_mut() {
                    Some(first) if first.style == spaces.style => {
                        first.text.insert_str(0, &spaces.text);
                    }
                    _ => spaces.write(out),
                }
            }
        }
        self.column += width;
        if let Some(line) = self.width.filter(|line| self.column > *line) {
            self.column %= line;
        }
        for piece in &pieces {
            piece.write(out);
        }
    }

    /// Ends the line.
    pub(super) fn end_line(&mut self, out: &mut String) {
        self.flush(out);
        self.spaces.text.clear();
        self.long = false;
        self.column = 0;
        out.push('\n');
    }
}

fn text_of(pieces: &[Piece]) -> String {
    pieces.iter().map(|piece| piece.text.as_str()).collect()
}

/// Whether its last visible character is wide.
fn ends_wide(text: &str) -> bool {
    let mut widths = text.chars().rev().map(|c| c.width().unwrap_or(0));
    widths.find(|width| *width > 0) == Some(2)
}

/// Skin tones.
fn is_modifier(c: char) -> bool {
    ('\u{1f3fb}'..='\u{1f3ff}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(width: usize, first: &str, hanging: &str, text: &str) -> Vec<String> {
        let (mut layout, mut out) = (Layout::new(Some(width)), String::new());
        layout.begin(first, hanging, Style::new(), &mut out);
        layout.text(text, Style::new(), &mut out);
        layout.end_line(&mut out);
        out.lines().map(str::to_owned).collect()
    }

    #[test]
    fn words_stay_whole() {
        assert_eq!(lines(10, "", "", "one two three"), ["one two", "three"]);
        assert_eq!(lines(7, "", "", "one two"), ["one two"]);
        assert_eq!(
            lines(10, "• ", "  ", "one two three"),
            ["• one two", "  three"]
        );
        assert_eq!(lines(10, "", "", "  one  two "), ["one  two"]);
    }

    #[test]
    fn wide_characters_are_never_halved() {
        assert_eq!(lines(5, "", "", "你好世界"), ["你好", "世界"]);
        assert_eq!(lines(6, "", "", "ab你好世"), ["ab你好", "世"]);
        let family = "👩\u{200d}👩\u{200d}👧";
        assert_eq!(lines(4, "", "", &format!("abc{family}")), ["abc", family]);
        assert_eq!(
            lines(3, "", "", "e\u{301}e\u{301} e\u{301}"),
            ["e\u{301}e\u{301}", "e\u{301}"]
        );
    }

    #[test]
    fn what_fits_no_line_is_left_to_the_terminal() {
        let url = "https://example.org/a/long/path";
        assert_eq!(
            lines(10, "", "", &format!("see {url} now")),
            ["see".to_owned(), format!("{url} now")]
        );
    }

    #[test]
    fn verbatim_lines_keep_their_spaces() {
        let (mut layout, mut out) = (Layout::new(Some(5)), String::new());
        layout.begin_verbatim();
        layout.text("    let  x = 1;", Style::new(), &mut out);
        layout.end_line(&mut out);
        assert_eq!(out, "    let  x = 1;\n");
    }
}
