//! Sizes as people write them.
//!
//! Suffixes are those of GNU tools: `K`, `M`, `G`, `T`, `P` and `KiB`, `MiB`, … are powers of
//! 1,024; `kB`, `MB`, … powers of 1,000; none, or `B`, is bytes. Case does not matter. A decimal
//! fraction of a unit is rounded down to whole bytes; a fraction of a byte is refused.

use bookend::units::Bytes;

/// Why a text is not a size.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SizeError {
    /// There is no number in front.
    #[error("\"{0}\" is not a size: write a number and a unit, such as 4G, 512K or 1.5GiB")]
    NotANumber(String),
    /// The unit is none of ours.
    #[error(
        "\"{unit}\" in \"{text}\" is not a unit of size: use B, K, M, G, T or P \
         (powers of 1024; with B, as in MB, powers of 1000)"
    )]
    UnknownUnit {
        /// What was written.
        text: String,
        /// What follows the number.
        unit: String,
    },
    /// A fraction of a byte.
    #[error("\"{0}\" is not a whole number of bytes")]
    PartOfAByte(String),
    /// It does not fit 64 bits.
    #[error("\"{0}\" is too large: sizes end below 16 EiB")]
    TooLarge(String),
}

/// The length that `text` stands for; usable as clap's `value_parser`.
///
/// # Errors
/// [`SizeError`], whose message quotes `text`.
pub fn parse_size(text: &str) -> Result<Bytes, SizeError> {
    let text = text.trim();
    let number_end =
        text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let not_a_number = || SizeError::NotANumber(text.to_owned());
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) {
        return Err(not_a_number());
    }
    let unit = unit_bytes(unit.trim_start()).ok_or_else(|| SizeError::UnknownUnit {
        text: text.to_owned(),
        unit: unit.trim_start().to_owned(),
    })?;
    let too_large = || SizeError::TooLarge(text.to_owned());
    let whole = digits(whole).ok_or_else(not_a_number)?.ok_or_else(too_large)?;
    let whole = u128::from(whole) * u128::from(unit);
    let part = if fraction.is_empty() { 0 } else { fraction_of(text, fraction, unit)? };
    u64::try_from(whole + u128::from(part)).map(Bytes::new).map_err(|_| too_large())
}

/// Decimal digits, with `_` between them; `None` for anything else, `Some(None)` on overflow.
fn digits(text: &str) -> Option<Option<u64>> {
    let mut value = Some(0u64);
    let mut any = false;
    for c in text.chars().filter(|&c| c != '_') {
        let digit = c.to_digit(10)?;
        any = true;
        value = value.and_then(|v| v.checked_mul(10)?.checked_add(digit.into()));
    }
    any.then_some(value)
}

/// `0.fraction` of `unit`, rounded down to whole bytes.
fn fraction_of(text: &str, fraction: &str, unit: u64) -> Result<u64, SizeError> {
    if !fraction.bytes().all(|c| c.is_ascii_digit()) {
        return Err(SizeError::NotANumber(text.to_owned()));
    }
    let fraction = fraction.trim_end_matches('0');
    if unit == 1 && !fraction.is_empty() {
        return Err(SizeError::PartOfAByte(text.to_owned()));
    }
    // 17 places are finer than a byte of a pebibyte; what follows is less than one.
    let places = &fraction[..fraction.len().min(17)];
    let value = places.bytes().fold(0u128, |value, c| value * 10 + u128::from(c - b'0'));
    Ok((value * u128::from(unit) / 10u128.pow(places.len() as u32)) as u64) // below `unit`
}

/// Bytes in one `unit`.
fn unit_bytes(unit: &str) -> Option<u64> {
    let unit = unit.to_ascii_lowercase();
    let (prefix, base) = match unit.as_str() {
        "" | "b" => return Some(1),
        other => match (other.strip_suffix("ib"), other.strip_suffix('b')) {
            (Some(prefix), _) => (prefix, 1024u64),
            (None, Some(prefix)) => (prefix, 1000),
            (None, None) => (other, 1024),
        },
    };
    let power = ["k", "m", "g", "t", "p"].iter().position(|&known| known == prefix)?;
    Some(base.pow(power as u32 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_of_gnu_tools() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("17B", 17),
            ("512K", 512 << 10),
            ("512k", 512 << 10),
            ("4G", 4 << 30),
            ("4 GiB", 4 << 30),
            ("1.5GiB", 3 << 29),
            ("1.50g", 3 << 29),
            ("2.000", 2),
            ("0.3K", 307),
            ("0.99999999999999999999P", (1 << 50) - 1),
            ("10MB", 10_000_000),
            ("1_000kB", 1_000_000),
            ("3T", 3 << 40),
            ("1P", 1 << 50),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(Bytes::new(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_quoted() {
        for text in
            ["", "G", "-1", "one", ".5G", "1.G", "1..5G", "_", "0x10", "1.5.5", "4GG", "1.5_0G"]
        {
            let error = parse_size(text).unwrap_err();
            assert!(error.to_string().contains(&format!("\"{text}\"")), "{error}");
        }
        assert!(matches!(parse_size("4Q"), Err(SizeError::UnknownUnit { .. })));
        assert!(matches!(parse_size("1.5"), Err(SizeError::PartOfAByte(_))));
        assert!(matches!(parse_size("1.5B"), Err(SizeError::PartOfAByte(_))));
    }

    #[test]
    fn nothing_wraps() {
        for text in ["18446744073709551616", "16384P", "99999999999999999999G"] {
            assert!(matches!(parse_size(text), Err(SizeError::TooLarge(_))), "{text}");
        }
        assert!(parse_size("16383P").is_ok());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".{0,24}") {
            let _ = parse_size(&text);
        }

        #[test]
        fn every_number_of_bytes_reads_back(n in proptest::num::u64::ANY) {
            proptest::prop_assert_eq!(parse_size(&n.to_string()), Ok(Bytes::new(n)));
        }
    }
}
