//! What a command line asks for, without asking the system anything.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use bookend::units::Bytes;

use super::engine::{EngineName, Sparse, Tuning};
use super::options::{EngineChoice, Holes, Options, When};
use super::plan::Wishes;
use super::tree::filter::{Rule, Rules, Verdict};
use super::tree::wishes::{Follow, Wishes as TreeWishes};
use super::tree_options::TreeOptions;

/// One end of a copy as it was named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// Standard input or output.
    Standard,
    /// A path.
    Path(PathBuf),
}

impl Endpoint {
    fn new(path: PathBuf) -> Self {
        if path.as_os_str() == OsStr::new("-") { Self::Standard } else { Self::Path(path) }
    }

    /// Its name in messages.
    pub fn name(&self) -> PathBuf {
        match self {
            Self::Standard => PathBuf::from("-"),
            Self::Path(path) => path.clone(),
        }
    }
}

/// Where the copies go, before the file system was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// Into this directory, which must be one (`-t`, or several sources).
    Into(PathBuf),
    /// To this file, and not into it where it is a directory (`-T`, or `-`).
    Exactly(Endpoint),
    /// Into this directory if it is one, to this file otherwise.
    Either(PathBuf),
}

impl Destination {
    /// Its path, unless it is standard output.
    pub fn path(&self) -> Option<&std::path::Path> {
        match self {
            Self::Into(path) | Self::Either(path) | Self::Exactly(Endpoint::Path(path)) => {
                Some(path)
            }
            Self::Exactly(Endpoint::Standard) => None,
        }
    }
}

/// What to do about a target that exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conflict {
    /// Replace it.
    Replace,
    /// Leave it (`-n`).
    Leave,
    /// Replace it if the source is newer (`-u`).
    ReplaceOlder,
}

/// What holds for every file of one run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Targets that exist.
    pub conflict: Conflict,
    /// Replace what may not be written, write what is in use.
    pub force: bool,
    /// Carry over mode, times, ownership and attributes.
    pub preserve: bool,
    /// Write existing files themselves.
    pub in_place: bool,
    /// Make durable.
    pub fsync: bool,
    /// Leave targets that have the same contents.
    pub checksum: bool,
    /// Go on with what an earlier run began.
    pub resume: bool,
    /// Name files as they are copied.
    pub verbose: bool,
    /// Tell how and why.
    pub explain: bool,
    /// Tell in JSON.
    pub json: bool,
    /// What the choice of an engine depends on.
    pub wishes: Wishes,
    /// What engines are told.
    pub tuning: Tuning,
}

/// A command line, understood.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to copy.
    pub sources: Vec<Endpoint>,
    /// Where to.
    pub destination: Destination,
    /// How.
    pub settings: Settings,
    /// How trees are copied, if any may be.
    pub trees: Option<TreeWishes>,
    /// Where checksums of what was copied go.
    pub manifest: Option<PathBuf>,
}

