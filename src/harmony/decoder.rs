//! Turns the bytes of successive tokens into whole UTF-8.

/// Collects bytes and hands out text as soon as it is whole.
///
/// Tokens cut UTF-8 anywhere. An unfinished character at the end is held back
/// until its other bytes come; bytes that can never become a character turn
/// into U+FFFD, one for each maximal broken part, exactly as
/// [`String::from_utf8_lossy`] would have it for all the bytes together.
#[derive(Debug, Clone, Default)]
pub struct TextDecoder {
    pending: Vec<u8>,
}

impl TextDecoder {
    /// An empty decoder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a token's bytes; returns what is whole by now, possibly nothing.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        // The usual case: nothing is held back and the token is whole.
        if self.pending.is_empty()
            && let Ok(text) = std::str::from_utf8(bytes)
        {
            return text.to_owned();
        }
        self.pending.extend_from_slice(bytes);
        let held = incomplete_tail(&self.pending);
        let tail = self.pending.split_off(self.pending.len() - held);
        let whole = std::mem::replace(&mut self.pending, tail);
        String::from_utf8_lossy(&whole).into_owned()
    }

    /// Ends the text: what was held back becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        let pending = std::mem::take(&mut self.pending);
        String::from_utf8_lossy(&pending).into_owned()
    }

    /// Whether an unfinished character is held back.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }
}

/// Bytes at the end that may still become a character, 0 to 3.
fn incomplete_tail(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    loop {
        match std::str::from_utf8(rest) {
            Ok(_) => return 0,
            Err(error) => match error.error_len() {
                Some(broken) => rest = &rest[error.valid_up_to() + broken..],
                None => return rest.len() - error.valid_up_to(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut decoder = TextDecoder::new();
        let mut out: Vec<String> = pieces
            .into_iter()
            .map(|piece| decoder.push(piece))
            .collect();
        out.push(decoder.finish());
        out
    }

    #[test]
    fn a_character_comes_out_whole() {
        let pieces: [&[u8]; 4] = [b"a\xf0", b"\x9f", b"\x98", b"\x80!"];
        assert_eq!(decode(pieces), ["a", "", "", "😀!", ""]);
    }

    #[test]
    fn an_unfinished_character_is_flushed_at_the_end() {
        assert_eq!(decode([b"ok\xe2\x82".as_slice()]), ["ok", "\u{fffd}"]);
        assert_eq!(
            decode([b"\xe2\x82".as_slice(), b"x"]),
            ["", "\u{fffd}x", ""]
        );
        assert_eq!(
            decode([b"\xff\xc3".as_slice(), b"\xa9"]),
            ["\u{fffd}", "é", ""]
        );
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_lossy_text(
            bytes in prop::collection::vec(
                prop_oneof![any::<u8>(), Just(0xf0), Just(0x9f), Just(0x98), Just(0x80), Just(b'a')],
                0..60,
            ),
            cuts in prop::collection::vec(0usize..8, 0..40),
        ) {
            let mut decoder = TextDecoder::new();
            let mut text = String::new();
            let mut rest = bytes.as_slice();
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                text += &decoder.push(head);
                rest = tail;
            }
            text += &decoder.push(rest);
            text += &decoder.finish();
            prop_assert!(!decoder.is_pending());
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
