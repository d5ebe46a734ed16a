//! `--exclude` and `--include`: which names are left out.
//!
//! The patterns and their order are rsync's: the first rule that matches decides, and what none
//! matches is copied. `*` and `?` match within a name, `**` across slashes, `[a-z]` and `[!a-z]`
//! one byte; what ends in `/***` is a directory and all in it. A pattern that begins with a slash is tied to the top of the tree, one that ends with
//! a slash is for directories alone, and one with a slash or `**` inside is compared with the path;
//! any other with the name.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Leave out, or take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// `--exclude`
    Exclude,
    /// `--include`
    Include,
}

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    verdict: Verdict,
    pattern: Vec<u8>,
    anchored: bool,
    directories_only: bool,
    /// It is for all below what matches, too.
    deep: bool,
    /// Compared with the path and not with the name alone.
    whole: bool,
}

/// All rules, in the order of the command line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
}

impl Rule {
    /// A rule of `pattern`.
    ///
    /// # Errors
    /// A pattern that could match nothing.
    pub fn new(verdict: Verdict, pattern: &OsStr) -> Result<Self, String> {
        let bytes = pattern.as_bytes();
        let anchored = bytes.first() == Some(&b'/');
        let directories_only = bytes.len() > 1 && bytes.last() == Some(&b'/');
        let mut pattern = &bytes[usize::from(anchored)..];
        let deep = pattern.ends_with(b"/***");
        if deep {
            pattern = &pattern[..pattern.len() - 4];
        } else if directories_only {
            pattern = &pattern[..pattern.len() - 1];
        }
        if pattern.windows(3).any(|three| three == b"***") {
            return Err("*** means something only at the end, after a slash".to_owned());
        }
        if pattern.windows(3).any(|three| matches!(three, b"[[:" | b":]]")) {
            return Err("classes such as [:digit:] are not known; write [0-9]".to_owned());
        }
        if pattern.is_empty() {
            return Err("a pattern needs a name to compare with, such as *.o or /build/".to_owned());
        }
        if !brackets_close(pattern) {
            return Err("a [ in it has no ]; write \\[ for the character".to_owned());
        }
        let whole = pattern.contains(&b'/') || pattern.windows(2).any(|two| two == b"**");
        let pattern = pattern.to_owned();
        Ok(Self { verdict, pattern, anchored, directories_only, deep, whole })
    }

    /// Whether it matches what is at `path`, relative to the top.
    fn matches(&self, path: &[u8], is_directory: bool) -> bool {
        let above = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        (!self.deep || is_directory) && self.matches_itself(path, is_directory)
            || (self.deep
                && above.into_iter().any(|(at, _)| self.matches_itself(&path[..at], true)))
    }

    fn matches_itself(&self, path: &[u8], is_directory: bool) -> bool {
        if self.directories_only && !is_directory {
            return false;
        }
        let name = || path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
        match (self.anchored, self.whole) {
            (true, _) => matches(&self.pattern, path),
            (false, false) => matches(&self.pattern, name()),
            // With the slash before the first name, so that `**/a` is any `a`.
            (false, true) if self.pattern.starts_with(b"**") => {
                matches(&self.pattern, &[b"/", path].concat())
            }
            // At the start of any of the names.
            (false, true) => {
                let starts = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
                std::iter::once(0)
                    .chain(starts.map(|(at, _)| at + 1))
                    .any(|start| matches(&self.pattern, &path[start..]))
            }
        }
    }
}

impl Rules {
    /// The rules in their order.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules again as they were written.
    pub fn texts(&self) -> Vec<(Verdict, Vec<u8>)> {
        let text = |rule: &Rule| {
            let start: &[u8] = if rule.anchored { b"/" } else { b"" };
            let end: &[u8] = match (rule.deep, rule.directories_only) {
                (true, _) => b"/***",
                (false, true) => b"/",
                (false, false) => b"",
            };
            (rule.verdict, [start, &rule.pattern, end].concat())
        };
        self.rules.iter().map(text).collect()
    }

    /// Whether what is at `path`, relative to the top of the tree, is left out.
    pub fn excludes(&self, path: &[u8], is_directory: bool) -> bool {
        self.rules
            .iter()
            .find(|rule| rule.matches(path, is_directory))
            .is_some_and(|rule| rule.verdict == Verdict::Exclude)
    }
}

/// Whether every class of characters has its end.
fn brackets_close(pattern: &[u8]) -> bool {
    let mut at = 0;
    while at < pattern.len() {
        match pattern[at] {
            b'\\' => at += 2,
            b'[' => match class(&pattern[at..], 0) {
                Some((len, _)) => at += len,
                None => return false,
            },
            _ => at += 1,
        }
    }
    true
}

