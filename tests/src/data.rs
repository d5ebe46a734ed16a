//! Files to copy, and looking at copies.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const CHUNK: usize = 4 << 20;

/// Writes a new file of `len` random bytes, the same for the same `seed`.
///
/// # Errors
/// Creating or writing it.
pub fn random_file(path: &Path, len: u64, seed: u64) -> io::Result<()> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut chunk = vec![0; CHUNK];
    let mut file = File::create(path)?;
    let mut left = len;
    while left > 0 {
        let now = left.min(CHUNK as u64) as usize;
        rng.fill_bytes(&mut chunk[..now]);
        file.write_all(&chunk[..now])?;
        left -= now as u64;
    }
    Ok(())
}

/// Writes a new file of `len` bytes that has random data in `data` and holes elsewhere.
///
/// # Errors
/// Creating or writing it.
pub fn sparse_file(path: &Path, len: u64, data: &[Range<u64>], seed: u64) -> io::Result<()> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let file = File::create(path)?;
    file.set_len(len)?;
    let mut chunk = vec![0; CHUNK];
    for range in data {
        let mut at = range.start;
        while at < range.end {
            let now = (range.end - at).min(CHUNK as u64) as usize;
            rng.fill_bytes(&mut chunk[..now]);
            file.write_all_at(&chunk[..now], at)?;
            at += now as u64;
        }
    }
    Ok(())
}

/// Where two files first differ, or where the shorter one ends.
///
/// # Errors
/// Opening or reading them.
pub fn first_difference(left: &Path, right: &Path) -> io::Result<Option<u64>> {
    let (mut a, mut b) = (File::open(left)?, File::open(right)?);
    let (mut one, mut other) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    loop {
        let (n, m) = (fill(&mut a, &mut one)?, fill(&mut b, &mut other)?);
        if one[..n] != other[..m] {
            let same = one[..n].iter().zip(&other[..m]).take_while(|(x, y)| x == y).count();
            return Ok(Some(at + same as u64));
        }
        if n == 0 {
            return Ok(None);
        }
        at += n as u64;
    }
}

/// Fails the test unless both files hold the same bytes.
///
/// # Panics
/// When they differ, naming the first offset, or cannot be read.
#[track_caller]
pub fn assert_same(left: &Path, right: &Path) {
    match first_difference(left, right) {
        Ok(None) => {}
        Ok(Some(offset)) => {
            panic!("{} and {} differ at byte {offset}", left.display(), right.display())
        }
        Err(error) => {
            panic!("cannot compare {} with {}: {error}", left.display(), right.display())
        }
    }
}

/// Bytes that the file system has given the file.
///
/// # Panics
/// When there is no such file.
#[track_caller]
pub fn allocated(path: &Path) -> u64 {
    let metadata = path.metadata();
    metadata.unwrap_or_else(|error| panic!("{}: {error}", path.display())).blocks() * 512
}

/// Bytes of the file in the page cache, by `fincore`; `None` where there is no such program.
pub fn cached(path: &Path) -> Option<u64> {
    let output = Command::new("fincore").args(["-b", "-n", "-o", "RES"]).arg(path).output().ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}

/// Writes the file back and drops it from the page cache, as its owner may.
///
/// # Errors
/// Opening or writing it back.
pub fn drop_from_cache(path: &Path) -> io::Result<()> {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    let file = OpenOptions::new().read(true).open(path)?;
    file.sync_all()?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(())
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match file.read(&mut buffer[have..])? {
            0 => break,
            n => have += n,
        }
    }
    Ok(have)
}
