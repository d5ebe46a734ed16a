//! Lists of checksums, in the format of `b3sum`: written with `--manifest`, checked with
//! `--check --manifest`, and by `b3sum --check` as well.
//!
//! A line is the BLAKE3 of a file in 64 hexadecimal digits, two spaces and the path. Where the path
//! has a backslash, a newline or a carriage return, these are escaped (`\\`, `\n`, `\r`) and the line
//! begins with a backslash. Paths that are not UTF-8 are written as they are, which hugecp reads
//! back and b3sum does not take.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use blake3::Hash;

use super::compare;
use super::engine::{CopyError, Progress};
use super::error::FileError;
use super::journal::Identity;
use super::plan::SMALL_BYTES;
use super::reread::Reread;
use super::whole::{Subtree, Whole, subtrees};

/// Bytes hashed at once.
const CHUNK: usize = 1 << 20;

/// Why a file has no checksum.
#[derive(Debug)]
pub enum HashError {
    /// It cannot be read.
    Read(io::Error),
    /// The user stopped it.
    Cancelled,
}

/// The checksum of the first `len` bytes of `file`. Big files are read past the page cache.
///
/// # Errors
/// [`HashError`]; `UnexpectedEof` where there are fewer.
pub fn hash(file: &File, len: u64, progress: &Progress) -> Result<Hash, HashError> {
    let mut hasher = blake3::Hasher::new();
    read(file, 0..len, progress, |_, bytes| {
        hasher.update(bytes);
    })?;
    Ok(hasher.finalize())
}

/// The checksum of all that reading `file` gives, and how many bytes that is: of one that does not tell its length.
///
/// # Errors
/// [`HashError`].
pub fn hash_to_end(file: &File, progress: &Progress) -> Result<(Hash, u64), HashError> {
    let mut hasher = blake3::Hasher::new();
    let mut memory = vec![0; CHUNK];
    loop {
        if progress.is_cancelled() {
            return Err(HashError::Cancelled);
        }
        let got = compare::read(file, &mut memory, hasher.count()).map_err(HashError::Read)?;
        hasher.update(&memory[..got]);
        if got < CHUNK {
            return Ok((hasher.finalize(), hasher.count()));
        }
    }
}

