//! How large a terminal is.
#![allow(unsafe_code)] // one system call by libc

use std::os::fd::{AsFd, AsRawFd};

/// Columns and rows where nobody tells.
pub const USUAL: (usize, usize) = (80, 24);

/// Columns and rows of the terminal that is open as `fd`; `None` where it is none, or does not know.
pub fn size(fd: &impl AsFd) -> Option<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is borrowed from something open, and the call writes one `winsize`.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    let known = done == 0 && size.ws_col > 0 && size.ws_row > 0;
    known.then(|| (size.ws_col.into(), size.ws_row.into()))
}

/// The first `columns` characters of each of the first `rows` lines of `text`, without an end of the last.
pub fn cut(text: &str, (columns, rows): (usize, usize)) -> String {
    let lines = text.lines().take(rows).map(|line| line.chars().take(columns).collect::<String>());
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_terminal_has_no_size() {
        assert_eq!(size(&tempfile::tempfile().unwrap()), None);
    }

    #[test]
    fn text_is_cut_on_both_sides() {
        assert_eq!(cut("abc\n\nd\ne\n", (2, 3)), "ab\n\nd");
        assert_eq!(cut("▁▅█", (2, 3)), "▁▅");
    }
}
