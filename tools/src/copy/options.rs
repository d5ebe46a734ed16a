//! The command line of `hugecp`, defined once: parsing, `--help`, the man page and the shell
//! completions all come from [`Options`].
//!
//! Nothing here asks the system anything; see [`super::request`] for what the options amount to.

use std::path::PathBuf;

use bookend::units::Bytes;
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum, ValueHint};

use crate::cli::parse_size;

/// Copy files and trees through huge-page buffers, as fast as the hardware allows.
///
/// hugecp copies SRC to DST, or one or more SRC into DIR, by the conventions of cp. It looks at
/// the source, the target and the kernel, picks the way to copy that is fastest there, and falls
/// back to the next one where a way is not possible; --explain tells which way it was and why.
///
/// The copy grows under no name or a temporary one in the target's directory and takes its own
/// name when it is complete: whatever interrupts it, the target is the old file, the new one or
/// absent, and never a part.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "hugecp",
    version,
    args_override_self = true,
    override_usage = "hugecp [OPTIONS] SRC DST\n       hugecp [OPTIONS] SRC... DIR\n       \
                      hugecp [OPTIONS] -t DIR SRC...\n       \
                      hugecp --check [OPTIONS] SRC DST\n       \
                      hugecp --check --manifest FILE\n       \
                      hugecp [OPTIONS] SRC... HOST:PATH\n       \
                      hugecp [OPTIONS] HOST:PATH... DST\n       \
                      hugecp --serve ADDRESS --key-file FILE --root DIR",
    after_long_help = NOTES
)]
pub struct Options {
    /// What to copy, and last where to (unless -t says it)
    ///
    /// Regular files, block devices, and pipes. "-" is standard input, and as the last one
    /// standard output; a file of that name is written "./-". HOST:PATH, with the colon before any slash,
    /// is on another machine.
    #[arg(value_name = "SRC", required_unless_present_any = ["generate", "check", "serve", "remote_side"], value_hint = ValueHint::FilePath)]
    pub paths: Vec<PathBuf>,

    /// Copy every SRC into DIR
    #[arg(short = 't', long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub target_directory: Option<PathBuf>,

    /// Take DST as a file, never as a directory to copy into
    #[arg(short = 'T', long, conflicts_with = "target_directory")]
    pub no_target_directory: bool,

    /// Replace targets that may not be written; write to block devices that are in use
    #[arg(short, long)]
    pub force: bool,

    /// Leave existing targets alone
    #[arg(short, long)]
    pub no_clobber: bool,

    /// Leave targets alone that are as new as the source or newer
    #[arg(short, long)]
    pub update: bool,

    /// Print what is copied where to
    #[arg(short, long)]
    pub verbose: bool,

    /// Preserve mode, times, ownership, ACLs and extended attributes
    ///
    /// Ownership is preserved as far as the caller may give files away, which is to say by root.
    #[arg(short, long)]
    pub preserve: bool,

    /// Write the existing target itself instead of a new file that replaces it
    ///
    /// The target keeps its hard links, and an interrupted copy leaves it incomplete. Implied for
    /// block devices and pipes.
    #[arg(long)]
    pub in_place: bool,

    /// Make every copy durable before it counts as done: data, metadata, then the directory
    #[arg(long)]
    pub fsync: bool,

    /// Read every target again, from the device, and compare checksums with what was copied
    #[arg(long)]
    pub verify: bool,

    /// Go on with a copy that was interrupted, and keep this one for that
    ///
    /// The copy grows as .NAME.hugecp-part, with a journal of checksums beside it, which stay when
    /// it is interrupted. A later --resume compares what is there with the journal, copies the
    /// rest, and begins anew where the source is not what it was (device, inode, length, times);
    /// of a source in memory (tmpfs) what is known is compared with it too.
    /// In trees, files that are there already are left alone: with -p or -a those of the same
    /// length and time, otherwise those of the same contents.
    #[arg(long, conflicts_with = "in_place")]
    pub resume: bool,

    /// Compare SRC with DST, and copy nothing; with --manifest alone, files with their checksums
    ///
    /// Trees are gone through on both sides. With -p or -a modes, owners, times, attributes and
    /// ACLs are compared too, and with -a which names are names of one file.
    #[arg(long)]
    pub check: bool,

    /// Print which ways there are from SRC to DST and why the others are closed, and copy nothing
    ///
    /// With the limits of the devices. What can be tried is tried, on a file without a name.
    #[arg(long, conflicts_with = "check")]
    pub capabilities: bool,

