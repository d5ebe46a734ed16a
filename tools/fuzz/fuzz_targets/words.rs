//! Reads words of command lines: sizes, shards, and patterns, whose matches are compared with those of a matcher that
//! tries everything.
//!
//! A pattern ends at the first zero byte; what follows is a path.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use bookend_tools::cli::parse_size;
use bookend_tools::copy::tree::filter::{Rule, Rules, Verdict};
use bookend_tools::copy::tree::wishes::Shard;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        if let Ok(size) = parse_size(text) {
            assert_eq!(parse_size(&size.get().to_string()).ok(), Some(size));
        }
        if let Ok(shard) = text.parse::<Shard>() {
            assert_eq!(shard.to_string().parse(), Ok(shard));
        }
    }
    let mut parts = input.splitn(2, |&byte| byte == 0);
    let (Some(pattern), Some(path)) = (parts.next(), parts.next()) else { return };
    let Ok(rule) = Rule::new(Verdict::Exclude, OsStr::from_bytes(pattern)) else { return };
    let rules = Rules::new(vec![rule]);
    let excluded = rules.excludes(path, true);
    let Some(tied) = pattern.strip_prefix(b"/") else { return };
    let plain = !tied.contains(&b'[') && !tied.ends_with(b"/");
    if plain && tied.len() * path.len() < 400 {
        assert_eq!(excluded, matches(tied, path), "{pattern:?} {path:?}");
    }
});

/// Whether all of `text` matches a pattern without classes, by trying.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let rest_matches = |rest: &[u8], n: usize| matches(rest, &text[n..]);
    match pattern {
        [] => text.is_empty(),
        [b'*', b'*', ..] => {
            let stars = pattern.iter().take_while(|&&byte| byte == b'*').count();
            (0..=text.len()).any(|n| rest_matches(&pattern[stars..], n))
        }
        [b'*', rest @ ..] => {
            let name = text.iter().take_while(|&&byte| byte != b'/').count();
            (0..=name).any(|n| rest_matches(rest, n))
        }
        [b'?', rest @ ..] => {
            text.first().is_some_and(|&byte| byte != b'/') && rest_matches(rest, 1)
        }
        [b'\\', byte, rest @ ..] | [byte, rest @ ..] => {
            text.first() == Some(byte) && rest_matches(rest, 1)
        }
    }
}
