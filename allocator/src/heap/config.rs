//! How a heap is set up, and where a process says so.
#![allow(unsafe_code)] // asks the C library for the program's name

use std::ffi::CStr;

use super::recording;
use crate::units::{Blocks, Bytes};

/// Whether a heap takes the machine's hugetlb pages. Somebody reserved those, so not unless told to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hugetlb {
    /// Never.
    Never,
    /// As long as there are some; ordinary memory afterwards.
    Allow,
    /// Nothing else: an allocation that gets none fails.
    Require,
}

/// What a heap is to do: [`DEFAULT`](Config::DEFAULT), and what is changed of it.
///
/// ```
/// use bookend::heap::{Config, Configured, Hugetlb};
/// use bookend::units::Bytes;
///
/// #[global_allocator]
/// static GLOBAL: Configured = Configured::new(
///     Config::DEFAULT.hugetlb(Hugetlb::Allow).hugetlb_limit(Bytes::gib(8)).return_delay_ms(5_000),
/// );
/// # fn main() { assert_eq!(vec![1; 1000].len(), 1000) }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub(super) hugetlb: Hugetlb,
    /// How many blocks of hugetlb pages at most.
    pub(super) hugetlb_limit: Blocks,
    /// Whether this program is one of those that may take them.
    pub(super) hugetlb_for_us: bool,
    /// Up to this size a heap stands on base pages.
    pub(super) base_blocks: Blocks,
    pub(super) delay_ms: u32,
    pub(super) secure: bool,
    pub(super) report: Report,
    /// Whether what is allocated and freed is written down.
    pub(super) record: bool,
}

/// What to print when the program ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// Nothing.
    None,
    /// A table for people.
    Text,
    /// One object.
    Json,
}

impl Config {
    /// What a heap does that nobody has told anything.
    pub const DEFAULT: Self = Self {
        hugetlb: Hugetlb::Never,
        hugetlb_limit: Blocks::new(u32::MAX),
        hugetlb_for_us: true,
        base_blocks: Blocks::new(8),
        delay_ms: 500,
        secure: false,
        report: Report::None,
        record: false,
    };

    /// Whether it takes hugetlb pages (`BOOKEND_HUGETLB`).
    pub const fn hugetlb(mut self, hugetlb: Hugetlb) -> Self {
        self.hugetlb = hugetlb;
        self
    }

    /// At most this much of them, rounded up to blocks of 2 MiB (`BOOKEND_HUGETLB_LIMIT`).
    pub const fn hugetlb_limit(mut self, limit: Bytes) -> Self {
        self.hugetlb_limit = blocks(limit);
        self
    }

    /// Up to this size, rounded up to blocks of 2 MiB, the heap stands on base pages, so that a
    /// small program stays small (`BOOKEND_SMALL`). 0: huge pages from the first.
    pub const fn small(mut self, size: Bytes) -> Self {
        self.base_blocks = blocks(size);
        self
    }

    /// How long a free block keeps its memory, in milliseconds, at most 24 days
    /// (`BOOKEND_RETURN_DELAY`). Free parts of blocks in use keep theirs up to twice as long.
    pub const fn return_delay_ms(mut self, delay: u32) -> Self {
        self.delay_ms = if delay > DELAY_MAX { DELAY_MAX } else { delay };
        self
    }

    /// Whether expensive checks are made (`BOOKEND_SECURE`): every free is looked up in its slab at
    /// once, freed objects are handed out again as late as possible, and after an allocation of
    /// more than 1 MiB, rounded up to 2 MiB, follows a block that cannot be touched.
    pub const fn secure(mut self, secure: bool) -> Self {
        self.secure = secure;
        self
    }

    /// What to print when the program ends (`BOOKEND_STATS`).
    pub const fn report(mut self, report: Report) -> Self {
        self.report = report;
        self
    }
}

/// Half of what a count of milliseconds in 32 bits can tell apart.
const DELAY_MAX: u32 = i32::MAX as u32;

