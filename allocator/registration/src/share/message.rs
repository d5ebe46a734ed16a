//! What a server tells a worker: text, a fact a line, beside the descriptors that it refers to by number.
//!
//! ```text
//! bookend-share 1
//! segment START BLOCKS RUNG OFFSET FILE       lowest first; in blocks, bytes; FILE is a descriptor's number
//! device NAME FILE DOMAIN                     where it is registered with a device
//! region START LEN HANDLE LKEY RKEY ADDRESS   bytes of the pool; ADDRESS is the server's, for peers' requests
//! ```

use std::fmt::Write;

use bookend::pool::{Rung, Segment};
use bookend::units::{BlockId, BlockRange, Blocks, Bytes};

const FIRST: &str = "bookend-share 1";
/// Longer ones are refused: a pool has few segments, and regions are large.
pub(super) const BYTES_MAX: usize = 60 * 1024;

/// A part of the pool that is registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SharedRegion {
    pub start: Bytes,
    pub len: Bytes,
    pub handle: u32,
    pub lkey: u32,
    pub rkey: u32,
    pub address: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct SharedDevice {
    pub name: String,
    pub file: usize,
    pub domain: u32,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Message {
    /// With the number of the descriptor of the file it lies in.
    pub segments: Vec<(Segment, usize)>,
    pub device: Option<SharedDevice>,
    pub regions: Vec<SharedRegion>,
}

impl Message {
    pub fn to_text(&self) -> String {
        let mut text = FIRST.to_owned() + "\n";
        for (segment, file) in &self.segments {
            let Segment { range, rung, offset } = segment;
            let (start, len, offset) = (range.start().get(), range.len().get(), offset.get());
            let _ = writeln!(text, "segment {start} {len} {} {offset} {file}", *rung as u8);
        }
        if let Some(SharedDevice { name, file, domain }) = &self.device {
            let _ = writeln!(text, "device {name} {file} {domain}");
        }
        for region in &self.regions {
            let SharedRegion { start, len, handle, lkey, rkey, address } = region;
            let (start, len) = (start.get(), len.get());
            let _ = writeln!(text, "region {start} {len} {handle} {lkey} {rkey} {address}");
        }
        text
    }

    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str, files: usize) -> Result<Self, String> {
        let mut lines = text.lines();
        match lines.next() {
            Some(FIRST) => {}
            other => return Err(format!("it begins with {other:?} instead of {FIRST:?}")),
        }
        let mut message = Self::default();
        for line in lines {
            message.add(line, files).ok_or_else(|| format!("the line {line:?} is malformed"))?;
        }
        if message.segments.is_empty() {
            return Err("it has no memory".to_owned());
        }
        Ok(message)
    }

    fn add(&mut self, line: &str, files: usize) -> Option<()> {
        let mut words = line.split(' ');
        let kind = words.next()?;
        let name = if kind == "device" { words.next()?.to_owned() } else { String::new() };
        let numbers: Option<Vec<u64>> = words.map(|word| word.parse().ok()).collect();
        let file = |number: u64| usize::try_from(number).ok().filter(|&file| file < files);
        let small = |number: u64| u32::try_from(number).ok();
        match (kind, numbers?.as_slice()) {
            ("segment", &[start, len, rung, offset, number]) => {
                let end = start.checked_add(len)?;
                let (start, len) = (small(start)?, small(len)?);
                small(end)?;
                let rung = *Rung::ALL.get(rung as usize)?;
                let range = BlockRange::new(BlockId::new(start), Blocks::new(len));
                let segment = Segment { range, rung, offset: Bytes::new(offset) };
                self.segments.push((segment, file(number)?));
            }
            ("device", &[number, domain]) if self.device.is_none() => {
                let (file, domain) = (file(number)?, small(domain)?);
                self.device = Some(SharedDevice { name, file, domain });
            }
            ("region", &[start, len, handle, lkey, rkey, address]) => {
                start.checked_add(len)?;
                let (start, len) = (Bytes::new(start), Bytes::new(len));
                let (handle, lkey, rkey) = (small(handle)?, small(lkey)?, small(rkey)?);
                self.regions.push(SharedRegion { start, len, handle, lkey, rkey, address });
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_their_text_and_bad_ones_are_named() {
        let range = BlockRange::new(BlockId::new(0), Blocks::new(8));
        let segment = Segment { range, rung: Rung::Huge, offset: Bytes::mib(4) };
        let (start, len) = (Bytes::mib(2), Bytes::mib(4));
        let region = SharedRegion { start, len, handle: 3, lkey: 4, rkey: 5, address: 1 << 47 };
        let device = SharedDevice { name: "rxe0".to_owned(), file: 1, domain: 9 };
        let message =
            Message { segments: vec![(segment, 0)], device: Some(device), regions: vec![region] };
        assert_eq!(Message::parse(&message.to_text(), 2), Ok(message.clone()));
        assert!(Message::parse(&message.to_text(), 1).unwrap_err().contains("device rxe0 1 9"));
        for bad in [
            "",
            "bookend-share 2\nsegment 0 1 0 0 0",
            "bookend-share 1",
            "bookend-share 1\nsegment 0 1 7 0 0",
            "bookend-share 1\nsegment 4294967295 4294967295 0 0 0",
            "bookend-share 1\nsegment 0 -1 0 0 0",
            "bookend-share 1\nsegment 0 1 0 0 0\nwhat 1",
            "bookend-share 1\nsegment 0 1 0 0 0\nregion 18446744073709551615 2 1 1 1 1",
        ] {
            Message::parse(bad, 1).unwrap_err();
        }
    }
}
