use proptest::prelude::*;
use unicode_width::UnicodeWidthStr;

use super::*;

fn whole(text: &str, width: Option<usize>) -> String {
    let mut renderer = Renderer::new(width, Style::new());
    renderer.push(text) + &renderer.finish()
}

/// Without its escape sequences; only colours and emphasis may be among them.
fn unstyled(text: &str) -> String {
    let (mut plain, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('\x1b') {
        plain.push_str(&rest[..at]);
        let sequence = rest[at..].strip_prefix("\x1b[").expect("a sequence");
        let end = sequence.find('m').expect("its end");
        let numbers = |c: char| c.is_ascii_digit() || c == ';';
        assert!(sequence[..end].chars().all(numbers), "{sequence:?}");
        rest = &sequence[end + 1..];
    }
    plain + rest
}

const SAMPLE: &str = "\
# Tides

The **moon** pulls; see [the article](https://example.org/tides).

1. First, `water` *rises*.
   Then it falls.
10. Last.

- one
  - two words that go on

> Time and tide
> wait for **no** man

```rust
fn main() {
    // **not bold**
}
```
---
| a | b |
|---|--:|
| 1 | 22 |

End";

#[test]
fn a_page() {
    let plain = unstyled(&whole(SAMPLE, Some(20)));
    let expected = "\
Tides

The moon pulls; see
the article
(https://example.org/tides).

1. First, water
   rises.
   Then it falls.
10. Last.

• one
  • two words that
    go on

│ Time and tide
│ wait for no man

```rust
fn main() {
    // **not bold**
}
```
────────────────────
a │  b
──┼───
1 │ 22

End
";
    assert_eq!(plain, expected);
}

#[test]
fn styles() {
    let bold = Style::new().bold();
    assert_eq!(
        whole("a **b c** d", None),
        format!("a {bold}b{bold:#}{bold} c{bold:#} d\n")
    );
    let code = inline::code(Style::new());
    assert_eq!(
        whole("```\nx\n```\n", None).lines().nth(1),
        Some(format!("{code}x{code:#}").as_str())
    );
    let dim = Style::new().dimmed();
    let mut renderer = Renderer::new(None, dim);
    assert_eq!(
        renderer.push("x *y*\n"),
        format!("{dim}x{dim:#}{dim} {dim:#}{0}y{0:#}\n", dim.italic())
    );
}

#[test]
fn words_appear_while_the_line_goes_on() {
    let mut renderer = Renderer::new(Some(80), Style::new());
    assert_eq!(renderer.push("The mo"), "The");
    assert_eq!(renderer.push("on and **the"), " moon and");
    assert_eq!(unstyled(&renderer.push(" sun** sh")), " the sun");
    assert_eq!(renderer.finish(), " sh\n");
    assert_eq!(renderer.finish(), "");
    assert_eq!(
        renderer.push("```\nlet x"),
        whole("```", None) + &code_of("let")
    );
    assert_eq!(unstyled(&renderer.finish()), " x\n");
}

fn code_of(text: &str) -> String {
    let code = inline::code(Style::new());
    format!("{code}{text}{code:#}")
}

#[test]
fn the_text_commands_nothing() {
    let text =
        "a\x1b]0;t\x07 **\x1b[31m** `\u{9b}2J`\r\n```\n\x1b[2J\x08\n```\n| \x1b[1m |\n# \u{202e}x";
    let plain = unstyled(&whole(text, Some(40)));
    assert!(
        plain.chars().all(|c| c == '\n' || !c.is_control()),
        "{plain:?}"
    );
    assert!(
        plain.contains("␛]0;t␇") && plain.contains("␛[2J␈"),
        "{plain}"
    );
    assert!(!plain.contains('\u{202e}'));
}

/// Text in which marks meet in all ways.
fn markdown() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "a",
        "bc",
        "def",
        " ",
        " ",
        "  ",
        "\n",
        "\n\n",
        "*",
        "**",
        "***",
        "_",
        "__",
        "`",
        "``",
        "```",
        "```rs\n",
        "~~",
        "~",
        "[",
        "](",
        "](u)",
        ")",
        "(",
        "# ",
        "## ",
        "- ",
        "* ",
        "1. ",
        "12) ",
        "> ",
        "---",
        "|",
        "|-|",
        "\\",
        "\t",
        "é",
        "你",
        "👩\u{200d}👧",
        "e\u{301}",
        "\u{1b}[0m",
        "\r",
        ".",
        "!",
    ]);
    let words = prop::collection::vec(word, 0..60);
    // Long enough for what is out of reach of its opening mark.
    (words, prop::sample::select(vec![1usize, 1, 1, 12]))
        .prop_map(|(words, times)| words.concat().repeat(times))
}

#[test]
fn lines_may_end_as_on_other_systems() {
    let text = "# a\n\n```sh\nls\n```\n\nb *c*\n| x |\n|---|\n| y |\n";
    let other = text.replace('\n', "\r\n");
    assert_eq!(whole(&other, Some(30)), whole(text, Some(30)));
    // In the middle of a line it is no end.
    assert_eq!(unstyled(&whole("a\rb", None)), "a\u{240d}b\n");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn how_the_text_is_cut_does_not_matter(
        text in markdown(),
        cuts in prop::collection::vec(0usize..2000, 0..20),
        width in prop::option::of(1usize..40),
        each in any::<bool>(),
    ) {
        let mut renderer = Renderer::new(width, Style::new());
        let mut pieces = String::new();
        let mut begin = 0;
        for (at, _) in text.char_indices() {
            if each || cuts.contains(&at) {
                pieces += &renderer.push(&text[begin..at]);
                begin = at;
            }
        }
        pieces += &renderer.push(&text[begin..]);
        pieces += &renderer.finish();
        prop_assert_eq!(&pieces, &whole(&text, width));
        let plain = unstyled(&pieces);
        prop_assert!(plain.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()));
        prop_assert!(pieces.is_empty() || pieces.ends_with('\n'));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal(text in "[ab *\n你e]{0,200}", width in 10usize..40) {
        for line in unstyled(&whole(&text, Some(width))).lines() {
            // Beside a margin, a longer word may not fit.
            let long = line.split_whitespace().any(|word| word.width() * 2 >= width);
            prop_assert!(long || line.width() <= width, "{:?}", line);
        }
    }

    #[test]
    fn no_letter_is_lost(text in "[a-z *_`~\\[\\]()>|#\n-]{0,200}") {
        let letters = |text: &str| text.chars().filter(char::is_ascii_lowercase).collect::<String>();
        let kept = letters(&unstyled(&whole(&text, Some(30))));
        // An address that is also the text of its link stands there once.
        prop_assert!(kept == letters(&text) || text.contains("]("));
    }
}
