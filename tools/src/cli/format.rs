//! Counts, rates and times as people read them. Lengths show themselves: see
//! [`bookend::units::Bytes`].

use std::time::Duration;

use bookend::units::Bytes;

/// A count with its digits in groups of three: `1,048,576`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A time in the unit that keeps it short: `850 ns`, `3.20 ms`, `12.5 s`, `2 min 05 s`, `1 h 02 min`.
pub fn duration(time: Duration) -> String {
    let ns = time.as_nanos();
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => scaled(ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => scaled(ns as f64 / 1e6, "ms"),
        1_000_000_000..60_000_000_000 => scaled(ns as f64 / 1e9, "s"),
        _ => {
            let seconds = time.as_secs();
            if seconds < 3600 {
                format!("{} min {:02} s", seconds / 60, seconds % 60)
            } else {
                format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60)
            }
        }
    }
}

/// `bytes` moved in `time`, a second: `1.2 GiB/s`. A time too short to measure gives `-`.
pub fn rate(bytes: Bytes, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds <= 0.0 {
        return "-".to_owned();
    }
    format!("{}/s", Bytes::new((bytes.get() as f64 / seconds) as u64))
}

/// Three significant digits below 1,000.
fn scaled(value: f64, unit: &str) -> String {
    let decimals = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_stand_in_groups_of_three() {
        for (n, shown) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_048_576, "1,048,576"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(count(n), shown);
        }
    }

    #[test]
    fn times_keep_three_digits() {
        for (ns, shown) in [
            (850, "850 ns"),
            (3_200_000, "3.20 ms"),
            (12_500_000_000, "12.5 s"),
            (125_000_000_000, "2 min 05 s"),
            (3_725_000_000_000, "1 h 02 min"),
        ] {
            assert_eq!(duration(Duration::from_nanos(ns)), shown);
        }
    }

    #[test]
    fn a_rate_needs_a_time() {
        assert_eq!(rate(Bytes::gib(3), Duration::from_secs(2)), "1.5 GiB/s");
        assert_eq!(rate(Bytes::gib(3), Duration::ZERO), "-");
    }
}
