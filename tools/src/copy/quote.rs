//! File names in messages, quoted as a shell would read them back, so that a name with spaces,
//! quotes or control characters can be copied from a message and cannot disturb the terminal.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

/// `name` between single quotes; `"it's"` where it has such a quote, `$'a\nb'` where it has bytes
/// that do not print.
pub fn quote(name: impl AsRef<OsStr>) -> String {
    let name = name.as_ref();
    match name.to_str() {
        Some(text) if !text.chars().any(char::is_control) => {
            if !text.contains('\'') {
                format!("'{text}'")
            } else if !text.contains(['"', '$', '`', '\\', '!']) {
                format!("\"{text}\"")
            } else {
                format!("'{}'", text.replace('\'', r"'\''"))
            }
        }
        _ => escaped(name.as_bytes()),
    }
}

/// With escapes, valid UTF-8 left as it is.
fn escaped(bytes: &[u8]) -> String {
    let mut out = String::from("$'");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                '\'' | '\\' => out.extend(['\\', c]),
                c if c.is_control() => {
                    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                        let _ = write!(out, "\\{byte:03o}"); // to a String: cannot fail
                    }
                }
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\{byte:03o}");
        }
    }
    out.push('\'');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for (name, shown) in [
            (&b"plain"[..], "'plain'"),
            (b"two words", "'two words'"),
            (b"it's", "\"it's\""),
            (b"it's $5", r"'it'\''s $5'"),
            (b"a\nb", r"$'a\nb'"),
            (b"\x1b[2Jx", r"$'\033[2Jx'"),
            ("é\u{85}".as_bytes(), r"$'é\302\205'"),
            (b"\xff'", r"$'\377\''"),
        ] {
            assert_eq!(quote(OsStr::from_bytes(name)), shown);
        }
    }
}
