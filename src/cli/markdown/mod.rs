//! Markdown for a terminal, rendered while it comes.
//!
//! Each line is rendered by itself and word by word: a line is known by its
//! beginning, and only what stands behind an opening mark waits for the closing
//! one. A table waits for its last row. Marks across lines, HTML and references
//! stay as they are.

mod block;
mod inline;
mod layout;
mod table;

use anstyle::Style;

use self::block::{Block, Fence};
use self::layout::Layout;
use super::terminal::visible;

/// The longest horizontal rule.
const RULE: usize = 60;

/// Renders one message. What it writes does not depend on how the text is cut,
/// and holds no control characters of the text.
#[derive(Debug)]
pub(super) struct Renderer {
    layout: Layout,
    /// What everything is written in.
    base: Style,
    place: Place,
    /// Of the present line, what is not decided yet.
    pending: String,
    /// The character before it, in its line.
    previous: Option<char>,
    /// Inside a block of code: how it ends.
    fence: Option<Fence>,
    /// Rows of a table that has not ended.
    rows: Vec<String>,
    /// A carriage return that may belong to the end of the line.
    carriage: bool,
}

/// Where the present line is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Begin,
    /// In a paragraph's text.
    Text(Style),
    Code,
    Row,
}

impl Renderer {
    /// For a terminal of so many columns.
    pub(super) fn new(width: Option<usize>, base: Style) -> Self {
        Self {
            layout: Layout::new(width),
            base,
            place: Place::Begin,
            pending: String::new(),
            previous: None,
            fence: None,
            rows: Vec::new(),
            carriage: false,
        }
    }

    /// Takes more text; returns what can be written.
    pub(super) fn push(&mut self, text: &str) -> String {
        let mut out = String::new();
        for part in text.split_inclusive('\n') {
            let line = part.strip_suffix('\n');
            let complete = line.is_some();
            let text = line.unwrap_or(part);
            if std::mem::take(&mut self.carriage) && !text.is_empty() {
                self.pending.push(visible('\r'));
            }
            let without = text.strip_suffix('\r');
            self.carriage = without.is_some() && !complete;
            self.pending
                .extend(without.unwrap_or(text).chars().map(visible));
            self.advance(complete, &mut out);
        }
        out
    }

    /// Returns the rest, up to the beginning of a line.
    pub(super) fn finish(&mut self) -> String {
        let mut out = String::new();
        self.carriage = false;
        if self.place != Place::Begin || !self.pending.is_empty() {
            self.advance(true, &mut out);
        }
        self.end_table(&mut out);
        self.fence = None;
        out
    }

    /// Decides what can be decided of the line; all of it if it is complete.
    fn advance(&mut self, complete: bool, out: &mut String) {
        if self.place == Place::Begin && !self.begin(complete, out) {
            return;
        }
        match self.place {
            Place::Begin => {}
            Place::Text(style) => self.text(style, complete, out),
            Place::Code => {
                let text = std::mem::take(&mut self.pending);
                self.layout.text(&text, inline::code(self.base), out);
            }
            Place::Row if complete => self.rows.push(std::mem::take(&mut self.pending)),
            Place::Row => {}
        }
        if complete {
            if matches!(self.place, Place::Text(_) | Place::Code) {
                self.layout.end_line(out);
            }
            self.place = Place::Begin;
            self.previous = None;
            self.pending.clear();
        }
    }

    fn text(&mut self, style: Style, complete: bool, out: &mut String) {
        let layout = &mut self.layout;
        let mut write = |text: &str, style: Style| layout.text(text, style, out);
        let done = inline::render(&self.pending, self.previous, complete, style, &mut write);
        let last = self.pending.drain(..done).next_back();
        self.previous = last.or(self.previous);
    }

    /// Finds out what the line is; `false` if it has to go on first.
    fn begin(&mut self, complete: bool, out: &mut String) -> bool {
        if let Some(fence) = &self.fence {
            let Some(ends) = fence.ends_with(&self.pending, complete) else {
                return false;
            };
            match ends {
                true => self.fence_line(None, out),
                false => {
                    self.layout.begin_verbatim();
                    self.place = Place::Code;
                }
            }
            return true;
        }
        let Some((block, bytes)) = block::classify(&self.pending, complete) else {
            return false;
        };
        if block != Block::Row {
            self.end_table(out);
        }
        match block {
            Block::Fence(fence) => self.fence_line(Some(fence), out),
            block => {
                self.pending.drain(..bytes);
                self.begin_block(block, out);
            }
        }
        true
    }

    fn begin_block(&mut self, block: Block, out: &mut String) {
        let (base, dim) = (self.base, self.base.dimmed());
        // However deep it is, there is room for its words.
        let most = self.layout.width().map_or(usize::MAX, |width| width / 4);
        let margin = |indent: usize| " ".repeat(indent.min(most));
        self.place = Place::Text(base);
        match block {
            // These are whole lines.
            Block::Blank => {
                out.push('\n');
                self.place = Place::Begin;
            }
            Block::Rule => {
                let width = self.layout.width().unwrap_or(RULE).min(RULE);
                self.layout.begin(&"─".repeat(width), "", dim, out);
                self.layout.end_line(out);
                self.place = Place::Begin;
            }
            Block::Row => self.place = Place::Row,
            Block::Paragraph(indent) => {
                let margin = margin(indent);
                self.layout.begin(&margin, &margin, base, out);
            }
            Block::Heading(level) => {
                let style = if level == 1 {
                    base.bold().underline()
                } else {
                    base.bold()
                };
                self.layout.begin("", "", base, out);
                self.place = Place::Text(style);
            }
            Block::Item(indent, label) => {
                let label = label.unwrap_or_else(|| "•".into());
                let first = format!("{}{label} ", margin(indent));
                let hanging = " ".repeat(first.chars().count());
                self.layout.begin(&first, &hanging, base, out);
            }
            Block::Quote(depth) => {
                let bars = "│ ".repeat(depth.min(most / 2).max(1));
                self.layout.begin(&bars, &bars, dim, out);
            }
            // Has its own line.
            Block::Fence(_) => {}
        }
    }

    /// The line before or after code, as it is: it says what language it is,
    /// and what is copied from the terminal is still markdown.
    fn fence_line(&mut self, fence: Option<Fence>, out: &mut String) {
        self.fence = fence;
        let line = std::mem::take(&mut self.pending);
        self.layout.begin_verbatim();
        self.layout.text(&line, self.base.dimmed(), out);
        self.layout.end_line(out);
    }

    fn end_table(&mut self, out: &mut String) {
        let rows = std::mem::take(&mut self.rows);
        if !rows.is_empty() {
            table::write(&rows, self.base, &mut self.layout, out);
        }
    }
}

#[cfg(test)]
mod tests;