    /// Write checksums (BLAKE3) of what was copied to FILE, as b3sum does; with --check, compare
    ///
    /// The checksums are those of the sources, the paths those of the targets, also where these are on another machine.
    /// Devices and pipes are not listed. A copy that is stopped, or brings nothing since all of it fails, leaves an older
    /// FILE as it is.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub manifest: Option<PathBuf>,

    /// How to copy
    ///
    /// An engine asked for by name is used or the copy fails and says why.
    #[arg(long, value_name = "ENGINE", value_enum, default_value_t = EngineChoice::Auto)]
    pub engine: EngineChoice,

    /// Whether the target shares the source's blocks (alone: always)
    #[arg(
        long, value_name = "WHEN", value_enum, default_value_t = When::Auto,
        num_args = 0..=1, require_equals = true, default_missing_value = "always"
    )]
    pub reflink: When,

    /// Whether the target has holes
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Holes::Auto)]
    pub sparse: Holes,

    /// Bytes a request
    #[arg(long, value_name = "SIZE", value_parser = block_size)]
    pub block_size: Option<Bytes>,

    /// Requests in flight (direct engine)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub queue_depth: Option<u32>,

    /// Threads that move data
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: Option<u32>,

    /// Bytes of buffers in all
    #[arg(long, value_name = "SIZE", value_parser = buffer_memory)]
    pub buffer_memory: Option<Bytes>,

    /// Bytes a second at most
    #[arg(long, value_name = "SIZE", value_parser = at_least_one)]
    pub bwlimit: Option<Bytes>,

    /// Tell which engine ran and why the others did not
    #[arg(long)]
    pub explain: bool,

    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,

    /// Print the man page or the completions of a shell, and do nothing else
    #[arg(long, value_name = "WHAT", value_enum, exclusive = true)]
    pub generate: Option<super::generate::What>,

    /// What is said about trees.
    #[command(flatten)]
    pub trees: super::tree_options::TreeOptions,

    /// What is said about other machines.
    #[command(flatten)]
    pub remote: crate::remote::options::RemoteOptions,
}

const NOTES: &str = "\
SIZE is a number with an optional unit: K, M, G, T (powers of 1024) or kB, MB, GB, TB (of 1000).

Engines: \"reflink\" lets the target share the source's blocks; \"copy-range\" copies inside the \
kernel or on the server; \"device-copy\" has an NVMe drive copy by itself, from block device to block \
device; \"direct\" reads and writes past the page cache, through registered huge \
pages; \"buffered\" goes through the page cache. \"auto\" chooses.

An existing target is replaced by a new file that takes over its mode, owner, ACLs and extended \
attributes, so other hard links to it keep the old contents, and its directory must be writable. \
With --in-place it is written as cp does. A target that is a symbolic link is followed.

Signals: SIGINT and SIGTERM remove the unfinished copy and end with status 130 and 143; SIGUSR1 \
prints the progress on standard error.

Exit status: 0 if everything was copied or rightly left alone, 1 if something failed, 2 if the \
command line makes no sense.

Trees: directories are copied as by cp -r, small files by several threads while big ones go past the \
page cache. Symbolic links in the target are never followed: a file replaces them. What cannot be \
copied is told, the rest is copied, and the end lists every failure. A run that was killed can leave \
an unfinished file of less than 8 MiB for each of its threads, under names that were free; start it \
again with --resume or --checksum.

Several machines with one file system: a build with the feature mpi divides the work under mpirun or \
srun: mpirun -np 8 hugecp -a SRC DST. Each process copies its share of the files and its range of each \
file of 64 MiB or more, under names that are temporary until all is there; the first tells of all, \
and its exit status is that of all. It writes the list of --manifest too, the same as one process writes. \
With --resume a launch that was killed is gone on with, divided files too, by as many processes, by \
others, or by one. For one process: --check, and standard input and output. Without MPI, --shard I/N divides a tree.

Between machines: HOST is reached by ssh, which starts hugecp there, and the data goes over TCP connections \
of its own, authenticated and encrypted. With --key-file, HOST is a hugecp --serve, which is reached without \
ssh. Every piece has a checksum from where it was read, which is compared before it is written: AEGIS-128X2 with \
a key of its file, or Poly1305 where a processor has no instructions for AES. \
What was cut off, by a lost connection or a full disk, is gone on with when the same command is started \
again: files of 1 MiB or more grow as .NAME.hugecp-part, beside a journal. Of a source in memory (tmpfs), what was stored through a mapping meanwhile is not seen. Links in the target are never \
followed, but to a block device, which is written where it is. --checksum and --check take the checksums of big \
files at both ends, and send small ones. The list of --files-from is read where hugecp is started, and that of \
--manifest written there. Not between machines: --in-place, --engine, --shard, and standard input and output.";