/// Gives the bytes of a range of `file` to `take`, and where they begin: in order, cut at multiples of 1 MiB.
fn read(
    file: &File,
    range: Range<u64>,
    progress: &Progress,
    mut take: impl FnMut(u64, &[u8]),
) -> Result<(), HashError> {
    let len = range.end - range.start;
    let mut direct = match len >= SMALL_BYTES {
        true => Some(Reread::open(file, range.end).map_err(HashError::Read)?),
        false => None,
    };
    let mut memory = vec![0; if direct.is_some() { 0 } else { CHUNK.min(len as usize + 1) }];
    let mut at = range.start;
    while at < range.end {
        if progress.is_cancelled() {
            return Err(HashError::Cancelled);
        }
        let wanted = (range.end - at).min(CHUNK as u64 - at % CHUNK as u64);
        let bytes = match &mut direct {
            Some(reread) => reread.read(at..at + wanted).map_err(HashError::Read)?,
            None => {
                let buffer = &mut memory[..wanted as usize];
                let got = compare::read(file, buffer, at).map_err(HashError::Read)?;
                &memory[..got]
            }
        };
        if bytes.len() as u64 != wanted {
            return Err(HashError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        take(at, bytes);
        at += wanted;
    }
    Ok(())
}

/// The checksum of a source that was copied in the state of `metadata`.
///
/// # Errors
/// What reading says, and [`FileError::Changed`] where it is in another state by now.
pub fn hash_source(
    file: &File,
    metadata: &Metadata,
    path: &Path,
    progress: &Progress,
) -> Result<Hash, FileError> {
    at_rest(file, metadata, path, || hash(file, metadata.len(), progress))
}

/// The checksum of a copy that is complete. Of a source that does not tell its length, or gives other bytes each time,
/// as files in /proc do, only this one is true.
///
/// # Errors
/// What reading says.
pub fn hash_copy(copy: &File, path: &Path, progress: &Progress) -> Result<Hash, FileError> {
    let sum = copy.metadata().map_err(HashError::Read).and_then(|found| match found.is_file() {
        true => hash(copy, found.len(), progress),
        false => Err(HashError::Read(io::Error::other("something else is there by now"))),
    });
    sum.map_err(|error| match error {
        HashError::Read(cause) => FileError::target(path, "read, for its checksum,", cause),
        HashError::Cancelled => cancelled(),
    })
}

/// As [`hash_source`], of a range that begins at a multiple of 1 MiB: what the checksum of all of it is put together
/// from ([`Whole`]).
///
/// # Errors
/// As there.
pub fn hash_part(
    file: &File,
    metadata: &Metadata,
    path: &Path,
    range: Range<u64>,
    progress: &Progress,
) -> Result<Vec<Subtree>, FileError> {
    at_rest(file, metadata, path, || {
        let len = metadata.len();
        let mut whole = Whole::new(len);
        read(file, range, progress, |at, bytes| whole.add(subtrees(len, at, bytes)))?;
        Ok(whole.into_subtrees())
    })
}

/// What `take` reads of a source, if that is in the state of `metadata` then.
fn at_rest<T>(
    file: &File,
    metadata: &Metadata,
    path: &Path,
    take: impl FnOnce() -> Result<T, HashError>,
) -> Result<T, FileError> {
    let failed = |error| match error {
        HashError::Read(cause) => {
            let operation = "read again, for its checksum,";
            FileError::Source { path: path.to_owned(), operation, cause }
        }
        HashError::Cancelled => cancelled(),
    };
    let taken = take().map_err(failed)?;
    let now = file.metadata().map_err(|cause| failed(HashError::Read(cause)))?;
    if Identity::of(&now) == Identity::of(metadata) {
        Ok(taken)
    } else {
        Err(FileError::Changed(path.to_owned()))
    }
}

fn cancelled() -> FileError {
    FileError::Copy { error: CopyError::Cancelled, advice: String::new() }
}

/// One line, with its newline.
pub fn line(path: &Path, hash: &Hash) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes();
    let mut line = Vec::with_capacity(bytes.len() + 70);
    let escaped = bytes.iter().any(|byte| matches!(byte, b'\\' | b'\n' | b'\r'));
    if escaped {
        line.push(b'\\');
    }
    line.extend(hash.to_hex().as_bytes());
    line.extend(b"  ");
    for &byte in bytes {
        match byte {
            b'\\' => line.extend(b"\\\\"),
            b'\n' => line.extend(b"\\n"),
            b'\r' => line.extend(b"\\r"),
            other => line.push(other),
        }
    }
    line.push(b'\n');
    line
}

/// What a line says; `None` where it is none of a manifest.
pub fn parse(line: &[u8]) -> Option<(Hash, PathBuf)> {
    let (escaped, line) = match line.strip_prefix(b"\\") {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let (digits, path) = line.split_at_checked(2 * blake3::OUT_LEN)?;
    let hash = Hash::from_hex(digits).ok()?;
    let path = path.strip_prefix(b"  ").filter(|path| !path.is_empty())?;
    let path = if escaped { unescape(path)? } else { path.to_vec() };
    if path.contains(&0) {
        return None;
    }
    Some((hash, PathBuf::from(std::ffi::OsString::from_vec(path))))
}

fn unescape(path: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(path.len());
    let mut bytes = path.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next()? {
                b'\\' => b'\\',
                b'n' => b'\n',
                b'r' => b'\r',
                _ => return None,
            },
            other => other,
        });
    }
    Some(plain)
}

/// Checksums of files, collected from any thread.
#[derive(Debug, Default)]
pub struct Manifest {
    entries: Mutex<Vec<(PathBuf, Hash)>>,
}

