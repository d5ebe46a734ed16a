//! Which objects of a round are claimed, copied and published together.

use super::round::{Item, Ready};
use crate::movable::owner::NOBODY;

/// Objects and bytes that are claimed together: a microsecond or two of copying.
const GROUP: usize = 64;
const GROUP_BYTES: u64 = 16 << 10;
const _: () = assert!(GROUP <= u64::BITS as usize);

/// A batch in groups that are carried together: objects without an owner, few and short enough that who
/// wants one of them does not wait for long. Any other is alone.
pub(super) fn groups(batch: &mut [Ready]) -> impl Iterator<Item = &mut [Ready]> {
    let mut bytes = 0;
    let mut objects = 0;
    batch.chunk_by_mut(move |one, next| {
        if objects == 0 {
            bytes = one.item.len;
        }
        objects += 1;
        bytes += next.item.len;
        let alone = |ready: &Ready| ready.item.owner != NOBODY || ready.item.held;
        let together = objects < GROUP && bytes <= GROUP_BYTES && !alone(one) && !alone(next);
        if !together {
            objects = 0;
        }
        together
    })
}

/// Puts objects together that are neighbours in both places, as one to copy, for `copy`.
pub(super) fn stretches(objects: impl Iterator<Item = Item>, mut copy: impl FnMut(Item)) {
    let mut stretch: Option<Item> = None;
    for item in objects {
        match &mut stretch {
            Some(all) if all.is_followed_by(&item) => all.len += item.len,
            other => {
                if let Some(all) = other.replace(item) {
                    copy(all);
                }
            }
        }
    }
    stretch.map(copy);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::movable::word::Offset;

    fn ready(owner: u16, len: u64, held: bool) -> Ready {
        let at = Offset::of_bytes(0);
        let item = Item { index: 0, owner, from: at, to: at, len, held };
        Ready { item, owner: None, fate: Ok(()) }
    }

    fn lengths(batch: &mut [Ready]) -> Vec<usize> {
        groups(batch).map(|group| group.len()).collect()
    }

    #[test]
    fn neighbours_in_both_places_are_copied_together() {
        let item = |from: u64, to: u64, len| {
            let (from, to) = (Offset::of_bytes(from), Offset::of_bytes(to));
            Item { index: 0, owner: NOBODY, from, to, len, held: false }
        };
        let all = [
            item(0, 1024, 64),
            item(64, 1088, 64),
            item(128, 1152, 32),
            item(160, 2048, 32), // not there
            item(256, 2080, 32), // not here
            item(288, 2112, 16),
        ];
        let mut copied = Vec::new();
        stretches(all.into_iter(), |item| {
            copied.push((item.from.bytes(), item.to.bytes(), item.len));
        });
        assert_eq!(copied, [(0, 1024, 160), (160, 2048, 32), (256, 2080, 48)]);
        stretches(std::iter::empty(), |item| panic!("{item:?} is copied"));
    }

    #[test]
    fn groups_are_few_and_short_and_what_has_an_owner_is_alone() {
        let small = || ready(NOBODY, 64, false);
        let mut many: Vec<_> = (0..150).map(|_| small()).collect();
        assert_eq!(lengths(&mut many), [64, 64, 22]);
        let mut long: Vec<_> = [5000, 9000, 3000, 20_000, 8000, 8000, 8000]
            .map(|len| ready(NOBODY, len, false))
            .into();
        assert_eq!(lengths(&mut long), [2, 1, 1, 2, 1]);
        let mut owned = [small(), ready(1, 64, false), small(), small(), ready(NOBODY, 64, true)];
        assert_eq!(lengths(&mut owned), [1, 1, 2, 1]);
        assert!(lengths(&mut []).is_empty());
    }
}
