//! What a line is, by its beginning.

/// A line's kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Block {
    Blank,
    /// Text behind so many spaces.
    Paragraph(usize),
    Heading(usize),
    Rule,
    /// An item behind so many spaces, and its number with its point.
    Item(usize, Option<String>),
    /// So deep.
    Quote(usize),
    Row,
    /// Begins code.
    Fence(Fence),
}

/// The line that begins a block of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fence {
    mark: char,
    length: usize,
}

impl Fence {
    /// Whether this line ends the block; `None` if it has to go on first.
    pub(super) fn ends_with(&self, line: &str, complete: bool) -> Option<bool> {
        let rest = line.trim_start_matches(' ');
        let marks = rest.chars().take_while(|c| *c == self.mark).count();
        let behind = rest.get(marks..).unwrap_or_default();
        match behind.trim().is_empty() {
            false => Some(false),
            true if complete => Some(marks >= self.length),
            true => None,
        }
    }
}

/// What the line that begins so is, and the bytes of what says so; `None` if
/// it has to go on first. What is said does not depend on how much more there
/// is.
pub(super) fn classify(line: &str, complete: bool) -> Option<(Block, usize)> {
    let rest = line.trim_start_matches([' ', '\t']);
    let indent = line.len() - rest.len();
    let Some(first) = rest.chars().next() else {
        return complete.then_some((Block::Blank, line.len()));
    };
    let kind = match first {
        '#' => heading(rest, complete)?,
        '>' => quote(rest, complete)?,
        '-' | '*' | '_' | '+' => item_or_rule(rest, first, indent, complete)?,
        '0'..='9' => number(rest, indent, complete)?,
        '`' | '~' => fence(rest, first, complete)?,
        '|' => Some((Block::Row, 0)),
        _ => None,
    };
    let (block, bytes) = kind.unwrap_or((Block::Paragraph(indent), 0));
    Some((block, indent + bytes))
}

/// Undecided, or nothing special, or a block with its bytes.
type Special = Option<Option<(Block, usize)>>;

fn heading(rest: &str, complete: bool) -> Special {
    let level = rest.chars().take_while(|c| *c == '#').count();
    match rest.chars().nth(level) {
        None if !complete => None,
        None | Some(' ') if level <= 6 => Some(Some((Block::Heading(level), level))),
        _ => Some(None),
    }
}

fn quote(rest: &str, complete: bool) -> Special {
    let behind = rest.trim_start_matches(['>', ' ']);
    if behind.is_empty() && !complete {
        return None;
    }
    let marks = rest.len() - behind.len();
    let depth = rest.chars().take(marks).filter(|c| *c == '>').count();
    Some(Some((Block::Quote(depth), marks)))
}

fn item_or_rule(rest: &str, mark: char, indent: usize, complete: bool) -> Special {
    let marks_only = rest.chars().all(|c| c == mark || c == ' ');
    if marks_only && mark != '+' {
        if !complete {
            return None;
        }
        if rest.chars().filter(|c| *c == mark).count() >= 3 {
            return Some(Some((Block::Rule, rest.len())));
        }
    }
    match rest.chars().nth(1) {
        None if !complete => None,
        Some(' ' | '\t') if mark != '_' => Some(Some((Block::Item(indent, None), 1))),
        _ => Some(None),
    }
}

fn number(rest: &str, indent: usize, complete: bool) -> Special {
    let digits = rest.chars().take_while(char::is_ascii_digit).count();
    if digits > 9 {
        return Some(None);
    }
    let mut behind = rest.chars().skip(digits);
    let (point, space) = (behind.next(), behind.next());
    match (point, space) {
        (None, _) | (Some('.' | ')'), None) if !complete => None,
        (Some(point @ ('.' | ')')), Some(' ' | '\t')) => {
            let number = rest.get(..digits).unwrap_or_default();
            let label = format!("{number}{point}");
            Some(Some((Block::Item(indent, Some(label)), digits + 1)))
        }
        _ => Some(None),
    }
}

fn fence(rest: &str, mark: char, complete: bool) -> Special {
    let length = rest.chars().take_while(|c| *c == mark).count();
    let info = rest.get(length..).unwrap_or_default();
    if length < 3 && !info.is_empty() {
        return Some(None);
    }
    if !complete {
        return None;
    }
    match length >= 3 && !(mark == '`' && info.contains('`')) {
        true => Some(Some((Block::Fence(Fence { mark, length }), rest.len()))),
        false => Some(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_known_by_their_beginning() {
        let kind = |line: &str| classify(line, true).unwrap().0;
        assert_eq!(kind(""), Block::Blank);
        assert_eq!(kind("  "), Block::Blank);
        assert_eq!(kind("a"), Block::Paragraph(0));
        assert_eq!(kind("  a"), Block::Paragraph(2));
        assert_eq!(kind("### a"), Block::Heading(3));
        assert_eq!(kind("#a"), Block::Paragraph(0));
        assert_eq!(kind("####### a"), Block::Paragraph(0));
        assert_eq!(kind("---"), Block::Rule);
        assert_eq!(kind("* * *"), Block::Rule);
        assert_eq!(kind("--"), Block::Paragraph(0));
        assert_eq!(kind("- a"), Block::Item(0, None));
        assert_eq!(kind("  * a"), Block::Item(2, None));
        assert_eq!(kind("* **a**"), Block::Item(0, None));
        assert_eq!(kind("**a**"), Block::Paragraph(0));
        assert_eq!(kind("_a_"), Block::Paragraph(0));
        assert_eq!(kind("12. a"), Block::Item(0, Some("12.".into())));
        assert_eq!(kind("1) a"), Block::Item(0, Some("1)".into())));
        assert_eq!(kind("1.5 a"), Block::Paragraph(0));
        assert_eq!(kind("2026"), Block::Paragraph(0));
        assert_eq!(kind("> > a"), Block::Quote(2));
        assert_eq!(kind("| a |"), Block::Row);
        assert!(matches!(kind("```rust"), Block::Fence(_)));
        assert!(matches!(kind("~~~"), Block::Fence(_)));
        assert_eq!(kind("```a``` b"), Block::Paragraph(0));
        assert_eq!(kind("`a`"), Block::Paragraph(0));
    }

    #[test]
    fn code_ends_with_its_own_fence() {
        let Some((Block::Fence(fence), _)) = classify("````x", true) else {
            panic!("no fence");
        };
        assert_eq!(fence.ends_with("```", true), Some(false));
        assert_eq!(fence.ends_with("````", true), Some(true));
        assert_eq!(fence.ends_with("  ````` ", true), Some(true));
        assert_eq!(fence.ends_with("````x", false), Some(false));
        assert_eq!(fence.ends_with("``", false), None);
        assert_eq!(fence.ends_with("x", false), Some(false));
        assert_eq!(fence.ends_with("", true), Some(false));
    }
}
