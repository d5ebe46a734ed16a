//! Which objects of a round are claimed, copied and published together.

use super::round::Item;
use crate::movable::owner::NOBODY;
use crate::movable::word::Offset;

/// Objects and bytes that are claimed together: a microsecond or two of copying.
const GROUP: usize = 64;
const GROUP_BYTES: u64 = 16 << 10;
const _: () = assert!(GROUP <= u64::BITS as usize);

/// A batch in groups that are carried together: objects without an owner, few and short enough that who
/// wants one of them does not wait for long. Any other is alone.
pub(super) fn groups(batch: &mut [Item]) -> impl Iterator<Item = &mut [Item]> {
    let mut bytes = 0;
    let mut objects = 0;
    batch.chunk_by_mut(move |one, next| {
        if objects == 0 {
            bytes = one.len;
        }
        objects += 1;
        bytes += next.len;
        let alone = |item: &Item| item.owner != NOBODY || item.held;
        let together = objects < GROUP && bytes <= GROUP_BYTES && !alone(one) && !alone(next);
        if !together {
            objects = 0;
        }
        together
    })
}

/// The objects of a group that are `claimed`, a bit each, for `copy`: those as one that are neighbours in both places.
pub(super) fn stretches(group: &[Item], claimed: u64, mut copy: impl FnMut(Offset, Offset, u64)) {
    let mut left = claimed;
    while left != 0 {
        let mut n = left.trailing_zeros() as usize;
        let Item { from, to, mut len, .. } = group[n];
        left &= left - 1;
        while let Some(next) = group.get(n + 1)
            && left >> (n + 1) & 1 == 1
            && group[n].is_followed_by(next)
        {
            n += 1;
            len += next.len;
            left &= left - 1;
        }
        copy(from, to, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(owner: u16, held: bool, from: u64, to: u64, len: u64) -> Item {
        let (from, to) = (Offset::of_bytes(from), Offset::of_bytes(to));
        Item { index: 0, owner, held, fate: Ok(()), from, to, len }
    }

    fn lengths(batch: &mut [Item]) -> Vec<usize> {
        groups(batch).map(|group| group.len()).collect()
    }

    #[test]
    fn neighbours_in_both_places_are_copied_together() {
        let item = |from, to, len| item(NOBODY, false, from, to, len);
        let all = [
            item(0, 1024, 64),
            item(64, 1088, 64),
            item(128, 1152, 32),
            item(160, 2048, 32), // not there
            item(256, 2080, 32), // not here
            item(288, 2112, 16),
        ];
        let copied = |claimed| {
            let mut copied = Vec::new();
            stretches(&all, claimed, |from, to, len| copied.push((from.bytes(), to.bytes(), len)));
            copied
        };
        assert_eq!(copied(0b11_1111), [(0, 1024, 160), (160, 2048, 32), (256, 2080, 48)]);
        assert_eq!(
            copied(0b10_1101),
            [(0, 1024, 64), (128, 1152, 32), (160, 2048, 32), (288, 2112, 16)]
        );
        assert_eq!(copied(0), []);
        let many: Vec<_> = (0..64).map(|n| item(n * 16, (100 + n) * 16, 16)).collect();
        let mut count = 0;
        stretches(&many, u64::MAX, |from, to, len| {
            assert_eq!((from.bytes(), to.bytes(), len), (0, 1600, 1024));
            count += 1;
        });
        assert_eq!(count, 1);
    }

    #[test]
    fn groups_are_few_and_short_and_what_has_an_owner_is_alone() {
        let small = || item(NOBODY, false, 0, 0, 64);
        let mut many: Vec<_> = (0..150).map(|_| small()).collect();
        assert_eq!(lengths(&mut many), [64, 64, 22]);
        let mut long: Vec<_> = [5000, 9000, 3000, 20_000, 8000, 8000, 8000]
            .map(|len| item(NOBODY, false, 0, 0, len))
            .into();
        assert_eq!(lengths(&mut long), [2, 1, 1, 2, 1]);
        let mut owned =
            [small(), item(1, false, 0, 0, 64), small(), small(), item(NOBODY, true, 0, 0, 64)];
        assert_eq!(lengths(&mut owned), [1, 1, 2, 1]);
        assert!(lengths(&mut []).is_empty());
    }
}
