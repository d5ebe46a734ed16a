//! What the command line says about trees.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::filter::Rules;

/// Which symbolic links are followed to what they name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Follow {
    /// None: links are copied as links (`-P`).
    Never,
    /// Those named on the command line (`-H`).
    Operands,
    /// All (`-L`).
    Always,
}

/// One of several runs that copy a tree together: each its part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shard {
    index: u64,
    count: u64,
}

impl Shard {
    /// The one at `index`, from 0 on, of `count`.
    pub fn of(index: usize, count: usize) -> Self {
        Self { index: index as u64 + 1, count: count.max(1) as u64 }
    }

    /// Whether this run copies what has this key; of all runs with the same count exactly one does.
    pub fn takes(self, key: &[u8]) -> bool {
        let hash = blake3::hash(key);
        let mut number = [0; 8];
        number.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_le_bytes(number) % self.count == self.index - 1
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a shard is I/N, such as 3/8: the third of eight, I from 1 to N".to_owned();
        let (index, count) = text.split_once('/').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let shard = Self { index: number(index)?, count: number(count)? };
        if (1..=shard.count).contains(&shard.index) { Ok(shard) } else { Err(wrong()) }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wishes {
    /// Copy directories with what is in them.
    pub recursive: bool,
    /// Which links to follow.
    pub follow: Follow,
    /// Keep hard links among what is copied.
    pub links: bool,
    /// Stay on the file system of each operand.
    pub one_file_system: bool,
    /// Remove what the source does not have.
    pub delete: bool,
    /// Names to leave out.
    pub rules: Rules,
    /// Copy a part only.
    pub shard: Option<Shard>,
    /// Repeat the source's path below the target (`--parents`).
    pub parents: bool,
    /// Where the names to copy are listed (`--files-from`).
    pub files_from: Option<PathBuf>,
    /// Whether zero bytes separate them.
    pub from0: bool,
}

impl Wishes {
    /// Those of a command line that says nothing of trees: links among its files are followed.
    pub fn of_files() -> Self {
        Self {
            recursive: false,
            follow: Follow::Always,
            links: false,
            one_file_system: false,
            delete: false,
            rules: Rules::default(),
            shard: None,
            parents: false,
            files_from: None,
            from0: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_one_shard_and_every_shard_some() {
        for count in [1_u64, 2, 3, 7] {
            let shards: Vec<Shard> =
                (1..=count).map(|index| format!("{index}/{count}").parse().unwrap()).collect();
            let mut taken = vec![0; shards.len()];
            for key in 0..1000_u32 {
                let takers: Vec<usize> =
                    (0..shards.len()).filter(|&i| shards[i].takes(&key.to_le_bytes())).collect();
                assert_eq!(takers.len(), 1, "{key} of {count}");
                taken[takers[0]] += 1;
            }
            assert!(taken.iter().all(|&n| n > 700 / count), "{taken:?}");
        }
    }

    #[test]
    fn bad_shards_say_what_is_good() {
        for text in ["", "1", "0/3", "4/3", "a/b", "1/0", "-1/3"] {
            assert!(text.parse::<Shard>().unwrap_err().contains("3/8"), "{text}");
        }
        assert_eq!("2/3".parse::<Shard>().unwrap().to_string(), "2/3");
    }
}