/// Rounded up; what is more than can be counted is as good as no limit.
const fn blocks(bytes: Bytes) -> Blocks {
    match Blocks::holding(bytes) {
        Some(blocks) => blocks,
        None => Blocks::new(u32::MAX),
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A variable of the environment that a heap reads: its name, its values, and what they do.
pub(super) struct Variable {
    pub name: &'static CStr,
    pub values: &'static str,
    pub effect: &'static str,
    read: fn(&mut Config, &[u8]) -> bool,
}

/// Whether a name is in a list with commas.
fn is_listed(name: &[u8], list: &[u8]) -> bool {
    list.split(|&byte| byte == b',').any(|pattern| match pattern.split_last() {
        Some((b'*', start)) => name.starts_with(start),
        _ => name == pattern,
    })
}

/// The program's name, without its directory.
pub(super) fn program_name() -> &'static CStr {
    // SAFETY: the C library sets it before anything else runs, to a string that ends.
    unsafe {
        let name = program_invocation_short_name;
        if name.is_null() { c"" } else { CStr::from_ptr(name) }
    }
}

unsafe extern "C" {
    static program_invocation_short_name: *const core::ffi::c_char;
}

/// Every variable. `BOOKEND_HELP=1` prints this table.
pub(super) const VARIABLES: [Variable; 8] = [
    Variable {
        name: c"BOOKEND_HUGETLB",
        values: "never|allow|require",
        effect: "take the machine's reserved huge pages: never (default), while there are some, or nothing else",
        read: |config, value| match value {
            b"never" => set(&mut config.hugetlb, Hugetlb::Never),
            b"allow" => set(&mut config.hugetlb, Hugetlb::Allow),
            b"require" => set(&mut config.hugetlb, Hugetlb::Require),
            _ => false,
        },
    },
    Variable {
        name: c"BOOKEND_HUGETLB_LIMIT",
        values: "SIZE",
        effect: "at most this much of them, as 512M or 2G",
        read: |config, value| {
            let blocks = size(value).and_then(Blocks::holding);
            blocks.is_some_and(|blocks| set(&mut config.hugetlb_limit, blocks))
        },
    },
    Variable {
        name: c"BOOKEND_HUGETLB_PROGRAMS",
        values: "NAME[,NAME...]",
        effect: "only these programs take them, by the names that ps shows; a * at the end stands for the rest",
        read: |config, value| {
            set(&mut config.hugetlb_for_us, is_listed(program_name().to_bytes(), value))
        },
    },
    Variable {
        name: c"BOOKEND_SMALL",
        values: "SIZE",
        effect: "stay on base pages up to this size of the heap (default 16M); 0 for huge pages from the first",
        read: |config, value| {
            let blocks = size(value).and_then(Blocks::holding);
            blocks.is_some_and(|blocks| set(&mut config.base_blocks, blocks))
        },
    },
    Variable {
        name: c"BOOKEND_RETURN_DELAY",
        values: "MILLISECONDS",
        effect: "give free blocks, and long free parts of others, back to the system after this time (default 500)",
        read: |config, value| {
            let delay = number(value).and_then(|delay| u32::try_from(delay).ok());
            delay.is_some_and(|delay| set(&mut config.delay_ms, delay.min(DELAY_MAX)))
        },
    },
    Variable {
        name: c"BOOKEND_SECURE",
        values: "0|1",
        effect: "find double frees at once, hand freed objects out late, put a guard after what is longer than 1M",
        read: |config, value| match value {
            b"0" => set(&mut config.secure, false),
            b"1" => set(&mut config.secure, true),
            _ => false,
        },
    },
    Variable {
        name: c"BOOKEND_STATS",
        values: "1|json",
        effect: "print what the heap did to standard error when the program ends",
        read: |config, value| match value {
            b"0" => set(&mut config.report, Report::None),
            b"1" => set(&mut config.report, Report::Text),
            b"json" => set(&mut config.report, Report::Json),
            _ => false,
        },
    },
    Variable {
        name: RECORD,
        values: "FILE",
        effect: "append every allocation and free to this file, which fragbench replay reads (absolute path, for programs that change directories)",
        read: |config, value| recording::is_path(value) && set(&mut config.record, true),
    },
];

/// The variable that names a file to record into.
pub(super) const RECORD: &CStr = c"BOOKEND_RECORD";

fn set<T>(place: &mut T, value: T) -> bool {
    *place = value;
    true
}

impl Config {
    /// Changed by the variables that `get` finds. Calls `refuse` with each that has a value it cannot
    /// have, and leaves that one alone.
    pub(super) fn read<'a>(
        mut self,
        get: impl Fn(&CStr) -> Option<&'a CStr>,
        mut refuse: impl FnMut(&Variable, &CStr),
    ) -> Self {
        for variable in &VARIABLES {
            if let Some(value) = get(variable.name)
                && !(variable.read)(&mut self, value.to_bytes())
            {
                refuse(variable, value);
            }
        }
        if !self.hugetlb_for_us {
            self.hugetlb = Hugetlb::Never;
        }
        self
    }
}

