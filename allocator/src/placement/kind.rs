//! The classes of blocks, and runs of them.

use core::fmt;

use crate::units::BlockRange;

/// What stands in an extent, which decides where it goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// Never moves, and is small against the table: goes to the low end, lowest address first.
    Pinned,
    /// Can be moved when its owner agrees: stands between the others, growing up from the pinned
    /// end.
    Movable,
    /// Never moves, and is large: goes to the high end, highest address first.
    Huge,
}

impl Class {
    /// All of them, from the low end to the high one.
    pub const ALL: [Self; 3] = [Self::Pinned, Self::Movable, Self::Huge];
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pinned => "pinned",
            Self::Movable => "movable",
            Self::Huge => "huge",
        })
    }
}

/// What a run is; the number is its lane in the table's bitmaps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Free,
    Pinned,
    Movable,
    Huge,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Free, Self::Pinned, Self::Movable, Self::Huge];

    pub const fn class(self) -> Option<Class> {
        match self {
            Self::Free => None,
            Self::Pinned => Some(Class::Pinned),
            Self::Movable => Some(Class::Movable),
            Self::Huge => Some(Class::Huge),
        }
    }
}

const _: () = assert!(Kind::Free as usize == 0 && Kind::Huge as usize == Kind::ALL.len() - 1);

impl From<Class> for Kind {
    fn from(class: Class) -> Self {
        match class {
            Class::Pinned => Self::Pinned,
            Class::Movable => Self::Movable,
            Class::Huge => Self::Huge,
        }
    }
}

/// Blocks of one kind that follow one another: one extent, or a maximal free run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub kind: Kind,
    pub range: BlockRange,
}

impl Run {
    pub const fn start(self) -> u32 {
        self.range.start().get()
    }

    pub const fn end(self) -> u32 {
        self.range.end().get()
    }

    pub const fn len(self) -> u32 {
        self.range.len().get()
    }
}
