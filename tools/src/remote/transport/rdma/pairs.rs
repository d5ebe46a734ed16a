//! Which device of the sender and which of the receiver a lane's queue pairs are made with.
//!
//! Both ends keep this table and tell it the same, so that they come to the same choice without a word about it: a
//! lane takes the pair whose devices have had the fewest lanes and failures, which goes through them in turn. Among
//! equals one that has worked comes first, and then one whose addresses have the longest beginning in common, since
//! what is in the same network begins alike.
//!
//! **Bounded**: after [`FAILURES_MAX`] pairs that did not work no further one is tried, and lanes take those that did.

use std::net::Ipv6Addr;

/// Pairs that are found not to work before no others are tried: each takes seconds.
pub const FAILURES_MAX: u32 = 3;

/// A device of each end, by its place in what that end has told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pair {
    /// Of the end that sends.
    pub sender: usize,
    /// Of the end that receives.
    pub receiver: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Untried,
    Works,
    Out,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Pairs {
    /// State and common bits of each pair: those of the first sender, those of the second, and so on.
    table: Vec<(State, u32)>,
    /// Lanes and failures of each of the sender's devices.
    senders: Vec<u32>,
    /// And of the receiver's.
    receivers: Vec<u32>,
    failures: u32,
}

/// Bits that both addresses begin with; `None` where one of them is of IPv4 and the other is not: no packet goes
/// from the one to the other.
fn common(one: [u8; 16], other: [u8; 16]) -> Option<u32> {
    let is_ipv4 = |bytes| Ipv6Addr::from(bytes).to_ipv4_mapped().is_some();
    let differ = u128::from_be_bytes(one) ^ u128::from_be_bytes(other);
    (is_ipv4(one) == is_ipv4(other)).then_some(differ.leading_zeros())
}

impl Pairs {
    /// Of devices with these addresses.
    pub fn new(senders: &[[u8; 16]], receivers: &[[u8; 16]]) -> Self {
        let pair = |&one, &other| match common(one, other) {
            Some(bits) => (State::Untried, bits),
            None => (State::Out, 0),
        };
        let of_sender = |one| receivers.iter().map(move |other| pair(one, other));
        Self {
            table: senders.iter().flat_map(of_sender).collect(),
            senders: vec![0; senders.len()],
            receivers: vec![0; receivers.len()],
            failures: 0,
        }
    }

    /// The pair that the next lane is to have; `None` where there is none left.
    pub fn next(&self) -> Option<Pair> {
        let may_be = |pair: &Pair| match self.table[self.at(*pair)].0 {
            State::Works => true,
            State::Untried => self.failures < FAILURES_MAX,
            State::Out => false,
        };
        let order = |pair: &Pair| {
            let (state, bits) = self.table[self.at(*pair)];
            let load = self.senders[pair.sender] + self.receivers[pair.receiver];
            (load, state != State::Works, u128::BITS - bits)
        };
        self.all().filter(may_be).min_by_key(order)
    }

    /// Whether there is another one, should `pair` not work.
    pub fn has_other(&self, pair: Pair) -> bool {
        let mut without = self.clone();
        without.failed(pair);
        without.next().is_some()
    }

    /// A lane goes by `pair`.
    pub fn worked(&mut self, pair: Pair) {
        let at = self.at(pair);
        self.table[at].0 = State::Works;
        self.count(pair);
    }

    /// Nothing comes through by `pair`.
    pub fn failed(&mut self, pair: Pair) {
        let at = self.at(pair);
        self.table[at].0 = State::Out;
        self.failures += 1;
        self.count(pair);
    }

    /// A device of the sender's can be used no more.
    pub fn without_sender(&mut self, sender: usize) {
        self.take_out(|pair| pair.sender == sender);
    }

    /// One of the receiver's.
    pub fn without_receiver(&mut self, receiver: usize) {
        self.take_out(|pair| pair.receiver == receiver);
    }

    fn take_out(&mut self, which: impl Fn(Pair) -> bool) {
        for pair in self.all().filter(|&pair| which(pair)).collect::<Vec<_>>() {
            let at = self.at(pair);
            self.table[at].0 = State::Out;
        }
    }

    fn count(&mut self, pair: Pair) {
        self.senders[pair.sender] += 1;
        self.receivers[pair.receiver] += 1;
    }

    fn at(&self, pair: Pair) -> usize {
        pair.sender * self.receivers.len() + pair.receiver
    }

