//! What programs in Rust ask of an allocator.
//!
//! - `rust-vec-growth`: vectors pushed to without a capacity: parsers, collectors.
//! - `rust-hashmap-churn`: a map of owned strings, entries coming and going: sessions, caches.
//! - `rust-string-sort`: reading lines, sorting them, joining them: text tools.
//! - `rust-box-trees`: trees of boxes built and dropped: syntax trees, the benchmarks game's trees.
//! - `rust-channel`: threads that send vectors to another, which drops them: pipelines.
//!
//! Each computes something that is checked, so that corrupted memory ends the program.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::process::ExitCode;
use std::sync::mpsc::sync_channel;

use bookend_global_benches::{Options, Rng, main_of};

/// A map whose order, and so whose work, is the same in every run.
type Map<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

fn main() -> ExitCode {
    main_of(&[
        ("rust-vec-growth", vec_growth),
        ("rust-hashmap-churn", hashmap_churn),
        ("rust-string-sort", string_sort),
        ("rust-box-trees", box_trees),
        ("rust-channel", channel),
    ])
}

fn vec_growth(options: &Options) -> u64 {
    let rounds = options.scaled(120.0, 1);
    let mut rng = Rng::new(1);
    let mut pushed = 0;
    for _ in 0..rounds {
        let mut vectors: Vec<Vec<u64>> = (0..2000).map(|_| Vec::new()).collect();
        for i in 0..2_000_000_u64 {
            // A few vectors become long, most stay short.
            let at = rng.below(2000) as usize;
            let at = at * at / 2000;
            vectors[at].push(i);
        }
        assert!(vectors.iter().all(|vector| vector.is_sorted()), "a vector lost its order");
        pushed += vectors.iter().map(|vector| vector.len() as u64).sum::<u64>();
    }
    pushed
}

fn text(rng: &mut Rng, key: u32) -> String {
    let padding = rng.below(48) as usize;
    format!("{key:08}{}", &"the quick brown fox jumps over the lazy dog, twice"[..padding])
}

fn hashmap_churn(options: &Options) -> u64 {
    let steps = options.scaled(6e6, 1000) as u64;
    let mut rng = Rng::new(2);
    let mut map: Map<u32, String> = Map::default();
    for _ in 0..steps {
        let key = rng.below(100_000);
        match map.entry(key) {
            Entry::Occupied(entry) => {
                let value = entry.remove();
                assert_eq!(value[..8].parse(), Ok(key), "a value is not its own");
            }
            Entry::Vacant(entry) => drop(entry.insert(text(&mut rng, key)).len()),
        }
    }
    steps
}

fn string_sort(options: &Options) -> u64 {
    let rounds = options.scaled(8.0, 1);
    let lines = options.scaled(8.0 * 200_000.0, 1000).min(200_000);
    let mut rng = Rng::new(3);
    for _ in 0..rounds {
        let mut all: Vec<String> = (0..lines)
            .map(|_| {
                let key = rng.below(100_000_000);
                text(&mut rng, key)
            })
            .collect();
        all.sort();
        let joined = all.join("\n");
        drop(all);
        let again: Vec<String> = joined.lines().map(str::to_owned).collect();
        assert!(again.len() == lines && again.is_sorted(), "the lines lost their order");
    }
    (rounds * lines) as u64
}

struct Tree {
    left: Option<Box<Tree>>,
    right: Option<Box<Tree>>,
}

impl Tree {
    fn of_depth(depth: u32) -> Self {
        let child = || (depth > 0).then(|| Box::new(Self::of_depth(depth - 1)));
        Self { left: child(), right: child() }
    }

    fn count(&self) -> u64 {
        let of = |child: &Option<Box<Self>>| child.as_ref().map_or(0, |tree| tree.count());
        1 + of(&self.left) + of(&self.right)
    }
}

fn box_trees(options: &Options) -> u64 {
    const DEPTH: u32 = 14;
    let stays = Tree::of_depth(DEPTH + 2);
    let trees = options.scaled(800.0, 4);
    let nodes: u64 = (0..trees).map(|_| Tree::of_depth(DEPTH).count()).sum();
    assert_eq!(nodes, trees as u64 * ((2 << DEPTH) - 1), "a tree lost a node");
    assert_eq!(stays.count(), (2 << (DEPTH + 2)) - 1, "the tree that stayed lost a node");
    nodes
}

fn channel(options: &Options) -> u64 {
    let messages = options.scaled(2e6, 1000) as u64;
    let senders = u64::from(options.threads.div_ceil(2));
    let (send, receive) = sync_channel::<(u64, Vec<u64>)>(1024);
    std::thread::scope(|scope| {
        for sender in 0..senders {
            let send = send.clone();
            scope.spawn(move || {
                let mut rng = Rng::new(sender);
                for i in 0..messages {
                    let length = rng.below(64) as usize;
                    send.send((i, vec![i; length])).expect("the receiver is there until the end");
                }
            });
        }
        drop(send);
        let mut received = 0;
        for (i, message) in receive {
            assert!(message.iter().all(|word| *word == i), "a message is not its sender's");
            received += 1;
        }
        assert_eq!(received, senders * messages, "messages were lost");
    });
    senders * messages
}
