//! The names of lists, told to a sender on the other machine as it asks for them.

use std::sync::{Condvar, Mutex};

use super::Receiver;
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
