//! Rows with columns.

use anstyle::Style;
use unicode_width::UnicodeWidthStr;

use super::inline;
use super::layout::Layout;

/// On which side a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Middle,
    Right,
}

type Cell = Vec<(String, Style)>;

/// Writes a table's lines: in columns where they fit, else as they are.
pub(super) fn write(lines: &[String], base: Style, layout: &mut Layout, out: &mut String) {
    let mut rows: Vec<Vec<&str>> = lines.iter().map(|line| split(line)).collect();
    let sides = rows.get(1).and_then(|row| sides(row));
    let Some(sides) = sides else {
        return write_lines(lines, base, layout, out);
    };
    rows.remove(1);
    let rows: Vec<Vec<Cell>> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| {
            let style = if index == 0 { base.bold() } else { base };
            row.iter().map(|text| cell(text, style)).collect()
        })
        .collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(width)
            .max()
    };
    let widths: Vec<usize> = (0..columns).map(|c| widest(c).unwrap_or(0)).collect();
    let total = widths.iter().sum::<usize>() + 3 * columns.saturating_sub(1);
    if layout.width().is_some_and(|line| total > line) {
        return write_lines(lines, base, layout, out);
    }
    for (index, row) in rows.iter().enumerate() {
        layout.begin_verbatim();
        for (column, width) in widths.iter().enumerate() {
            if column > 0 {
                layout.text(" │ ", base.dimmed(), out);
            }
            let side = sides.get(column).copied().unwrap_or(Side::Left);
            let empty = Cell::new();
            write_cell(row.get(column).unwrap_or(&empty), *width, side, layout, out);
        }
        layout.end_line(out);
        if index == 0 {
            let bars: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
            layout.begin_verbatim();
            layout.text(&bars.join("─┼─"), base.dimmed(), out);
            layout.end_line(out);
        }
    }
}

fn write_lines(lines: &[String], base: Style, layout: &mut Layout, out: &mut String) {
    for line in lines {
        layout.begin("", "  ", base, out);
        for (text, style) in cell(line, base) {
            layout.text(&text, style, out);
        }
        layout.end_line(out);
    }
}

fn write_cell(cell: &Cell, room: usize, side: Side, layout: &mut Layout, out: &mut String) {
    let free = room.saturating_sub(width(cell));
    let before = match side {
        Side::Left => 0,
        Side::Middle => free / 2,
        Side::Right => free,
    };
    layout.text(&" ".repeat(before), Style::new(), out);
    for (text, style) in cell {
        layout.text(text, *style, out);
    }
    layout.text(&" ".repeat(free - before), Style::new(), out);
}

/// A line's cells.
fn split(line: &str) -> Vec<&str> {
    let line = line.trim();
    let line = line.strip_prefix('|').unwrap_or(line);
    let (mut cells, mut begin, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in line.char_indices() {
        if c == '|' && !escaped {
            cells.push(line.get(begin..at).unwrap_or_default().trim());
            begin = at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    let last = line.get(begin..).unwrap_or_default().trim();
    if !last.is_empty() {
        cells.push(last);
    }
    cells
}

/// What the second line says of each column, if it is one that does.
fn sides(cells: &[&str]) -> Option<Vec<Side>> {
    let side = |cell: &&str| {
        let dashes = cell.trim_matches(':');
        if dashes.is_empty() || dashes.chars().any(|c| c != '-') {
            return None;
        }
        Some(match (cell.starts_with(':'), cell.ends_with(':')) {
            (true, true) => Side::Middle,
            (false, true) => Side::Right,
            _ => Side::Left,
        })
    };
    let sides: Option<Vec<Side>> = cells.iter().map(side).collect();
    sides.filter(|sides| !sides.is_empty())
}

fn cell(text: &str, style: Style) -> Cell {
    let mut pieces = Cell::new();
    inline::render(text, None, true, style, &mut |text, style| {
        pieces.push((text.to_owned(), style));
    });
    pieces
}

fn width(cell: &Cell) -> usize {
    let text: String = cell.iter().map(|(text, _)| text.as_str()).collect();
    text.width()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(width: Option<usize>, lines: &[&str]) -> String {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let (mut layout, mut out) = (Layout::new(width), String::new());
        write(&lines, Style::new(), &mut layout, &mut out);
        let mut plain = String::new();
        let mut skipping = false;
        for c in out.chars() {
            skipping |= c == '\x1b';
            if !skipping {
                plain.push(c);
            }
            skipping &= c != 'm';
        }
        plain
    }

    #[test]
    fn columns_line_up() {
        let lines = [
            "| a | number |",
            "|---|--:|",
            "| 你好 | 7 |",
            "| x \\| y | 12 | more |",
        ];
        assert_eq!(
            table(Some(40), &lines),
            "a     │ number │\n──────┼────────┼─────\n你好  │      7 │\nx | y │     12 │ more\n"
        );
    }

    #[test]
    fn nothing_is_lost_where_they_do_not_fit() {
        let lines = ["| a | b |", "|---|---|", "| one two | three |"];
        let text = table(Some(10), &lines);
        assert_eq!(text, "| a | b |\n|---|---|\n| one two\n  | three\n  |\n");
        assert_eq!(
            table(None, &["| a | b |", "| c | d |"]),
            "| a | b |\n| c | d |\n"
        );
    }
}
