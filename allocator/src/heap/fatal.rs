//! The end of a program that has misused its heap: a line that names the address, then SIGABRT.
//!
//! Nothing is taken from the heap for it.
#![allow(unsafe_code)] // writes and aborts

/// What was done that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// Freeing what is free already.
    Twice,
    /// Freeing an address inside an object.
    Interior,
    /// Freeing what is no allocation of this heap.
    Foreign,
}

impl Fault {
    const fn text(self) -> &'static str {
        match self {
            Self::Twice => "double free of 0x",
            Self::Interior => "free of an address inside an object: 0x",
            Self::Foreign => "free of an address that is no allocation: 0x",
        }
    }
}

/// Says what was done to which address, and aborts.
#[cold]
#[inline(never)]
pub(super) fn die(fault: Fault, address: usize) -> ! {
    let mut line = Line::new();
    line.add("bookend: ");
    line.add(fault.text());
    line.add_hex(address);
    line.add("\n");
    line.write();
    // SAFETY: it does not return.
    unsafe { libc::abort() }
}

/// A line of text on the stack.
pub(super) struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Line {
    pub const fn new() -> Self {
        Self { bytes: [0; 256], len: 0 }
    }

    /// Appends as much of it as there is room for.
    pub fn add(&mut self, text: &str) {
        self.add_bytes(text.as_bytes());
    }

    pub fn add_bytes(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + len].copy_from_slice(&bytes[..len]);
        self.len += len;
    }

    fn add_hex(&mut self, number: usize) {
        let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
        for digit in (0..digits).rev() {
            self.add_bytes(&[b"0123456789abcdef"[number >> (4 * digit) & 15]]);
        }
    }

    /// To standard error, in one call.
    pub fn write(&self) {
        self.write_to(2);
    }

    /// To a descriptor.
    pub fn write_to(&self, descriptor: libc::c_int) {
        // SAFETY: the bytes are ours. Nothing can be done where the descriptor is closed.
        let _ = unsafe { libc::write(descriptor, self.bytes.as_ptr().cast(), self.len) };
    }
}

impl core::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.add(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_in_hexadecimal_and_long_lines_end() {
        let mut line = Line::new();
        line.add_hex(0);
        line.add(" ");
        line.add_hex(0x7f00_dead_beef);
        assert_eq!(&line.bytes[..line.len], b"0 7f00deadbeef");
        line.add(&"x".repeat(1000));
        assert_eq!(line.len, 256);
    }
}
