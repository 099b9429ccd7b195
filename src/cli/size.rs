//! Sizes on the command line.

use super::messages::message;

/// `4G`, `650M`, `1000000`: bytes, in powers of ten, as disks and lines are sold.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1_000),
        Some((at, 'M')) => (&text[..at], 1_000_000),
        Some((at, 'G')) => (&text[..at], 1_000_000_000),
        _ => (text, 1),
    };
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let size = digits.then(|| number.parse::<u64>().ok()?.checked_mul(unit));
    size.flatten().ok_or_else(|| message!("size-wanted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_and_without_a_unit() {
        assert_eq!(bytes("4G"), Ok(4_000_000_000));
        assert_eq!(bytes("650M"), Ok(650_000_000));
        assert_eq!(bytes("3k"), bytes("3K"));
        assert_eq!(bytes("2000000"), Ok(2_000_000));
        for bad in [
            "",
            "G",
            "4T",
            "-1",
            "+1",
            "1.5G",
            "99999999999999999999G",
            "é",
        ] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
