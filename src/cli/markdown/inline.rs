//! Emphasis, code and links within a line.

use anstyle::{AnsiColor, Style};

/// Characters within which an opening mark must find its closing one. What
/// stands behind it waits so long, and without it is text like any other.
const REACH: usize = 240;

/// What bytes at the beginning of a text are.
#[derive(Debug, PartialEq)]
enum Span<'a> {
    Text(&'a str),
    Code(&'a str),
    /// Emphasised by so many marks.
    Emphasis(char, usize, &'a str),
    Link {
        text: &'a str,
        url: &'a str,
    },
}

/// The text has to go on before anything can be said.
struct Undecided;

/// What follows the text that is there.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// The line's end.
    Line,
    /// More of the line, perhaps.
    Open,
    /// More, but out of reach.
    Reach,
}

impl End {
    /// `None`: no mark stands here, unless more text may bring it.
    fn missing<T>(self) -> Result<Option<T>, Undecided> {
        match self {
            End::Open => Err(Undecided),
            End::Line | End::Reach => Ok(None),
        }
    }
}

/// Hands what can be decided of `text` to `write`, and returns how many bytes
/// that was. `previous` is the character before it; `complete`: its line ends
/// with it. What is decided does not depend on how much more there is.
pub(super) fn render(
    text: &str,
    mut previous: Option<char>,
    complete: bool,
    style: Style,
    write: &mut impl FnMut(&str, Style),
) -> usize {
    let mut done = 0;
    while let Some(rest) = text.get(done..).filter(|rest| !rest.is_empty()) {
        let Ok((bytes, span)) = first(rest, previous, complete) else {
            break;
        };
        match span {
            Span::Text(text) => write(text, style),
            Span::Code(text) => write(text, code(style)),
            Span::Emphasis(mark, count, text) => {
                render(text, None, true, emphasis(mark, count, style), write);
            }
            Span::Link { text, url } => {
                render(text, None, true, style.underline(), write);
                if text != url {
                    write(&format!(" ({url})"), style.dimmed());
                }
            }
        }
        done += bytes;
        previous = text.get(..done).and_then(|text| text.chars().next_back());
    }
    done
}

/// The style of code.
pub(super) fn code(style: Style) -> Style {
    style.fg_color(Some(AnsiColor::Cyan.into()))
}

fn emphasis(mark: char, count: usize, style: Style) -> Style {
    match (mark, count) {
        ('~', _) => style.strikethrough(),
        (_, 1) => style.italic(),
        (_, 2) => style.bold(),
        _ => style.bold().italic(),
    }
}

/// The first span of a text that is not empty, and its bytes.
fn first(
    text: &str,
    previous: Option<char>,
    complete: bool,
) -> Result<(usize, Span<'_>), Undecided> {
    let (window, end) = match text.char_indices().nth(REACH) {
        Some((limit, _)) => (text.get(..limit).unwrap_or(text), End::Reach),
        None if text.chars().count() == REACH => (text, End::Reach),
        None if complete => (text, End::Line),
        None => (text, End::Open),
    };
    let plain = |bytes: usize| (bytes, Span::Text(text.get(..bytes).unwrap_or(text)));
    let Some(mark) = window.chars().next() else {
        return Ok(plain(0));
    };
    let found = match mark {
        '\\' => return escaped(window, end),
        '`' => code_span(window, end)?,
        '*' | '_' | '~' => emphasised(window, mark, previous, end)?,
        '[' => link(window, end)?,
        _ => {
            let special = |c: char| matches!(c, '\\' | '`' | '*' | '_' | '~' | '[');
            return Ok(plain(text.find(special).unwrap_or(text.len())));
        }
    };
    if let Some(found) = found {
        return Ok(found);
    }
    // All of a run: its rest is no mark either.
    Ok(plain(run(window, mark)))
}

/// Bytes of the marks at the beginning.
fn run(text: &str, mark: char) -> usize {
    text.len() - text.trim_start_matches(mark).len()
}

fn escaped(window: &str, end: End) -> Result<(usize, Span<'_>), Undecided> {
    let next = window.chars().nth(1);
    if next.is_none() && end == End::Open {
        return Err(Undecided);
    }
    Ok(match next.is_some_and(|c| c.is_ascii_punctuation()) {
        true => (2, Span::Text(window.get(1..2).unwrap_or_default())),
        false => (1, Span::Text("\\")),
    })
}

type Found<'a> = Result<Option<(usize, Span<'a>)>, Undecided>;

