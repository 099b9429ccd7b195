//! Finds an application's stop strings in text that arrives in pieces.

/// Looks for the first of several strings; text that may still become one of
/// them is held back.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    strings: Vec<String>,
    held: String,
}

/// What a piece of text led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Scan {
    /// This can be shown.
    Text(String),
    /// A stop string came; this is the text before it.
    Stopped(String),
}

impl StopStrings {
    /// Empty strings are ignored.
    pub fn new(strings: Vec<String>) -> Self {
        let strings = strings.into_iter().filter(|s| !s.is_empty()).collect();
        Self {
            strings,
            held: String::new(),
        }
    }

    /// Takes the next piece.
    pub fn push(&mut self, text: &str) -> Scan {
        if self.strings.is_empty() {
            return Scan::Text(text.to_owned());
        }
        self.held.push_str(text);
        let found = self
            .strings
            .iter()
            .filter_map(|s| self.held.find(s.as_str()));
        if let Some(at) = found.min() {
            let mut held = std::mem::take(&mut self.held);
            held.truncate(at);
            return Scan::Stopped(held);
        }
        let keep = self.strings.iter().map(|s| self.beginning_of(s)).max();
        let shown = self.held.len() - keep.unwrap_or(0);
        let rest = self.held.split_off(shown);
        Scan::Text(std::mem::replace(&mut self.held, rest))
    }

    /// What was held back: the text is over.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Length of the longest end of the held text that begins `string`.
    fn beginning_of(&self, string: &str) -> usize {
        let most = string.len().min(self.held.len());
        let fits = |n: &usize| {
            string
                .get(..*n)
                .is_some_and(|begin| self.held.ends_with(begin))
        };
        (1..=most).rev().find(fits).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(strings: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut stop = StopStrings::new(strings.iter().map(|s| (*s).to_owned()).collect());
        let mut shown = String::new();
        for piece in pieces {
            match stop.push(piece) {
                Scan::Text(text) => shown += &text,
                Scan::Stopped(text) => return (shown + &text, true),
            }
        }
        (shown + &stop.finish(), false)
    }

    #[test]
    fn a_stop_string_across_pieces() {
        assert_eq!(run(&["END"], &["abE", "N", "Dx"]), ("ab".into(), true));
        assert_eq!(run(&["END"], &["abE", "NO"]), ("abENO".into(), false));
        assert_eq!(run(&["é!"], &["aé", "!"]), ("a".into(), true));
        assert_eq!(run(&["b", "abc"], &["xabc"]), ("x".into(), true));
        assert_eq!(run(&["b", "abc"], &["xa", "b"]), ("xa".into(), true));
        assert_eq!(run(&[""], &["abc"]), ("abc".into(), false));
    }

    #[test]
    fn only_what_may_become_a_stop_string_is_held() {
        let mut stop = StopStrings::new(vec!["END".into()]);
        assert_eq!(stop.push("abE"), Scan::Text("ab".into()));
        assert_eq!(stop.push("x"), Scan::Text("Ex".into()));
    }

    proptest! {
        #[test]
        fn equals_a_search_in_the_whole(
            strings in proptest::collection::vec("[abé]{1,4}", 1..4),
            pieces in proptest::collection::vec("[abcé]{0,5}", 0..12),
        ) {
            let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
            let whole = pieces.concat();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (shown, stopped) = run(&strings, &pieces);
            // The first piece boundary at which any string is complete decides.
            let expected = (0..=pieces.len()).find_map(|n| {
                let text = pieces[..n].concat();
                strings.iter().filter_map(|s| text.find(s)).min()
            });
            prop_assert_eq!(stopped, expected.is_some());
            let length = expected.unwrap_or(whole.len());
            prop_assert_eq!(shown, &whole[..length]);
        }
    }
}
