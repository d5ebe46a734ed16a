//! What messages are made of: numbers, texts, lists, names and paths; from bytes, and to them.

use std::ffi::{CStr, CString};

use crate::copy::sum::{SUMMER_BYTES, Summer};

/// Bytes of a path.
const PATH_MAX: usize = 64 << 10;
/// Bytes of a name in a directory.
const NAME_MAX: usize = 255;

/// Bytes that are no message, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// What is left of a message that is being read.
#[derive(Debug)]
pub(super) struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        if len > self.0.len() {
            return Err(Malformed("a message ends before its last field"));
        }
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        Ok(bytes)
    }
}

/// Something that messages are made of.
pub(super) trait Field: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed>;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Field for $number {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
                let mut bytes = [0; size_of::<$number>()];
                bytes.copy_from_slice(input.bytes(size_of::<$number>())?);
                Ok(Self::from_le_bytes(bytes))
            }
        }
    )*};
}
numbers!(u8, u16, u32, u64, i64);

impl Field for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        match input.bytes(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(Malformed("neither yes nor no")),
        }
    }
}

impl<const N: usize> Field for [u8; N] {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(input.bytes(N)?);
        Ok(bytes)
    }
}

impl Field for Summer {
    fn put(&self, out: &mut Vec<u8>) {
        self.to_bytes().put(out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Self::from_bytes(&<[u8; SUMMER_BYTES]>::take(input)?)
            .ok_or(Malformed("checksums of no known kind"))
    }
}

/// A length, as the message tells it. Sizes that this machine makes fit: messages are bounded.
fn put_len(len: usize, out: &mut Vec<u8>) {
    u32::try_from(len).unwrap_or(u32::MAX).put(out);
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_len(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn take_bytes<'a>(input: &mut Input<'a>) -> Result<&'a [u8], Malformed> {
    let len = u32::take(input)? as usize;
    input.bytes(len)
}

/// Bytes without a meaning of their own.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Blob(pub Vec<u8>);

impl Field for Blob {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(&self.0, out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(Self(take_bytes(input)?.to_vec()))
    }
}

impl Field for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let Blob(bytes) = Blob::take(input)?;
        String::from_utf8(bytes).map_err(|_| Malformed("a text that is not UTF-8"))
    }
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_len(self.len(), out);
        self.iter().for_each(|item| item.put(out));
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let len = u32::take(input)? as usize;
        let mut items = Vec::new(); // grows as items are read: no item is without bytes
        for _ in 0..len {
            items.push(T::take(input)?);
        }
        Ok(items)
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(inner) = self {
            inner.put(out);
        }
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(if bool::take(input)? { Some(T::take(input)?) } else { None })
    }
}

/// A name in a directory: it has no slash and leads neither up nor nowhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name(CString);

impl Name {
    /// `name`, if it is one.
    ///
    /// # Errors
    /// [`Malformed`] says why it is none.
    pub fn new(name: &[u8]) -> Result<Self, Malformed> {
        Self::check(name)?;
        let name = CString::new(name).map_err(|_| Malformed("a name with a zero byte"))?;
        Ok(Self(name))
    }

    fn check(name: &[u8]) -> Result<(), Malformed> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(Malformed("a name that is empty or longer than names are"));
        }
        if name.contains(&b'/') || name == b"." || name == b".." {
            return Err(Malformed("a name that leads out of its directory"));
        }
        if name.contains(&0) {
            return Err(Malformed("a name with a zero byte"));
        }
        Ok(())
    }

    /// As the system wants it.
    pub fn as_c_str(&self) -> &CStr {
        &self.0
    }
}

impl Field for Name {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.0.as_bytes(), out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Self::new(take_bytes(input)?)
    }
}

/// A path below a directory: names with a slash between them, none of which leads up. Empty for the directory itself.
/// The order is that of going through a tree: what is in a directory follows it, with nothing else between.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Relative(Vec<u8>);

impl Relative {
    /// `path`, if it is one.
    ///
    /// # Errors
    /// [`Malformed`] says why it is none.
    pub fn new(path: &[u8]) -> Result<Self, Malformed> {
        if path.len() > PATH_MAX {
            return Err(Malformed("a path longer than paths are"));
        }
        if !path.is_empty() {
            path.split(|&byte| byte == b'/').try_for_each(Name::check)?;
        }
        Ok(Self(path.to_vec()))
    }

    /// As it is written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The names, the outermost first.
    pub fn names(&self) -> Vec<Name> {
        let names = self.0.split(|&byte| byte == b'/');
        names.filter_map(|name| Name::new(name).ok()).collect() // all but that of nothing
    }

    /// What of it is below `above`, if it lies in that, or is that.
    pub fn below(&self, above: &Self) -> Option<&[u8]> {
        match self.0.strip_prefix(above.0.as_slice())? {
            rest if rest.is_empty() || above.0.is_empty() => Some(rest),
            rest => rest.strip_prefix(b"/"),
        }
    }
}

impl Ord for Relative {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let slash = |byte: &u8| *byte == b'/';
        self.0.split(slash).cmp(other.0.split(slash))
    }
}

impl PartialOrd for Relative {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Field for Relative {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(&self.0, out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Self::new(take_bytes(input)?)
    }
}

/// A path, or the text of a symbolic link: bytes without a zero.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PathText(pub Vec<u8>);

impl Field for PathText {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(&self.0, out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let bytes = take_bytes(input)?;
        if bytes.len() > PATH_MAX || bytes.contains(&0) {
            return Err(Malformed("a path with a zero byte, or longer than paths are"));
        }
        Ok(Self(bytes.to_vec()))
    }
}