/// `--engine`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum EngineChoice {
    /// The fastest that is possible here
    Auto,
    /// Share the source's blocks, copy nothing
    Reflink,
    /// Copy inside the kernel or on the server
    CopyRange,
    /// Inside the drive, from block device to block device (NVMe Copy)
    DeviceCopy,
    /// Past the page cache, through registered huge pages
    Direct,
    /// Through the page cache
    Buffered,
}

/// `--sparse`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Holes {
    /// Where the source has them
    Auto,
    /// Wherever there are zeros
    Always,
    /// Nowhere
    Never,
}

/// `--reflink`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum When {
    /// Where that is possible
    Auto,
    /// Or fail
    Always,
    /// Not at all
    Never,
}

/// The definition itself, for whoever generates something from it.
pub fn command() -> clap::Command {
    Options::command()
}

impl Options {
    /// Reads a command line. (Parsing alone loses in which order `--exclude` and `--include` were.)
    ///
    /// # Errors
    /// What is wrong with it, or the help that it asks for.
    pub fn read<T: Into<std::ffi::OsString> + Clone>(
        line: impl IntoIterator<Item = T>,
    ) -> Result<Self, clap::Error> {
        let matches = command().try_get_matches_from(line)?;
        let mut options = Self::from_arg_matches(&matches)?;
        options.trees.order_rules(&matches);
        Ok(options)
    }
}

const BLOCK_SIZE_MIN: Bytes = Bytes::new(512);
const BLOCK_SIZE_MAX: Bytes = Bytes::gib(1);
const BUFFER_MEMORY_MIN: Bytes = Bytes::kib(4);

fn block_size(text: &str) -> Result<Bytes, String> {
    let size = parse_size(text).map_err(|error| error.to_string())?;
    if (BLOCK_SIZE_MIN..=BLOCK_SIZE_MAX).contains(&size) {
        Ok(size)
    } else {
        Err(format!("a request has {BLOCK_SIZE_MIN} to {BLOCK_SIZE_MAX}"))
    }
}

fn buffer_memory(text: &str) -> Result<Bytes, String> {
    let size = parse_size(text).map_err(|error| error.to_string())?;
    if size < BUFFER_MEMORY_MIN {
        return Err(format!("buffers need at least {BUFFER_MEMORY_MIN}"));
    }
    Ok(size)
}

fn at_least_one(text: &str) -> Result<Bytes, String> {
    let size = parse_size(text).map_err(|error| error.to_string())?;
    if size.get() == 0 {
        return Err("nothing would ever be copied; leave it out for no limit".to_owned());
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, clap::Error> {
        Options::read(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn flags_may_be_repeated_as_with_cp() {
        let options = parse("hugecp -vv -f -f --sparse=never --sparse=always a b").unwrap();
        assert!(options.verbose && options.force);
        assert_eq!(options.sparse, Holes::Always);
    }

    #[test]
    fn reflink_alone_means_always_and_takes_no_operand() {
        let options = parse("hugecp --reflink a b").unwrap();
        assert_eq!(options.reflink, When::Always);
        assert_eq!(options.paths, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(parse("hugecp a b").unwrap().reflink, When::Auto);
    }

    #[test]
    fn a_dash_is_an_operand() {
        assert_eq!(
            parse("hugecp - out").unwrap().paths,
            [PathBuf::from("-"), PathBuf::from("out")]
        );
        assert_eq!(parse("hugecp -- -x out").unwrap().paths[0], PathBuf::from("-x"));
    }

    #[test]
    fn bad_values_say_what_is_good() {
        for (line, part) in [
            ("hugecp --block-size 4Q a b", "is not a unit of size"),
            ("hugecp --block-size 0 a b", "512 B to 1 GiB"),
            ("hugecp --block-size 2G a b", "512 B to 1 GiB"),
            ("hugecp --buffer-memory 100 a b", "at least 4 KiB"),
            ("hugecp --bwlimit 0 a b", "no limit"),
            ("hugecp --queue-depth 0 a b", "1..=4096"),
            ("hugecp --threads 300 a b", "1..=256"),
            ("hugecp --engine rdma a b", "copy-range"),
            ("hugecp -t d -T a", "cannot be used with"),
            ("hugecp --generate man a b", "cannot be used with"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
    }
}
