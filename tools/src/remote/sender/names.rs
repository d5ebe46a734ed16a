//! Names below an operand: those that this end has, or those that the other end tells as they are asked for. Of these,
//! no more messages are on their way or wait than [`AHEAD`]: however long a list is, little memory has it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};

use super::{Operand, Sender};
use crate::remote::protocol::{Message, Relative};
use crate::remote::session::{Over, lock, wait};

/// Messages asked for before those before them are used up.
pub const AHEAD: usize = 2;

/// Names that have come.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Messages asked for that have not come.
    asked: usize,
    /// Those that have, and whether they end a list.
    messages: VecDeque<(Vec<Relative>, bool)>,
}

/// The names below one operand.
pub(super) enum Names<'o> {
    /// This end has them.
    Here(std::slice::Iter<'o, Relative>),
    /// The other one has.
    There {
        /// What is left of the last message.
        left: std::vec::IntoIter<Relative>,
        /// Whether it ends the list.
        last: bool,
        /// The name before.
        before: Option<Relative>,
    },
}

impl<'o> Names<'o> {
    /// Those below `operand`.
    pub fn of(operand: &'o Operand) -> Self {
        match &operand.names {
            Some(names) => Self::Here(names.iter()),
            None => Self::There { left: Vec::new().into_iter(), last: false, before: None },
        }
    }

    /// The next one.
    pub fn next(&mut self, sender: &Sender<'_, '_>) -> Result<Option<Relative>, Over> {
        let (left, last, before) = match self {
            Self::Here(names) => return Ok(names.next().cloned()),
            Self::There { left, last, before } => (left, last, before),
        };
        loop {
            if let Some(name) = left.next() {
                if before.as_ref().is_some_and(|before| *before >= name) {
                    return Err(sender.breach("the names that it lists are in no order"));
                }
                *before = Some(name.clone());
                return Ok(Some(name));
            }
            if *last {
                return Ok(None);
            }
            let (names, ends) = sender.more_names()?;
            (*left, *last) = (names.into_iter(), ends);
        }
    }
}

impl Sender<'_, '_> {
    /// The next message of names.
    fn more_names(&self) -> Result<(Vec<Relative>, bool), Over> {
        let inbox = &self.inbox;
        let wanted = {
            let mut state = lock(&inbox.state);
            let wanted = AHEAD.saturating_sub(state.asked + state.messages.len());
            state.asked += wanted;
            wanted
        };
        for _ in 0..wanted {
            self.session.send_now(&Message::More {})?;
        }
        let mut state = wait(self.session, &inbox.bell, lock(&inbox.state), |state| {
            !state.messages.is_empty()
        })?;
        state.messages.pop_front().ok_or(Over)
    }

    /// Names have come.
    pub(super) fn hear_names(&self, names: Vec<Relative>, last: bool) -> Result<(), Over> {
        let mut state = lock(&self.inbox.state);
        if state.asked == 0 {
            drop(state);
            return Err(self.breach("it lists names that it was not asked for"));
        }
        state.asked -= 1;
        state.messages.push_back((names, last));
        drop(state);
        self.inbox.bell.notify_all();
        Ok(())
    }
}