/// Whether all of `text` matches `pattern`. Stars are tried again from where they last stood, the
/// inner one first, so the time is at most that of the lengths multiplied for each kind of star.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on, and from where in the text, if what follows a star does not match.
    let mut star: Option<(usize, usize)> = None;
    let mut double: Option<(usize, usize)> = None;
    loop {
        if p == pattern.len() && t == text.len() {
            return true;
        }
        if pattern[p..].starts_with(b"**") {
            while pattern.get(p) == Some(&b'*') {
                p += 1;
            }
            (double, star) = (Some((p, t)), None);
            continue;
        }
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
            continue;
        }
        if let (Some(&byte), Some(len)) = (text.get(t), one(&pattern[p..], text.get(t))) {
            debug_assert!(byte == text[t]);
            p += len;
            t += 1;
            continue;
        }
        match (star, double) {
            (Some((after, from)), _) if text.get(from).is_some_and(|&byte| byte != b'/') => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            (_, Some((after, from))) if from < text.len() => {
                (double, star) = (Some((after, from + 1)), None);
                (p, t) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

/// How many bytes of `pattern` match the one byte of text, if they do.
fn one(pattern: &[u8], byte: Option<&u8>) -> Option<usize> {
    let byte = *byte?;
    match pattern.first()? {
        b'?' if byte != b'/' => Some(1),
        b'?' => None,
        b'[' => class(pattern, byte).filter(|(_, has)| *has && byte != b'/').map(|(len, _)| len),
        b'\\' if pattern.len() > 1 => (pattern[1] == byte).then_some(2),
        own => (*own == byte).then_some(1),
    }
}

/// The length of the class that `pattern` begins with, and whether `byte` is in it; `None` where
/// it has no end.
fn class(pattern: &[u8], byte: u8) -> Option<(usize, bool)> {
    let mut at = 1;
    let not = matches!(pattern.get(at), Some(b'!' | b'^'));
    at += usize::from(not);
    let (first, mut has) = (at, false);
    loop {
        let mut low = *pattern.get(at)?;
        if low == b']' && at > first {
            return Some((at + 1, has != not));
        }
        if low == b'\\' {
            at += 1;
            low = *pattern.get(at)?;
        }
        let mut high = low;
        if pattern.get(at + 1) == Some(&b'-') && pattern.get(at + 2).is_some_and(|b| *b != b']') {
            high = pattern[at + 2];
            at += 2;
        }
        has |= (low..=high).contains(&byte);
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_they_do_for_rsync() {
        for (pattern, path, want) in [
            ("*.o", "a.o", true),
            ("*.o", "d/a.o", true),
            ("*.o", "a.oo", false),
            ("/a", "a", true),
            ("/a", "d/a", false),
            ("d/a", "d/a", true),
            ("d/a", "x/d/a", true),
            ("d/a", "xd/a", false),
            ("/d/*", "d/a", true),
            ("/d/*", "d/a/b", false),
            ("/d/**", "d/a/b", true),
            ("**.o", "d/e/a.o", true),
            ("**/e/f", "e/f", true),
            ("**/e/f", "d/e/f", true),
            ("/**/b", "a/c/b", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]x]", "]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("*a*b*c", "xxaxxbxxabc", true),
            ("*a*b*c", "xxaxxbxxabd", false),
        ] {
            let rule = Rule::new(Verdict::Exclude, OsStr::new(pattern)).unwrap();
            assert_eq!(rule.matches(path.as_bytes(), false), want, "{pattern} {path}");
        }
    }

    #[test]
    fn three_stars_at_the_end_are_for_a_directory_and_all_in_it() {
        let new = |pattern| Rule::new(Verdict::Include, OsStr::new(pattern));
        let rule = new("/d/e/***").unwrap();
        assert!(rule.matches(b"d/e", true) && rule.matches(b"d/e/f/g", false));
        assert!(!rule.matches(b"d/e", false) && !rule.matches(b"d", true));
        assert!(!rule.matches(b"x/d/e/f", false) && !rule.matches(b"d/ef/g", false));
        let rule = new("e/***").unwrap();
        assert!(rule.matches(b"d/e/f", false) && rule.matches(b"e", true));
        assert_eq!(Rules::new(vec![rule]).texts(), [(Verdict::Include, b"e/***".to_vec())]);
        for bad in ["***", "a***b", "/***", "[[:digit:]]"] {
            assert!(new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_slash_at_the_end_is_for_directories() {
        let rule = Rule::new(Verdict::Exclude, OsStr::new("build/")).unwrap();
        assert!(rule.matches(b"x/build", true) && !rule.matches(b"x/build", false));
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = |list: &[(Verdict, &str)]| {
            Rules::new(list.iter().map(|(v, p)| Rule::new(*v, OsStr::new(p)).unwrap()).collect())
        };
        let keep = rules(&[(Verdict::Include, "keep.o"), (Verdict::Exclude, "*.o")]);
        assert!(!keep.excludes(b"keep.o", false) && keep.excludes(b"a.o", false));
        let none = rules(&[(Verdict::Exclude, "*.o"), (Verdict::Include, "keep.o")]);
        assert!(none.excludes(b"keep.o", false) && !none.excludes(b"a.c", false));
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "*a".repeat(40) + "b";
        let text = "a".repeat(250);
        let rule = Rule::new(Verdict::Exclude, OsStr::new(&pattern)).unwrap();
        assert!(!rule.matches(text.as_bytes(), false));
    }

    #[test]
    fn nonsense_is_refused() {
        for (pattern, part) in [("", "needs a name"), ("/", "needs a name"), ("[a", "has no ]")] {
            let error = Rule::new(Verdict::Exclude, OsStr::new(pattern)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
