//! Does what the input says with the heap of the process: every four bytes are an action. What has
//! been handed out carries stamps at both ends, which are looked at before it is freed or resized,
//! and the heap's own books are checked at the end of every input.
#![no_main]

use bookend::heap::raw;
use libfuzzer_sys::fuzz_target;

/// An allocation, and what stands in it.
struct Live {
    at: usize,
    size: usize,
    stamp: u8,
}

#[derive(Clone, Copy)]
enum Action {
    Allocate,
    Aligned,
    Zeroed,
    Resize,
    Free,
    FreeElsewhere,
    AllocateElsewhere,
    Trim,
    Thin,
}

const ACTIONS: [Action; 9] = [
    Action::Allocate,
    Action::Aligned,
    Action::Zeroed,
    Action::Resize,
    Action::Free,
    Action::FreeElsewhere,
    Action::AllocateElsewhere,
    Action::Trim,
    Action::Thin,
];

/// As much as a few slabs.
const MANY_BYTES: usize = 256 << 10;

/// From a byte to a few megabytes, with the places where the kind of allocation changes.
fn size_of(shift: u8, offset: u8) -> usize {
    let base = 1usize << (shift % 23);
    match offset {
        0..=63 => base,
        64..=127 => base + 1,
        128..=191 => base - 1,
        _ => base + base / 2 + usize::from(offset),
    }
}

impl Live {
    fn new(at: *mut u8, size: usize, stamp: u8) -> Option<Self> {
        if at.is_null() {
            return None;
        }
        // SAFETY: `at` was handed out just now.
        assert!(unsafe { raw::usable_size(at) } >= size);
        let live = Self { at: at as usize, size, stamp };
        for place in live.places() {
            // SAFETY: the place is inside the allocation, which is ours alone.
            unsafe { at.add(place).write(stamp ^ place as u8) };
        }
        Some(live)
    }

    fn places(&self) -> impl Iterator<Item = usize> + use<> {
        let size = self.size;
        (0..size.min(8)).chain(size.saturating_sub(8)..size)
    }

    fn check(&self, up_to: usize) {
        for place in self.places().filter(|&place| place < up_to) {
            // SAFETY: as above; it has not been freed.
            let found = unsafe { (self.at as *const u8).add(place).read() };
            assert_eq!(found, self.stamp ^ place as u8, "{} bytes", self.size);
        }
    }

    fn free(self) {
        self.check(self.size);
        // SAFETY: it was handed out, has not been freed, and is given up here.
        unsafe { raw::free(self.at as *mut u8) };
    }
}

fuzz_target!(|input: &[u8]| {
    let mut live: Vec<Live> = Vec::new();
    for (step, bytes) in input.chunks_exact(4).take(300).enumerate() {
        let (size, stamp) = (size_of(bytes[1], bytes[2]), step as u8);
        let at = usize::from(bytes[3]) % live.len().max(1);
        let action = ACTIONS[usize::from(bytes[0]) % ACTIONS.len()];
        match action {
            Action::Allocate => live.extend(Live::new(raw::allocate(size), size, stamp)),
            Action::Aligned => {
                let align = 1usize << (bytes[3] % 23);
                let new = raw::allocate_aligned(size, align);
                assert_eq!(new as usize % align, 0);
                live.extend(Live::new(new, size, stamp));
            }
            Action::Zeroed => {
                let new = raw::allocate_zeroed(size);
                let step = (size / 4096).max(1);
                // SAFETY: the places are inside the allocation.
                let zero = |place| unsafe { new.add(place).read() } == 0;
                assert!(!new.is_null() && (0..size).step_by(step).all(zero));
                live.extend(Live::new(new, size, stamp));
            }
            Action::Resize if !live.is_empty() => {
                let old = live.swap_remove(at);
                old.check(old.size);
                // SAFETY: it was handed out and has not been freed; the old address is forgotten.
                let new = unsafe { raw::reallocate(old.at as *mut u8, size) };
                assert!(!new.is_null());
                let kept = Live { at: new as usize, ..old };
                kept.check(size.min(kept.size));
                live.extend(Live::new(new, size, stamp));
            }
            Action::Free if !live.is_empty() => live.swap_remove(at).free(),
            Action::FreeElsewhere if !live.is_empty() => {
                let some: Vec<Live> = live.drain(at..).collect();
                std::thread::spawn(move || some.into_iter().for_each(Live::free)).join().unwrap();
            }
            Action::AllocateElsewhere => {
                let new = std::thread::spawn(move || {
                    let made: Vec<_> = (0..usize::from(bytes_count(stamp)))
                        .filter_map(|_| Live::new(raw::allocate(size), size, stamp))
                        .collect();
                    made
                });
                live.extend(new.join().unwrap());
            }
            Action::Trim => drop(raw::trim()),
            Action::Thin => {
                // Slabs with few objects here and there, whose neighbours are joined.
                let size = size % 4_096 + 1;
                let many = (0..MANY_BYTES / size.max(64))
                    .filter_map(|_| Live::new(raw::allocate(size), size, stamp));
                let keep = usize::from(bytes[3] % 16) + 2;
                let (kept, gone): (Vec<_>, Vec<_>) = many
                    .collect::<Vec<_>>()
                    .into_iter()
                    .enumerate()
                    .partition(|(n, _)| n % keep == 0);
                gone.into_iter().for_each(|(_, object)| object.free());
                live.extend(kept.into_iter().map(|(_, object)| object));
            }
            _ => {}
        }
        // A few hundred megabytes at most.
        while live.iter().map(|live| live.size).sum::<usize>() > 300 << 20 {
            live.swap_remove(0).free();
        }
    }
    live.into_iter().for_each(Live::free);
    raw::validate().unwrap();
});

/// How many objects another thread makes.
fn bytes_count(stamp: u8) -> u8 {
    stamp % 7 + 1
}
