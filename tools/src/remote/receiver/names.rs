//! The names of lists, told to a sender on the other machine as it asks for them.

use std::ffi::CStr;
use std::sync::{Condvar, Mutex};

use super::place::Way;
use super::{Receiver, Spot};
use crate::remote::lists::List;
use crate::remote::protocol::{Message, Relative};
use crate::remote::sender::NAMES_AHEAD;
use crate::remote::session::{Over, lock, wait};

/// Bytes of names in one message, but for a name that is longer: messages that were asked for fit into the buffers of a
/// connection, so that telling them waits for nobody.
const MESSAGE_BYTES: usize = 32 << 10;

/// Messages of names that the sender has asked for.
#[derive(Debug, Default)]
pub(super) struct Asked {
    messages: Mutex<usize>,
    bell: Condvar,
}

impl Receiver<'_, '_> {
    /// Refuses what is not on this end's list, nor in what is, nor on the way to it: whoever has a list has asked for
    /// nothing else.
    pub(super) fn check_asked(&self, spot: Option<&Spot>, passing: bool) -> Result<(), Over> {
        let Some(spot) = spot else { return Ok(()) };
        let Some(list) = self.lists.get(spot.place.operand.0 as usize) else { return Ok(()) };
        let way = Way::further(spot.place.way.as_ref(), &spot.name);
        let names = way.names().into_iter().filter(|name| *name != c".").map(CStr::to_bytes);
        let path = names.collect::<Vec<_>>().join(&b'/');
        match is_asked(&list.names, &path, self.task.wishes.recursive, passing) {
            true => Ok(()),
            false => Err(self.breach("it sends what is not on the list")),
        }
    }

    /// The sender has room for names.
    pub(super) fn hear_more(&self) -> Result<(), Over> {
        let mut asked = lock(&self.asked.messages);
        if self.lists.is_empty() || *asked >= NAMES_AHEAD {
            drop(asked);
            return Err(self.breach("it asks for names that nobody has"));
        }
        *asked += 1;
        drop(asked);
        self.asked.bell.notify_all();
        Ok(())
    }

    /// Tells all names as they are asked for. Nobody else waits for that.
    pub(super) fn tell_names(&self) -> Result<(), Over> {
        for List { names, .. } in self.lists {
            let mut rest = names.as_slice();
            loop {
                let (names, after) = rest.split_at(in_one_message(rest));
                let last = after.is_empty();
                let asked = lock(&self.asked.messages);
                let mut asked = wait(self.session, &self.asked.bell, asked, |asked| *asked > 0)?;
                *asked -= 1;
                drop(asked);
                let names = names.to_vec();
                self.session.send_now(&Message::Names { names, last })?;
                rest = after;
                if last {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Whether `path` is one of `names`, which are in order, or in one of them if that is copied with all in it; or on the
/// way to one, if it is only passed.
fn is_asked(names: &[Relative], path: &[u8], recursive: bool, passing: bool) -> bool {
    let has =
        |path: &[u8]| Relative::new(path).is_ok_and(|path| names.binary_search(&path).is_ok());
    let mut above = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let is_on_the_way = || {
        Relative::new(path).is_ok_and(|path| {
            let next = names.partition_point(|name| *name <= path);
            names.get(next).is_some_and(|name| name.below(&path).is_some())
        })
    };
    has(path)
        || (recursive && (has(b"") || above.any(|end| has(&path[..end]))))
        || (passing && is_on_the_way())
}

/// How many of the first names go into one message.
fn in_one_message(names: &[Relative]) -> usize {
    let mut bytes = 0;
    let fits = |name: &&Relative| {
        bytes += name.as_bytes().len() + size_of::<u32>();
        bytes <= MESSAGE_BYTES
    };
    let fit = names.iter().take_while(fits).count();
    fit.max(1).min(names.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_a_list_is_asked_for() {
        let names =
            ["a/b", "a/b/c", "d", "e/f/g"].map(|name| Relative::new(name.as_bytes()).unwrap());
        for (path, itself, within, on_the_way) in [
            ("a/b", true, true, true),
            ("d", true, true, true),
            ("d/x", false, true, true),
            ("d/x/y", false, true, true),
            ("a/b/c/x", false, true, true),
            ("a", false, false, true),
            ("e", false, false, true),
            ("e/f", false, false, true),
            ("e/f/h", false, false, false),
            ("a/bc", false, false, false),
            (".bashrc", false, false, false),
            ("", false, false, true),
        ] {
            let asked = |recursive, passing| is_asked(&names, path.as_bytes(), recursive, passing);
            assert_eq!(asked(false, false), itself, "{path}");
            assert_eq!(asked(true, false), within, "{path}");
            assert_eq!(asked(true, true), on_the_way, "{path}");
        }
        assert!(is_asked(&[Relative::new(b"").unwrap()], b"any/thing", true, false));
    }

    #[test]
    fn messages_are_bounded_and_get_on() {
        let name = |len: usize| {
            let parts = vec!["n".repeat(200); len / 200 + 1].join("/");
            Relative::new(parts.as_bytes()).unwrap()
        };
        assert_eq!(in_one_message(&[]), 0);
        assert_eq!(in_one_message(&[name(60_000), name(1)]), 1);
        let many = vec![name(1); 10_000];
        let fit = in_one_message(&many);
        let mut bytes = Vec::new();
        Message::Names { names: many[..fit].to_vec(), last: false }.encode(&mut bytes);
        assert!(
            fit > 100 && bytes.len() <= MESSAGE_BYTES + 16,
            "{fit} names, {} bytes",
            bytes.len()
        );
    }
}