fn code_span(window: &str, end: End) -> Found<'_> {
    let ticks = run(window, '`');
    let Some(close) = closing_ticks(window, ticks, ticks, end)? else {
        return Ok(None);
    };
    let text = window.get(ticks..close).unwrap_or_default();
    // One space beside the ticks lets a text begin with one.
    let inner = text.strip_prefix(' ').and_then(|t| t.strip_suffix(' '));
    let text = inner.filter(|t| !t.trim().is_empty()).unwrap_or(text);
    Ok(Some((close + ticks, Span::Code(text))))
}

/// Where, from `from` on, a run of exactly `ticks` stands.
fn closing_ticks(
    window: &str,
    from: usize,
    ticks: usize,
    end: End,
) -> Result<Option<usize>, Undecided> {
    let mut at = from;
    while let Some(tail) = window.get(at..)
        && let Some(found) = tail.find('`')
    {
        at += found;
        let length = run(window.get(at..).unwrap_or_default(), '`');
        if at + length == window.len() && end != End::Line {
            break;
        }
        if length == ticks {
            return Ok(Some(at));
        }
        at += length;
    }
    end.missing()
}

fn emphasised(window: &str, mark: char, previous: Option<char>, end: End) -> Found<'_> {
    let count = run(window, mark);
    let Some(next) = window.get(count..).and_then(|rest| rest.chars().next()) else {
        return end.missing();
    };
    let opens = match (mark, count) {
        ('~', 2) | ('*', 2 | 3) => true,
        // 2*3*4 and snake_case are none.
        ('*', 1) => !previous.is_some_and(|c| c.is_ascii_alphanumeric()),
        ('_', 1..=3) => !previous.is_some_and(char::is_alphanumeric),
        _ => false,
    };
    if !opens || next.is_whitespace() {
        return Ok(None);
    }
    let Some(close) = closing_marks(window, mark, count, end)? else {
        return Ok(None);
    };
    let text = window.get(count..close).unwrap_or_default();
    Ok(Some((close + count, Span::Emphasis(mark, count, text))))
}

/// Where the marks stand that close those at the beginning.
fn closing_marks(
    window: &str,
    mark: char,
    count: usize,
    end: End,
) -> Result<Option<usize>, Undecided> {
    let (mut at, mut before) = (count, mark);
    while let Some(tail) = window.get(at..)
        && let Some(c) = tail.chars().next()
    {
        let mut step = c.len_utf8();
        if c == '\\' {
            step += tail.chars().nth(1).map_or(0, char::len_utf8);
        } else if c == '`' {
            // Marks inside code are none.
            let ticks = run(tail, '`');
            step = match closing_ticks(window, at + ticks, ticks, end)? {
                Some(close) => close + ticks - at,
                None => ticks,
            };
        } else if c == mark {
            step = run(tail, mark);
            let next = tail.get(step..).and_then(|rest| rest.chars().next());
            if next.is_none() && end != End::Line {
                break;
            }
            // Three close one or two that were opened inside as well.
            let fits = step == count || (step == 3 && mark != '~');
            let inside_word = next.is_some_and(|c| match mark {
                '_' => c.is_alphanumeric(),
                '*' => count == 1 && c.is_ascii_alphanumeric(),
                _ => false,
            });
            if fits && !inside_word && at > count && !before.is_whitespace() {
                return Ok(Some(at + step - count));
            }
        }
        before = tail
            .get(..step)
            .and_then(|t| t.chars().next_back())
            .unwrap_or(c);
        at += step;
    }
    end.missing()
}

