//! The part of `hugecp`'s command line that is about trees.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgMatches, Args, ValueHint};

use super::tree::filter::Verdict;
use super::tree::wishes::Shard;

/// Options for trees; see [`super::options::Options`].
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Trees")]
pub struct TreeOptions {
    /// Copy directories with everything in them
    #[arg(short, long, visible_short_alias = 'R')]
    pub recursive: bool,

    /// Copy trees as they are: -r -P -p, and hard links stay hard links
    #[arg(short, long)]
    pub archive: bool,

    /// Copy symbolic links as links, also those named on the command line; hard links stay so
    #[arg(short = 'd')]
    pub no_dereference_links: bool,

    /// Copy symbolic links as links (the default with -r)
    #[arg(short = 'P', long, overrides_with_all = ["dereference", "follow_operands"])]
    pub no_dereference: bool,

    /// Follow all symbolic links
    #[arg(short = 'L', long, overrides_with_all = ["no_dereference", "follow_operands"])]
    pub dereference: bool,

    /// Follow the symbolic links that are named on the command line
    #[arg(short = 'H', overrides_with_all = ["no_dereference", "dereference"])]
    pub follow_operands: bool,

    /// Stay on the file system of each SRC; directories that others are mounted on are made empty
    #[arg(short = 'x', long)]
    pub one_file_system: bool,

    /// Repeat the whole path of each SRC below DIR
    #[arg(long)]
    pub parents: bool,

    /// Leave out what matches (the first pattern that matches decides)
    ///
    /// As with rsync: * and ? match within a name, ** across slashes; a pattern that begins with /
    /// is tied to the top of SRC, one that ends with / is for directories alone.
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<OsString>,

    /// Take what matches, although a later --exclude matches too
    #[arg(long, value_name = "PATTERN")]
    pub include: Vec<OsString>,

    /// Copy what FILE lists, one path below SRC a line, to the same paths below DST
    ///
    /// "-" is standard input.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "parents")]
    pub files_from: Option<PathBuf>,

    /// Zero bytes end the paths in the list, not newlines
    #[arg(short = '0', long, requires = "files_from")]
    pub from0: bool,

    /// Remove from the target directories what their sources do not have
    ///
    /// Not what --exclude leaves out, and nothing in a directory of which something could not be
    /// read or copied.
    #[arg(long)]
    pub delete: bool,

    /// Leave targets alone that have the same contents already
    #[arg(long)]
    pub checksum: bool,

    /// Copy the I-th of N parts of a tree, so that N runs copy all of it, each file once
    ///
    /// Which file is in which part depends on its path alone, or with -a on its inode where it has
    /// several names. Every run makes all directories. DST is to be there, or named by -T or -t.
    #[arg(long, value_name = "I/N", value_parser = str::parse::<Shard>)]
    pub shard: Option<Shard>,

    /// The patterns in their order.
    #[arg(skip)]
    pub rules: Vec<(Verdict, OsString)>,
}

impl TreeOptions {
    /// Puts the patterns in the order of the command line.
    pub fn order_rules(&mut self, matches: &ArgMatches) {
        let mut rules = Vec::new();
        let lists = [
            (Verdict::Exclude, "exclude", &self.exclude),
            (Verdict::Include, "include", &self.include),
        ];
        for (verdict, name, patterns) in lists {
            let places = matches.indices_of(name).into_iter().flatten();
            rules.extend(places.zip(patterns).map(|(at, pattern)| (at, verdict, pattern.clone())));
        }
        rules.sort_by_key(|(at, ..)| *at);
        self.rules = rules.into_iter().map(|(_, verdict, pattern)| (verdict, pattern)).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::Options;
    use super::*;

    fn read(line: &str) -> TreeOptions {
        Options::read(line.split_whitespace()).unwrap().trees
    }

    #[test]
    fn patterns_keep_their_order() {
        let rules = read("hugecp -r --exclude a --include=b --exclude=c --include d x y").rules;
        let words: Vec<_> =
            rules.iter().map(|(verdict, pattern)| (*verdict, pattern.to_str().unwrap())).collect();
        use Verdict::{Exclude, Include};
        assert_eq!(words, [(Exclude, "a"), (Include, "b"), (Exclude, "c"), (Include, "d")]);
    }

    #[test]
    fn the_last_word_on_links_counts() {
        let options = read("hugecp -r -L -H -P x y");
        assert!(options.no_dereference && !options.dereference && !options.follow_operands);
        let options = read("hugecp -a -P -L x y");
        assert!(options.dereference && !options.no_dereference);
    }

    #[test]
    fn all_ways_to_say_recursive() {
        for flag in ["-r", "-R", "--recursive"] {
            assert!(read(&format!("hugecp {flag} x y")).recursive, "{flag}");
        }
        assert!(read("hugecp -a x y").archive && read("hugecp --archive x y").archive);
    }
}