impl Manifest {
    /// Takes note of a file.
    pub fn add(&self, path: PathBuf, hash: Hash) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push((path, hash));
    }

    /// Takes note of all that is on another, if there is one.
    pub fn extend(&self, other: Option<Self>) {
        let others = other.map(|other| other.entries).unwrap_or_default();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.extend(others.into_inner().unwrap_or_else(PoisonError::into_inner));
    }

    /// What is on it as lines in no order, of `bytes` or a few more at once.
    pub fn pages(self, bytes: usize) -> Vec<Vec<u8>> {
        let entries = self.entries.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut pages: Vec<Vec<u8>> = Vec::new();
        for (path, hash) in entries {
            let line = line(&path, &hash);
            match pages.last_mut().filter(|page| page.len() < bytes) {
                Some(page) => page.extend(line),
                None => pages.push(line),
            }
        }
        pages
    }

    /// Takes note of what is on a page of another; says whether all of it could be read.
    pub fn add_page(&self, page: &[u8]) -> bool {
        page.split_inclusive(|&byte| byte == b'\n').all(|line| {
            let read = line.strip_suffix(b"\n").and_then(parse);
            read.map(|(hash, path)| self.add(path, hash)).is_some()
        })
    }

    /// Whether nothing is on it.
    pub fn is_empty(&self) -> bool {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Whether the path of any file on it is one that is `wanted`.
    pub fn has(&self, wanted: impl Fn(&Path) -> bool) -> bool {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().any(|(path, _)| wanted(path))
    }

    /// All lines in the order of the paths.
    pub fn into_text(self) -> Vec<u8> {
        let mut entries = self.entries.into_inner().unwrap_or_else(PoisonError::into_inner);
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        entries.dedup(); // what was listed, and lay in what was listed, was copied again
        entries.iter().flat_map(|(path, hash)| line(path, hash)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_path_is_read_back(mut path: Vec<u8>, contents: Vec<u8>) {
            path.retain(|&byte| byte != 0);
            path.push(b'x');
            let (path, hash) = (PathBuf::from(OsStr::from_bytes(&path)), blake3::hash(&contents));
            let line = line(&path, &hash);
            prop_assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
            prop_assert_eq!(parse(&line[..line.len() - 1]), Some((hash, path)));
        }

        #[test]
        fn any_line_is_read_without_harm(line: Vec<u8>) {
            let _ = parse(&line);
        }
    }

    #[test]
    fn a_list_in_pages_is_the_same_list() {
        let hash = blake3::hash(b"x");
        let list = || {
            let list = Manifest::default();
            (0..100).for_each(|n| list.add(PathBuf::from(format!("a/{n}\n\\{n}")), hash));
            list
        };
        let whole = Manifest::default();
        let pages = list().pages(1000);
        assert!(pages.len() > 5 && pages.iter().all(|page| page.len() < 1200));
        assert!(pages.iter().all(|page| whole.add_page(page)));
        let entries = |list: Manifest| list.entries.into_inner().unwrap();
        assert_eq!(entries(whole), entries(list()));
        assert!(!Manifest::default().add_page(b"no line of a list\n"));
        assert!(!Manifest::default().add_page(&line(Path::new("a"), &hash)[1..]));
    }

    #[test]
    fn parts_of_a_source_are_the_whole() {
        let file = tempfile::tempfile().unwrap();
        let len = (20 << 20) + 4321;
        let data: Vec<u8> = (0..len as usize).map(|at| (at / 7 + at / 65_536) as u8).collect();
        io::Write::write_all(&mut &file, &data).unwrap();
        let metadata = file.metadata().unwrap();
        for edges in [vec![0, 2 << 20, 2 << 20, 18 << 20, len], vec![0, 12 << 20, len]] {
            let mut whole = Whole::new(len);
            for edge in edges.windows(2).rev() {
                let (range, progress) = (edge[0]..edge[1], Progress::default());
                whole.add(hash_part(&file, &metadata, Path::new("x"), range, &progress).unwrap());
            }
            let hash = whole.finish(|range, _| Err(range)).unwrap();
            assert_eq!(hash, blake3::hash(&data), "{edges:?}");
        }
    }

    #[test]
    fn lines_are_those_of_b3sum() {
        let hash = blake3::hash(b"");
        let hex = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(line(Path::new("a b"), &hash), format!("{hex}  a b\n").as_bytes());
        assert_eq!(line(Path::new("a\n\\"), &hash), format!("\\{hex}  a\\n\\\\\n").as_bytes());
        for wrong in ["", hex, "xyz  a", &format!("{hex} a"), &format!("\\{hex}  a\\q")] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