    fn all(&self) -> impl Iterator<Item = Pair> + use<> {
        let (senders, receivers) = (self.senders.len(), self.receivers.len());
        (0..senders)
            .flat_map(move |sender| (0..receivers).map(move |receiver| Pair { sender, receiver }))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn ipv4(last: [u8; 4]) -> [u8; 16] {
        Ipv4Addr::from(last).to_ipv6_mapped().octets()
    }

    /// Devices in one network.
    fn alike(count: u8) -> Vec<[u8; 16]> {
        (0..count).map(|_| ipv4([10, 0, 0, 1])).collect()
    }

    /// The pairs that so many lanes get, where those that `works` says work, and how many were tried in vain.
    fn lanes(
        pairs: &mut Pairs,
        count: usize,
        works: impl Fn(usize, usize) -> bool,
    ) -> (Vec<(usize, usize)>, u32) {
        let (mut given, mut vain) = (Vec::new(), 0);
        while given.len() < count
            && let Some(pair) = pairs.next()
        {
            let Pair { sender, receiver } = pair;
            if works(sender, receiver) {
                pairs.worked(pair);
                given.push((sender, receiver));
            } else {
                pairs.failed(pair);
                vain += 1;
            }
        }
        (given, vain)
    }

    #[test]
    fn lanes_go_through_the_devices_in_turn() {
        for (senders, receivers, expected) in [
            (1, 1, vec![(0, 0), (0, 0), (0, 0)]),
            (2, 2, vec![(0, 0), (1, 1), (0, 0), (1, 1)]),
            (2, 1, vec![(0, 0), (1, 0), (0, 0), (1, 0)]),
            (1, 3, vec![(0, 0), (0, 1), (0, 2), (0, 0)]),
            (3, 2, vec![(0, 0), (1, 1), (2, 0), (0, 1), (1, 0), (2, 1)]),
        ] {
            let mut pairs = Pairs::new(&alike(senders), &alike(receivers));
            let (given, vain) = lanes(&mut pairs, expected.len(), |_, _| true);
            if (senders, receivers) == (3, 2) {
                // Which of them meet does not matter: each has its share.
                let of = |device: usize| given.iter().filter(|pair| pair.0 == device).count();
                assert_eq!([of(0), of(1), of(2)], [2, 2, 2]);
                assert_eq!(given.iter().filter(|pair| pair.1 == 0).count(), 3);
            } else {
                assert_eq!(given, expected, "{senders} and {receivers}");
            }
            assert_eq!(vain, 0);
        }
    }

    #[test]
    fn what_is_in_the_same_network_meets() {
        let (a, b) = (|last| ipv4([10, 1, 0, last]), |last| ipv4([10, 2, 0, last]));
        let mut pairs = Pairs::new(&[a(1), b(1)], &[b(2), a(2)]);
        let works = |sender, receiver| sender != receiver;
        assert_eq!(lanes(&mut pairs, 3, works), (vec![(0, 1), (1, 0), (0, 1)], 0));
        // InfiniBand's and Ethernet's never do, and are not tried.
        let infiniband = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9];
        let mut pairs = Pairs::new(&[infiniband, a(1)], &[a(2)]);
        assert_eq!(lanes(&mut pairs, 2, |sender, _| sender == 1), (vec![(1, 0), (1, 0)], 0));
        assert_eq!(Pairs::new(&[infiniband], &[a(2)]).next(), None);
    }

    #[test]
    fn what_does_not_work_is_passed_over() {
        // One of the sender's reaches nobody.
        let mut pairs = Pairs::new(&alike(2), &alike(2));
        let (given, vain) = lanes(&mut pairs, 4, |sender, _| sender == 1);
        assert!(given.iter().all(|&(sender, _)| sender == 1) && given.len() == 4, "{given:?}");
        assert_eq!(vain, 2, "each of the other's once");
        for receiver in 0..2 {
            assert!(given.contains(&(1, receiver)), "both of the receiver's: {given:?}");
        }
        // What has worked comes before what may not.
        let mut pairs = Pairs::new(&alike(2), &alike(2));
        let (given, vain) = lanes(&mut pairs, 2, |sender, _| sender == 1);
        assert_eq!((given, vain), (vec![(1, 1), (1, 1)], 1));
        // Two fabrics, told in another order at the other end.
        let mut pairs = Pairs::new(&alike(2), &alike(2));
        let (given, vain) = lanes(&mut pairs, 4, |sender, receiver| sender != receiver);
        assert_eq!((given, vain), (vec![(0, 1), (1, 0), (0, 1), (1, 0)], 2));
    }

    #[test]
    fn trials_are_bounded() {
        let mut pairs = Pairs::new(&alike(8), &alike(8));
        let (given, vain) = lanes(&mut pairs, 8, |_, _| false);
        assert_eq!((given.len(), vain), (0, FAILURES_MAX));
        // Those that work go on being used.
        let mut pairs = Pairs::new(&alike(8), &alike(8));
        let (given, vain) = lanes(&mut pairs, 64, |sender, receiver| (sender, receiver) == (0, 0));
        assert_eq!((given.len(), vain), (64, FAILURES_MAX));
        let first = Pair { sender: 0, receiver: 0 };
        assert!(pairs.next() == Some(first) && !pairs.has_other(first));
        assert!(Pairs::new(&alike(1), &alike(2)).has_other(first));
        assert!(!Pairs::new(&alike(1), &alike(1)).has_other(first));
    }

    #[test]
    fn devices_that_give_no_ring_are_out() {
        let mut pairs = Pairs::new(&alike(2), &alike(2));
        pairs.without_sender(0);
        pairs.without_receiver(1);
        assert_eq!(lanes(&mut pairs, 2, |_, _| true), (vec![(1, 0), (1, 0)], 0));
        pairs.without_receiver(0);
        assert_eq!(pairs.next(), None);
    }
}