fn link(window: &str, end: End) -> Found<'_> {
    let Some(close) = matching(window, '[', ']') else {
        return end.missing();
    };
    let Some(target) = window.get(close + 1..).filter(|rest| !rest.is_empty()) else {
        return end.missing();
    };
    if !target.starts_with('(') {
        return Ok(None);
    }
    let Some(last) = matching(target, '(', ')') else {
        return end.missing();
    };
    let text = window.get(1..close).unwrap_or_default();
    let inside = target.get(1..last).unwrap_or_default().trim();
    let (url, title) = inside.split_once(' ').unwrap_or((inside, "\""));
    // Other words in parentheses are no address.
    let is_link = !url.is_empty() && title.trim_start().starts_with(['"', '\'']);
    Ok(is_link.then_some((close + 1 + last + 1, Span::Link { text, url })))
}

/// Where the bracket closes with which the text begins.
fn matching(text: &str, open: char, close: char) -> Option<usize> {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        if c == open {
            depth += 1;
        } else if c == close {
            depth -= 1;
            if depth == 0 {
                return Some(at);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each piece with the letters of its style.
    fn spans(text: &str) -> Vec<(String, String)> {
        let mut spans: Vec<(String, String)> = Vec::new();
        let bytes = render(text, None, true, Style::new(), &mut |text, style| {
            let effects = style.get_effects();
            let letters = [
                ("b", effects.contains(anstyle::Effects::BOLD)),
                ("i", effects.contains(anstyle::Effects::ITALIC)),
                ("s", effects.contains(anstyle::Effects::STRIKETHROUGH)),
                ("u", effects.contains(anstyle::Effects::UNDERLINE)),
                ("c", style.get_fg_color().is_some()),
            ];
            let letters: String = letters.iter().filter(|l| l.1).map(|l| l.0).collect();
            match spans.last_mut() {
                Some((last, all)) if *last == letters => all.push_str(text),
                _ => spans.push((letters, text.to_owned())),
            }
        });
        assert_eq!(bytes, text.len(), "{text}");
        spans
    }

    fn check(text: &str, expected: &[(&str, &str)]) {
        let spans = spans(text);
        let spans: Vec<_> = spans
            .iter()
            .map(|(s, t)| (s.as_str(), t.as_str()))
            .collect();
        assert_eq!(spans, expected, "{text}");
    }

    #[test]
    fn emphasis_code_and_links() {
        check("a **b** c", &[("", "a "), ("b", "b"), ("", " c")]);
        check("*a* _b_", &[("i", "a"), ("", " "), ("i", "b")]);
        check("***a***", &[("bi", "a")]);
        check("**a *b***", &[("b", "a "), ("bi", "b")]);
        check("*a **b***", &[("i", "a "), ("bi", "b")]);
        check("~~a~~", &[("s", "a")]);
        check("`*a*` ``b`c``", &[("c", "*a*"), ("", " "), ("c", "b`c")]);
        check("`` ` ``", &[("c", "`")]);
        check("**`a**`**", &[("bc", "a**")]);
        check(
            "这是**重点**内容",
            &[("", "这是"), ("b", "重点"), ("", "内容")],
        );
        check(
            "[a *b*](http://x/(y) 'z').",
            &[("u", "a "), ("iu", "b"), ("", " (http://x/(y)).")],
        );
        check("[http://x](http://x)", &[("u", "http://x")]);
    }

    #[test]
    fn what_is_none_stays_as_it_is() {
        for text in [
            "2 * 3 * 4",
            "2*3*4",
            "snake_case_name and __init__x",
            "*.rs and *.toml",
            "a ** b **",
            "`a",
            "a[0] = [1, 2]",
            "[a] (b)",
            "[a](b and c)",
            "[a]()",
            "****",
            "a~b~c",
            "\\",
        ] {
            check(text, &[("", text)]);
        }
        check("\\*a\\*", &[("", "*a*")]);
        check("C:\\dir", &[("", "C:\\dir")]);
    }
}
