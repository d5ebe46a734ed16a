//! The rungs of the ladder, and what each gave.

use std::fmt;

use serde::Serialize;

/// A way to get huge pages; later ones cost more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Write the pool's size, read it back, and write again while that helps.
    Ask,
    /// Have the kernel move pages together.
    Compact,
    /// Have it give up as much memory as is missing, the coldest first.
    Reclaim,
    /// Write back and shrink slab, round by round.
    Slab,
    /// Drop all caches: only where it is allowed.
    Drop,
    /// Take gigantic pages and split them.
    Contiguous,
    /// Take memory blocks offline, which empties them, and online again.
    Offline,
}

impl Rung {
    /// All, lowest first.
    pub const ALL: [Self; 7] = [
        Self::Ask,
        Self::Compact,
        Self::Reclaim,
        Self::Slab,
        Self::Drop,
        Self::Contiguous,
        Self::Offline,
    ];

    /// As in reports and options.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ask => "ask",
            Self::Compact => "compact",
            Self::Reclaim => "reclaim",
            Self::Slab => "slab",
            Self::Drop => "drop",
            Self::Contiguous => "contiguous",
            Self::Offline => "offline",
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a rung gave and what it cost.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct RungReport {
    /// Which.
    pub rung: Rung,
    /// Pages the pool has won.
    pub gained: u64,
    /// How long it took.
    pub seconds: f64,
    /// Pages of files in memory before.
    pub cache_bytes_before: u64,
    /// The same afterwards.
    pub cache_bytes_after: u64,
    /// Base pages moved.
    pub pages_migrated: u64,
    /// Why it did less than it might have, or nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
