//! The terminal: what may reach it.

/// Text that a terminal shows and does not obey, if it is for one.
pub(super) fn printable(text: &str, neutralise: bool) -> String {
    match neutralise {
        true => text.chars().map(visible).collect(),
        false => text.to_owned(),
    }
}

/// Control characters other than line feed and tab, and those that reorder
/// text, become visible.
pub(super) fn visible(c: char) -> char {
    match c {
        '\n' | '\t' => c,
        // The pictures of the control characters.
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
        '\x7f' => '\u{2421}',
        '\u{80}'..='\u{9f}' => '\u{fffd}',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_commanded() {
        let text = "a\x1b]0;title\x07b\r\n\tc\u{9b}31m\u{202e}é\u{7f}";
        assert_eq!(
            printable(text, true),
            "a␛]0;title␇b␍\n\tc\u{fffd}31m\u{fffd}é␡"
        );
        assert_eq!(printable(text, false), text);
    }
}