/// Why a command line makes no sense.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// An option that is about trees, without one.
    #[error("{0} needs {1}")]
    Needs(&'static str, &'static str),
    /// A pattern that is none.
    #[error("{0}")]
    Pattern(String),
    /// `-` where trees are copied.
    #[error("\"-\" is no tree: copy it by itself, without {0}")]
    NoTree(&'static str),
    /// One operand.
    #[error("where to? Name a file or a directory after {}", .0.display())]
    NoDestination(PathBuf),
    /// `-T` with several sources.
    #[error("-T copies one file to one name, and {0} operands were given: {1} is one too many")]
    TooMany(usize, String),
    /// `-` twice.
    #[error("\"-\" stands for standard input twice, which can be read once only")]
    StandardInputTwice,
    /// `-` into a directory.
    #[error("standard input has no name that it could have in a directory: name a file as target")]
    Nameless,
    /// Options that exclude each other.
    #[error("{0} and {1} exclude each other: {2}")]
    Conflict(&'static str, &'static str, &'static str),
    /// An option that a pipe cannot have.
    #[error("{0} is not possible where the target is standard output")]
    NotOnStandardOutput(&'static str),
    /// Other machines in the wrong places.
    #[error("{0}: {1}")]
    Remote(&'static str, &'static str),
    /// An option that is for this machine alone.
    #[error("{0} is not possible between machines: run hugecp where the files are")]
    NotBetweenMachines(&'static str),
    /// Buffers below one request.
    #[error("--buffer-memory {memory} is less than one request of --block-size {block}")]
    NoRoomForARequest {
        /// Of buffers in all.
        memory: Bytes,
        /// Of a request.
        block: Bytes,
    },
}

impl Request {
    /// Understands `options`.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn new(options: Options) -> Result<Self, UsageError> {
        let settings = settings(&options)?;
        let trees = trees(&options.trees)?;
        let manifest = options.manifest.clone();
        let (sources, destination) = ends(options)?;
        if let Some(wishes) = &trees {
            check_trees(wishes, &sources, &destination)?;
        }
        let standard = sources.iter().filter(|source| **source == Endpoint::Standard).count();
        if standard > 1 {
            return Err(UsageError::StandardInputTwice);
        }
        if standard == 1 && matches!(destination, Destination::Into(_)) {
            return Err(UsageError::Nameless);
        }
        if destination == Destination::Exactly(Endpoint::Standard) {
            if settings.fsync {
                return Err(UsageError::NotOnStandardOutput("--fsync"));
            }
            if manifest.is_some() {
                return Err(UsageError::NotOnStandardOutput("--manifest"));
            }
            if settings.resume {
                return Err(UsageError::NotOnStandardOutput("--resume"));
            }
            if settings.wishes.verify {
                return Err(UsageError::NotOnStandardOutput("--verify"));
            }
        }
        Ok(Self { sources, destination, settings, trees, manifest })
    }
}

/// The operands, told apart.
fn ends(options: Options) -> Result<(Vec<Endpoint>, Destination), UsageError> {
    let mut paths = options.paths;
    if let Some(directory) = options.target_directory {
        let sources = paths.into_iter().map(Endpoint::new).collect();
        return Ok((sources, Destination::Into(directory)));
    }
    if options.no_target_directory && paths.len() > 2 {
        return Err(UsageError::TooMany(paths.len(), paths[2].display().to_string()));
    }
    let last = match paths.pop() {
        Some(last) if !paths.is_empty() => last,
        Some(only) => return Err(UsageError::NoDestination(only)),
        None => return Err(UsageError::NoDestination(PathBuf::new())),
    };
    let destination = match Endpoint::new(last) {
        Endpoint::Path(path) if paths.len() > 1 => Destination::Into(path),
        Endpoint::Standard if paths.len() > 1 => Destination::Into(PathBuf::from("-")),
        Endpoint::Path(path) if !options.no_target_directory => Destination::Either(path),
        end => Destination::Exactly(end),
    };
    Ok((paths.into_iter().map(Endpoint::new).collect(), destination))
}

fn settings(options: &Options) -> Result<Settings, UsageError> {
    let conflict = match (options.no_clobber, options.update) {
        (true, _) => Conflict::Leave,
        (false, true) => Conflict::ReplaceOlder,
        (false, false) => Conflict::Replace,
    };
    if let (Some(memory), Some(block)) = (options.buffer_memory, options.block_size)
        && memory < block
    {
        return Err(UsageError::NoRoomForARequest { memory, block });
    }
    let bytes = |size: Option<Bytes>| size.map(Bytes::get);
    let tuning = Tuning {
        block_size: bytes(options.block_size),
        queue_depth: options.queue_depth,
        threads: options.threads,
        buffer_memory: bytes(options.buffer_memory),
        bwlimit: bytes(options.bwlimit),
        sparse: match options.sparse {
            Holes::Auto => Sparse::Auto,
            Holes::Always => Sparse::Always,
            Holes::Never => Sparse::Never,
        },
    };
    Ok(Settings {
        conflict,
        force: options.force,
        preserve: options.preserve || options.trees.archive,
        in_place: options.in_place,
        fsync: options.fsync,
        checksum: options.trees.checksum,
        resume: options.resume,
        verbose: options.verbose,
        explain: options.explain,
        json: options.json,
        wishes: wishes(options, tuning.sparse)?,
        tuning,
    })
}

/// What bears on the choice of an engine, checked for contradictions.
fn wishes(options: &Options, sparse: Sparse) -> Result<Wishes, UsageError> {
    let engine = match options.engine {
        EngineChoice::Auto => None,
        EngineChoice::Reflink => Some(EngineName::Reflink),
        EngineChoice::CopyRange => Some(EngineName::CopyRange),
        EngineChoice::DeviceCopy => Some(EngineName::DeviceCopy),
        EngineChoice::Direct => Some(EngineName::Direct),
        EngineChoice::Buffered => Some(EngineName::Buffered),
    };
    let clash = |one, other, why| Err(UsageError::Conflict(one, other, why));
    if options.resume && sparse == Sparse::Never {
        let why = "what was copied could not be told from what is to be filled with zeros";
        return clash("--resume", "--sparse=never", why);
    }
    let forced = options.reflink == When::Always || engine == Some(EngineName::Reflink);
    let flag = if options.reflink == When::Always { "--reflink" } else { "--engine reflink" };
    match engine {
        Some(EngineName::Reflink) if options.reflink == When::Never => {
            return clash(
                "--engine reflink",
                "--reflink=never",
                "one asks for what the other bars",
            );
        }
        Some(other) if options.reflink == When::Always && other != EngineName::Reflink => {
            return clash("--reflink", "--engine", "shared blocks are not copied by an engine");
        }
        _ => {}
    }
    if forced && sparse != Sparse::Auto {
        return clash(flag, "--sparse", "shared blocks are as sparse as the source's");
    }
    if forced && options.verify {
        return clash(flag, "--verify", "shared blocks would be compared with themselves");
    }
    Ok(Wishes {
        engine: if forced { Some(EngineName::Reflink) } else { engine },
        reflink: options.reflink != When::Never,
        sparse,
        verify: options.verify,
        fsync: options.fsync,
        spare_cache: false,
        resume: options.resume,
    })
}

/// The patterns of the command line.
///
/// # Errors
/// Those that are none.
pub fn rules(options: &TreeOptions) -> Result<Rules, UsageError> {
    let rule = |(verdict, pattern): &(Verdict, OsString)| {
        Rule::new(*verdict, pattern).map_err(|why| {
            let option = if *verdict == Verdict::Exclude { "--exclude" } else { "--include" };
            UsageError::Pattern(format!("{option} {}: {why}", pattern.display()))
        })
    };
    Ok(Rules::new(options.rules.iter().map(rule).collect::<Result<_, _>>()?))
}

/// What is to be done about trees, if the command line is about any.
fn trees(options: &TreeOptions) -> Result<Option<TreeWishes>, UsageError> {
    let recursive = options.recursive || options.archive;
    let keeps_links = options.no_dereference || options.no_dereference_links;
    let listed = options.files_from.is_some();
    for (given, option) in [
        (options.delete, "--delete"),
        (options.one_file_system, "-x"),
        (!options.rules.is_empty(), "--exclude or --include"),
        (options.shard.is_some(), "--shard"),
    ] {
        if given && !recursive && !(listed && option == "--shard") {
            return Err(UsageError::Needs(option, "-r or -a: it is about trees"));
        }
    }
    let any = recursive || keeps_links || options.follow_operands || options.parents || listed;
    if !any {
        return Ok(None); // -L is what happens to files anyway
    }
    let follow = match options {
        TreeOptions { dereference: true, .. } => Follow::Always,
        TreeOptions { follow_operands: true, .. } => Follow::Operands,
        _ if recursive || keeps_links || listed => Follow::Never,
        _ => Follow::Always,
    };
    Ok(Some(TreeWishes {
        recursive,
        follow,
        links: options.archive || options.no_dereference_links,
        one_file_system: options.one_file_system,
        delete: options.delete,
        rules: rules(options)?,
        shard: options.shard,
        parents: options.parents,
        files_from: options.files_from.clone(),
        from0: options.from0,
    }))
}

/// What goes together with trees, and what does not.
fn check_trees(
    wishes: &TreeWishes,
    sources: &[Endpoint],
    destination: &Destination,
) -> Result<(), UsageError> {
    if sources.contains(&Endpoint::Standard) || destination.path().is_none() {
        return Err(UsageError::NoTree("-r, -a, -d, -P, -H, --parents or --files-from"));
    }
    if wishes.files_from.is_some() && sources.len() != 1 {
        return Err(UsageError::Needs(
            "--files-from",
            "one SRC, which the paths are below, and DST",
        ));
    }
    if let Destination::Either(path) = destination
        && wishes.shard.is_some()
        && wishes.files_from.is_none()
        && !path.is_dir()
    {
        let same =
            "-T, or a DST that is there: those that find what another has made would copy into it";
        return Err(UsageError::Needs("--shard", same));
    }
    let alone = sources.len() == 1 && wishes.files_from.is_none() && !wishes.parents;
    if wishes.delete && (!alone || wishes.shard.is_some()) {
        let one = "one SRC, copied as a whole: what is no part of it is removed";
        return Err(UsageError::Needs("--delete", one));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> Result<Request, UsageError> {
        Request::new(Options::read(line.split_whitespace()).unwrap())
    }

    fn path(name: &str) -> Endpoint {
        Endpoint::Path(name.into())
    }

    #[test]
    fn operands_are_told_apart_as_by_cp() {
        for (line, sources, destination) in [
            ("hugecp a b", vec![path("a")], Destination::Either("b".into())),
            ("hugecp a b c", vec![path("a"), path("b")], Destination::Into("c".into())),
            ("hugecp -T a b", vec![path("a")], Destination::Exactly(path("b"))),
            ("hugecp -t d a", vec![path("a")], Destination::Into("d".into())),
            ("hugecp a -", vec![path("a")], Destination::Exactly(Endpoint::Standard)),
            ("hugecp - a", vec![Endpoint::Standard], Destination::Either("a".into())),
            ("hugecp ./- a", vec![path("./-")], Destination::Either("a".into())),
        ] {
            let request = request(line).unwrap();
            assert_eq!((request.sources, request.destination), (sources, destination), "{line}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_what_to_do() {
        for (line, part) in [
            ("hugecp a", "Name a file or a directory after a"),
            ("hugecp -T a b c", "c is one too many"),
            ("hugecp -r - b", "no tree"),
            ("hugecp -r a -", "no tree"),
            ("hugecp --delete a b", "--delete needs -r"),
            ("hugecp -r --delete a b c", "--delete needs one SRC"),
            ("hugecp -r --exclude [ a b", "--exclude [: a [ in it has no ]"),
            ("hugecp --files-from l a b c", "--files-from needs one SRC"),
            ("hugecp - - a", "twice"),
            ("hugecp -t d -", "no name"),
            ("hugecp --verify a -", "--verify is not possible"),
            ("hugecp --fsync a -", "--fsync is not possible"),
            ("hugecp --engine reflink --reflink=never a b", "exclude each other"),
            ("hugecp --engine direct --reflink a b", "exclude each other"),
            ("hugecp --reflink --sparse=always a b", "exclude each other"),
            ("hugecp --engine reflink --verify a b", "compared with themselves"),
            ("hugecp --block-size 4M --buffer-memory 1M a b", "1 MiB is less than"),
        ] {
            let error = request(line).unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn no_clobber_wins_over_update_and_force() {
        let conflict = |line| request(line).unwrap().settings.conflict;
        assert_eq!(conflict("hugecp -u -n -f a b"), Conflict::Leave);
        assert_eq!(conflict("hugecp -u a b"), Conflict::ReplaceOlder);
    }

    #[test]
    fn reflink_always_is_the_engine_reflink() {
        let wishes = request("hugecp --reflink a b").unwrap().settings.wishes;
        assert_eq!(wishes.engine, Some(EngineName::Reflink));
    }
}
