//! Who may use which slot: counting, without any device.

use super::{RingError, Shape};
use crate::verbs::RemoteMemory;

/// What a sender may write, and where: keys that were given and not used yet.
///
/// `sent ≤ granted ≤ sent + slots`: the n-th key is for the n-th use, of slot n modulo their number.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Credits {
    slots: Vec<RemoteMemory>,
    sent: u64,
    granted: u64,
}

impl Credits {
    /// With the peer's slots, each with its first key, of which there may be as many as this end has.
    ///
    /// # Errors
    /// [`RingError::Breach`]: none, or more than `most`.
    pub fn new(slots: Vec<RemoteMemory>, most: u32) -> Result<Self, RingError> {
        if slots.is_empty() || slots.len() > most.min(Shape::SLOTS_MAX) as usize {
            return Err(RingError::Breach("has no slots, or more than were agreed on"));
        }
        let granted = slots.len() as u64;
        Ok(Self { slots, sent: 0, granted })
    }

    /// The number of the next use, and its slot; `None` where a key must come first.
    pub fn next(&self) -> Option<(u64, usize)> {
        (self.sent < self.granted).then(|| (self.sent, self.slot(self.sent)))
    }

    /// Uses the next key: the number of the use, its slot, and where to write.
    pub fn take(&mut self) -> Option<(u64, usize, RemoteMemory)> {
        let (number, slot) = self.next()?;
        self.sent += 1;
        Some((number, slot, self.slots[slot]))
    }

    /// The peer has given the next key.
    ///
    /// # Errors
    /// [`RingError::Breach`]: every slot has one already.
    pub fn grant(&mut self, key: u32) -> Result<(), RingError> {
        if self.granted - self.sent >= self.slots.len() as u64 {
            return Err(RingError::Breach("gives a key for a slot that has one"));
        }
        let slot = self.slot(self.granted);
        self.slots[slot].key = key;
        self.granted += 1;
        Ok(())
    }

    /// How often a slot was written.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    fn slot(&self, number: u64) -> usize {
        (number % self.slots.len() as u64) as usize
    }

    /// Asserts what always holds.
    pub fn validate(&self) {
        assert!(self.sent <= self.granted && self.granted - self.sent <= self.slots.len() as u64);
    }
}

/// Whose turn it is at the end that receives: slots arrive in order, and are given back in order.
///
/// `returned ≤ arrived ≤ returned + slots`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turns {
    slots: u64,
    arrived: u64,
    returned: u64,
}

impl Turns {
    /// Of so many slots; at least one.
    pub fn new(slots: u32) -> Self {
        Self { slots: u64::from(slots.max(1)), arrived: 0, returned: 0 }
    }

    /// The peer says that it has written for the time that `mark` counts; gives the slot.
    ///
    /// # Errors
    /// [`RingError::Breach`]: that is not what comes next, or no key was given for it.
    pub fn arrive(&mut self, mark: u32) -> Result<usize, RingError> {
        if mark != self.arrived as u32 {
            return Err(RingError::Breach("does not write to its slots in order"));
        }
        if self.arrived - self.returned >= self.slots {
            return Err(RingError::Breach("writes to a slot that it has no key for"));
        }
        let slot = self.arrived % self.slots;
        self.arrived += 1;
        Ok(slot as usize)
    }

    /// The slot that is to be given back next, if one has arrived.
    pub fn give_back(&mut self) -> Option<usize> {
        let slot = self.returned % self.slots;
        let held = self.returned < self.arrived;
        self.returned += u64::from(held);
        held.then_some(slot as usize)
    }

    /// Asserts what always holds.
    pub fn validate(&self) {
        assert!(self.returned <= self.arrived && self.arrived - self.returned <= self.slots);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slots(count: u32) -> Vec<RemoteMemory> {
        (0..count).map(|slot| RemoteMemory { address: u64::from(slot) << 20, key: slot }).collect()
    }

    fn is_breach<T>(result: Result<T, RingError>) -> bool {
        matches!(result, Err(RingError::Breach(_)))
    }

    #[test]
    fn keys_are_used_once_and_in_order() {
        let mut credits = Credits::new(slots(2), 8).unwrap();
        assert!(is_breach(credits.grant(9)), "every slot has a key");
        assert_eq!(credits.take(), Some((0, 0, RemoteMemory { address: 0, key: 0 })));
        assert_eq!(credits.take(), Some((1, 1, RemoteMemory { address: 1 << 20, key: 1 })));
        assert_eq!((credits.take(), credits.next()), (None, None));
        credits.grant(77).unwrap();
        assert_eq!(credits.next(), Some((2, 0)));
        assert_eq!(credits.take(), Some((2, 0, RemoteMemory { address: 0, key: 77 })));
        assert_eq!(credits.take(), None);
        assert_eq!(credits.sent(), 3);
    }

    #[test]
    fn a_peer_has_as_many_slots_as_may_be() {
        assert!(is_breach(Credits::new(slots(0), 8)));
        assert!(is_breach(Credits::new(slots(9), 8)));
        assert!(is_breach(Credits::new(slots(Shape::SLOTS_MAX + 1), u32::MAX)));
        assert!(Credits::new(slots(8), 8).is_ok());
        assert_eq!(Credits::default().next(), None, "before the peer has told its slots");
    }

    #[test]
    fn what_arrives_out_of_turn_is_refused() {
        let mut turns = Turns::new(2);
        assert!(is_breach(turns.arrive(1)));
        assert_eq!(turns.give_back(), None);
        assert_eq!(turns.arrive(0).unwrap(), 0);
        assert!(is_breach(turns.arrive(0)), "twice");
        assert_eq!(turns.arrive(1).unwrap(), 1);
        assert!(is_breach(turns.arrive(2)), "without a key");
        assert_eq!(turns.give_back(), Some(0));
        assert_eq!(turns.arrive(2).unwrap(), 0);
        assert_eq!(
            (turns.give_back(), turns.give_back(), turns.give_back()),
            (Some(1), Some(0), None)
        );
    }

    proptest! {
        /// Two ends that do as they should never stall, and never meet in a slot.
        #[test]
        fn the_ends_agree(count in 1u32..6, steps in proptest::collection::vec(0u8..3, 0..200)) {
            let mut credits = Credits::new(slots(count), 8).unwrap();
            let mut turns = Turns::new(count);
            let (mut wire, mut keys, mut used) = (Vec::new(), count, Vec::new());
            for step in steps {
                match step {
                    0 => if let Some((number, slot, to)) = credits.take() {
                        prop_assert!(!used.contains(&to.key), "a key is used once");
                        used.push(to.key);
                        wire.push((number as u32, slot));
                    },
                    1 => if !wire.is_empty() {
                        let (mark, slot) = wire.remove(0);
                        prop_assert_eq!(turns.arrive(mark).unwrap(), slot);
                    },
                    _ => if turns.give_back().is_some() {
                        credits.grant(keys).unwrap();
                        keys += 1;
                    },
                }
                credits.validate();
                turns.validate();
            }
        }
    }
}