/// A whole number.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, &digit| {
        let digit = digit.checked_sub(b'0').filter(|&digit| digit < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// A whole number of bytes, or of K, M, G or T (powers of 1,024).
fn size(text: &[u8]) -> Option<Bytes> {
    let (digits, shift) = match text.split_last()? {
        (b'K' | b'k', digits) => (digits, 10),
        (b'M' | b'm', digits) => (digits, 20),
        (b'G' | b'g', digits) => (digits, 30),
        (b'T' | b't', digits) => (digits, 40),
        _ => (text, 0),
    };
    number(digits)?.checked_mul(1 << shift).map(Bytes::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&CStr, &'static CStr)]) -> (Config, Vec<&'static CStr>) {
        let get = |name: &CStr| variables.iter().find(|v| v.0 == name).map(|v| v.1);
        let mut refused = Vec::new();
        let config = Config::DEFAULT.read(get, |variable, _| refused.push(variable.name));
        (config, refused)
    }

    #[test]
    fn variables_change_what_they_name() {
        let (config, refused) = read(&[
            (c"BOOKEND_HUGETLB", c"allow"),
            (c"BOOKEND_HUGETLB_LIMIT", c"3G"),
            (c"BOOKEND_SMALL", c"0"),
            (c"BOOKEND_RETURN_DELAY", c"20"),
            (c"BOOKEND_SECURE", c"1"),
            (c"BOOKEND_STATS", c"json"),
            (c"BOOKEND_RECORD", c"/tmp/recording"),
        ]);
        assert!(refused.is_empty() && config.record);
        assert_eq!(config.hugetlb, Hugetlb::Allow);
        assert_eq!(config.hugetlb_limit, Blocks::new(1536));
        assert_eq!(config.base_blocks, Blocks::ZERO);
        assert_eq!((config.delay_ms, config.secure, config.report), (20, true, Report::Json));
    }

    #[test]
    fn the_environment_goes_over_what_a_program_says() {
        let ours = Config::DEFAULT
            .hugetlb(Hugetlb::Allow)
            .hugetlb_limit(Bytes::new(1))
            .small(Bytes::gib(1 << 30))
            .return_delay_ms(u32::MAX)
            .secure(true)
            .report(Report::Json);
        assert_eq!((ours.hugetlb_limit, ours.base_blocks), (Blocks::ONE, Blocks::new(u32::MAX)));
        assert_eq!((ours.delay_ms, ours.secure, ours.report), (DELAY_MAX, true, Report::Json));
        let get = |name: &CStr| (name == c"BOOKEND_HUGETLB").then_some(c"never");
        let config = ours.read(get, |_, _| panic!("it may be never"));
        assert_eq!((config.hugetlb, config.secure), (Hugetlb::Never, true));
    }

    #[test]
    fn only_the_programs_named_take_hugetlb_pages() {
        let us = program_name().to_str().unwrap();
        assert!(!us.is_empty() && !us.contains('/'), "{us}");
        assert!(is_listed(b"redis-server", b"sort,redis*") && is_listed(b"sort", b"sort,redis*"));
        assert!(!is_listed(b"sorter", b"sort,redis*") && !is_listed(b"", b"sort"));
        let (config, _) = read(&[
            (c"BOOKEND_HUGETLB", c"require"),
            (c"BOOKEND_HUGETLB_PROGRAMS", c"somebody,else"),
        ]);
        assert_eq!(config.hugetlb, Hugetlb::Never);
        let (config, _) =
            read(&[(c"BOOKEND_HUGETLB", c"require"), (c"BOOKEND_HUGETLB_PROGRAMS", c"*")]);
        assert_eq!(config.hugetlb, Hugetlb::Require);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name_and_changes_nothing() {
        let (config, refused) = read(&[
            (c"BOOKEND_HUGETLB", c"yes"),
            (c"BOOKEND_HUGETLB_LIMIT", c"99999999999T"),
            (c"BOOKEND_RETURN_DELAY", c""),
            (c"BOOKEND_SECURE", c"on"),
            (c"BOOKEND_RECORD", c""),
        ]);
        assert_eq!(
            refused,
            [
                c"BOOKEND_HUGETLB",
                c"BOOKEND_HUGETLB_LIMIT",
                c"BOOKEND_RETURN_DELAY",
                c"BOOKEND_SECURE",
                c"BOOKEND_RECORD"
            ]
        );
        assert_eq!(config.hugetlb, Hugetlb::Never);
        assert_eq!(config.delay_ms, Config::DEFAULT.delay_ms);
    }
}
