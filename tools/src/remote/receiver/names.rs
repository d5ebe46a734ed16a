//! The names of lists, told to a sender on the other machine as it asks for them.

use std::ffi::CStr;
use std::sync::{Condvar, Mutex};

use super::place::Way;
use super::{Receiver, Spot};
use crate::copy::tree::filter::Rules;
use crate::remote::lists::List;
use crate::remote::protocol::{Entry, Message, Naming, Relative};
use crate::remote::sender::NAMES_AHEAD;
use crate::remote::session::{Over, lock, wait};

/// Bytes of names in one message, but for a name that is longer: messages that were asked for fit into the buffers of a
/// connection, so that telling them waits for nobody.
const MESSAGE_BYTES: usize = 32 << 10;

/// What is told of, as far as rules and lists make a difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Coming {
    /// A directory on the way to what is listed.
    Passing,
    /// A directory.
    Directory,
    /// Anything else.
    Else,
}

/// Messages of names that the sender has asked for.
#[derive(Debug, Default)]
pub(super) struct Asked {
    messages: Mutex<usize>,
    bell: Condvar,
}

impl Receiver<'_, '_> {
    /// Refuses what this end has not asked for: what its rules leave out, and, where it has a list, what is not on it,
    /// nor in what is, nor on the way to it.
    pub(super) fn check_wanted(
        &self,
        spot: Option<&Spot>,
        entry: &Entry,
        coming: Coming,
    ) -> Result<(), Over> {
        let rules = &self.task.wishes.rules;
        let Some(spot) = spot.filter(|_| !(self.lists.is_empty() && rules.is_empty())) else {
            return Ok(()); // everything that is there is wanted
        };
        let way = Way::further(spot.place.way.as_ref(), &spot.name);
        if let Some(list) = self.lists.get(spot.place.operand.0 as usize) {
            let names = way.names().into_iter().filter(|name| *name != c".").map(CStr::to_bytes);
            let path = names.collect::<Vec<_>>().join(&b'/');
            let asked = Asking { names: &list.names, recursive: self.task.wishes.recursive, rules };
            return match asked.asks(&path, coming) {
                true => Ok(()),
                false => Err(self.breach("it sends what is not on the list")),
            };
        }
        let left_out = self.task.naming == Naming::Operands
            && entry.name.is_some()
            && rules.excludes(&way.below_operand(), coming != Coming::Else);
        if left_out { Err(self.breach("it sends what was to be left out")) } else { Ok(()) }
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

/// What is asked for by a list.
#[derive(Clone, Copy)]
struct Asking<'l> {
    /// In order.
    names: &'l [Relative],
    recursive: bool,
    rules: &'l Rules,
}

impl Asking<'_> {
    /// Whether `path` is one of the names, or in one of them if that is copied with all in it, and no rule leaves it out
    /// there; or on the way to one, if it is a directory.
    fn asks(self, path: &[u8], coming: Coming) -> bool {
        let Self { names, recursive, rules } = self;
        let has =
            |path: &[u8]| Relative::new(path).is_ok_and(|path| names.binary_search(&path).is_ok());
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let everything = has(b"").then_some((0, 0));
        let above = ends.filter(|&end| has(&path[..end])).map(|end| (end, end + 1));
        let mut within = everything.into_iter().chain(above).map(|(_, start)| &path[start..]);
        let is_in_one =
            |below: &[u8]| rules.is_empty() || !rules.excludes(below, coming != Coming::Else);
        let is_on_the_way = || {
            Relative::new(path).is_ok_and(|path| {
                let next = names.partition_point(|name| *name <= path);
                names.get(next).is_some_and(|name| name.below(&path).is_some())
            })
        };
        if has(path) || (recursive && within.clone().any(is_in_one)) {
            return true;
        }
        match coming {
            Coming::Passing => is_on_the_way(),
            // What leads to a name and was left out before.
            Coming::Directory => recursive && within.next().is_some() && is_on_the_way(),
            Coming::Else => false,
        }
    }
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
    use crate::copy::tree::filter::{Rule, Verdict};

    #[test]
    fn what_is_on_a_list_is_asked_for() {
        let names =
            ["a/b", "a/b/c", "d", "e/f/g"].map(|name| Relative::new(name.as_bytes()).unwrap());
        let rules = Rules::default();
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
            let asked = |recursive, coming| {
                Asking { names: &names, recursive, rules: &rules }.asks(path.as_bytes(), coming)
            };
            assert_eq!(asked(false, Coming::Else), itself, "{path}");
            assert_eq!(asked(true, Coming::Else), within, "{path}");
            assert_eq!(asked(true, Coming::Directory), within, "{path}");
            assert_eq!(asked(true, Coming::Passing), on_the_way, "{path}");
        }
        let everything = [Relative::new(b"").unwrap()];
        let asking = Asking { names: &everything, recursive: true, rules: &rules };
        assert!(asking.asks(b"any/thing", Coming::Else));
    }

    #[test]
    fn what_is_left_out_of_a_listed_directory_is_not_asked_for() {
        let names = ["a", "a/x/y", "b.o"].map(|name| Relative::new(name.as_bytes()).unwrap());
        let exclude = |pattern: &str| Rule::new(Verdict::Exclude, pattern.as_ref()).unwrap();
        let rules = Rules::new(vec![exclude("*.o"), exclude("x/")]);
        let asking = Asking { names: &names, recursive: true, rules: &rules };
        for (path, coming, asked) in [
            ("a/f", Coming::Else, true),
            ("a/f.o", Coming::Else, false),
            ("b.o", Coming::Else, true),
            ("a/x", Coming::Else, true),
            ("a/x", Coming::Directory, true),
            ("a/z/x", Coming::Directory, false),
            ("a/x/y/f", Coming::Else, true),
            ("a/x/y/f.o", Coming::Else, false),
        ] {
            assert_eq!(asking.asks(path.as_bytes(), coming), asked, "{path} {coming:?}");
        }
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
