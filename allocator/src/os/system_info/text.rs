//! Small texts without the heap: paths, values, and the files they are read from.

use core::fmt::{self, Write};
use std::ffi::CStr;

use super::InfoError;
use crate::os::{Array, Errno, Os};

/// A text of up to `N` − 1 bytes; what does not fit is cut off.
#[derive(Clone, Copy)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
    cut: bool,
}

/// A path of `/proc` or `/sys`.
pub type PathText = Text<512>;
/// A value that was read.
pub type ValueText = Text<64>;

impl<const N: usize> Text<N> {
    pub(super) fn new(text: impl fmt::Display) -> Self {
        const { assert!(N > 0, "the last byte stays zero") };
        let mut new = Self { bytes: [0; N], len: 0, cut: false };
        // Never fails: what does not fit is cut off.
        let _ = write!(new, "{text}");
        new
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).expect("it is cut between characters")
    }

    /// The text for a system call; `None` where it was cut off or has a zero byte.
    fn as_path(&self) -> Option<&CStr> {
        if self.cut { None } else { CStr::from_bytes_with_nul(&self.bytes[..=self.len]).ok() }
    }
}

impl<const N: usize> Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = if self.cut { 0 } else { N - 1 - self.len };
        let fits = text.floor_char_boundary(room);
        self.cut |= fits < text.len();
        self.bytes[self.len..self.len + fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.len += fits;
        Ok(())
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        if self.cut { f.write_str("…") } else { Ok(()) }
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl<const N: usize> PartialEq for Text<N> {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl<const N: usize> Eq for Text<N> {}

/// Up to `N` elements.
#[derive(Clone, Copy)]
pub struct List<T, const N: usize> {
    items: [T; N],
    len: usize,
}

impl<T: Copy + Default, const N: usize> List<T, N> {
    pub(super) fn new() -> Self {
        Self { items: [T::default(); N], len: 0 }
    }

    /// Adds an element of `what`.
    pub(super) fn push(&mut self, what: &'static str, item: T) -> Result<(), InfoError> {
        let place = self.items.get_mut(self.len).ok_or(InfoError::TooMany { what, most: N })?;
        *place = item;
        self.len += 1;
        Ok(())
    }
}

impl<T, const N: usize> core::ops::Deref for List<T, N> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.items[..self.len]
    }
}

impl<T, const N: usize> core::ops::DerefMut for List<T, N> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items[..self.len]
    }
}

impl<T: fmt::Debug, const N: usize> fmt::Debug for List<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// Reads whole files into one buffer, in a mapping of its own.
pub(super) struct Reader<'os, O: Os> {
    pub(super) os: &'os O,
    buffer: Array<u8, O>,
}

/// A file that was read: its content, and where it was found for whoever complains about it.
pub(super) struct Content<'a> {
    pub(super) path: PathText,
    pub(super) text: &'a str,
}

impl<'os, O: Os> Reader<'os, O> {
    /// Enough for all but the longest mountinfo; only what is used of it takes memory.
    const LEN: usize = 256 << 10;
    const LEN_MAX: usize = 64 << 20;

    pub(super) fn new(os: &'os O) -> Result<Self, InfoError> {
        let buffer =
            Array::new(os.clone(), Self::LEN).map_err(|cause| InfoError::Buffer { cause })?;
        Ok(Self { os, buffer })
    }

    /// A file's content; `None` where there is no such file.
    pub(super) fn find(
        &mut self,
        path: impl fmt::Display,
    ) -> Result<Option<Content<'_>>, InfoError> {
        let path = PathText::new(path);
        let failed = |cause| InfoError::Read { path, cause };
        let name = path.as_path().ok_or(failed(Errno::new(libc::ENAMETOOLONG)))?;
        let len = loop {
            match self.os.read_file(name, &mut self.buffer) {
                Err(Errno::NOENT) => return Ok(None),
                Ok(len) if len == self.buffer.len() && len < Self::LEN_MAX => {
                    self.buffer = Array::new(self.os.clone(), len * 4)
                        .map_err(|cause| InfoError::Buffer { cause })?;
                }
                result => break result.map_err(failed)?,
            }
        };
        // Paths of mounts need not be UTF-8; all that is looked for here is ASCII. A file that is
        // not is read up to the first foreign byte.
        let bytes = &self.buffer[..len];
        let text = core::str::from_utf8(bytes).unwrap_or_else(|error| {
            core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        });
        Ok(Some(Content { path, text }))
    }

    /// A file's content; an error where there is no such file.
    pub(super) fn read(&mut self, path: impl fmt::Display) -> Result<Content<'_>, InfoError> {
        let path = PathText::new(path);
        self.find(path)?.ok_or(InfoError::Read { path, cause: Errno::NOENT })
    }

    /// A file that holds one number; `None` where there is no such file.
    pub(super) fn number(&mut self, path: impl fmt::Display) -> Result<Option<u64>, InfoError> {
        match self.find(path)? {
            Some(content) => content.number().map(Some),
            None => Ok(None),
        }
    }
}

impl Content<'_> {
    /// The complaint that `value` is not what was expected.
    pub(super) fn unexpected(&self, value: &str, expected: &'static str) -> InfoError {
        InfoError::Parse { path: self.path, value: Text::new(value), expected }
    }

    /// The whole content as one number.
    pub(super) fn number(&self) -> Result<u64, InfoError> {
        let value = self.text.trim();
        value.parse().map_err(|_| self.unexpected(value, "a number"))
    }

    /// What follows `key` on the line that begins with it.
    pub(super) fn field(&self, key: &'static str) -> Result<&str, InfoError> {
        let line = self.text.lines().find_map(|line| line.trim_start().strip_prefix(key));
        line.map(str::trim).ok_or(InfoError::Missing { path: self.path, key })
    }

    /// The choice in brackets, as in `always [madvise] never`.
    pub(super) fn chosen(&self) -> Result<&str, InfoError> {
        let inside = self.text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        inside
            .map(|(choice, _)| choice)
            .ok_or_else(|| self.unexpected(self.text.trim(), "a choice in brackets"))
    }
}
