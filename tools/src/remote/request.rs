//! What a command line with another machine in it asks for.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::options::Transport;
use super::protocol::{Naming, Onto};
use super::task::{self, Target, Task};
use crate::copy::options::Options;
use crate::copy::plan::SMALL_BYTES;
use crate::copy::request::{Endpoint, Request, UsageError};
use crate::copy::run_check;
use crate::copy::tree::wishes::{Follow, Wishes};

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// To the other machine.
    Push,
    /// From it.
    Pull,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The command line, with the paths as they are on their machines.
    pub request: Request,
    /// The other machine, as `ssh` takes it.
    pub host: String,
    /// Which way.
    pub direction: Direction,
    /// What to copy.
    pub sources: Vec<PathBuf>,
    /// Operands that were named twice, and are copied once.
    pub twice: Vec<PathBuf>,
    /// Where to.
    pub target: Target,
    /// How; as many lanes as processors take where nobody says how many.
    pub task: Task,
    /// Lanes that the user wants.
    pub streams: Option<u32>,
    /// What reaches the other machine.
    pub rsh: Vec<OsString>,
    /// Its hugecp.
    pub remote_program: OsString,
    /// The key of its server, if that is there.
    pub key_file: Option<PathBuf>,
    /// What carries pieces.
    pub transport: Transport,
    /// The port on it.
    pub port: Option<u16>,
    /// Silence that is taken for its end.
    pub timeout: Duration,
}

/// Splits `HOST:PATH`: a colon before any slash, as `scp` and `rsync` take it. An IPv6 address stands in
/// brackets.
pub fn split(operand: &Path) -> Option<(String, PathBuf)> {
    let bytes = operand.as_os_str().as_bytes();
    // After the user's name at the latest; what stands behind a colon or a slash is of the path.
    let user = bytes.iter().position(|byte| matches!(byte, b'@' | b':' | b'/'));
    let machine = user.filter(|&at| bytes[at] == b'@').map_or(0, |at| at + 1);
    let from = match bytes.get(machine) {
        Some(b'[') => bytes.iter().position(|&byte| byte == b']')?,
        _ => 0,
    };
    let colon = from + bytes[from..].iter().position(|&byte| byte == b':')?;
    let host = &bytes[..colon];
    if host.is_empty() || host.contains(&b'/') {
        return None;
    }
    let host = std::str::from_utf8(host).ok()?.to_owned();
    Some((host, PathBuf::from(OsStr::from_bytes(&bytes[colon + 1..]))))
}

impl Wanted {
    /// Understands `options`; `None` where no other machine is in them.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn new(options: &Options) -> Result<Option<Self>, UsageError> {
        let mut options = options.clone();
        let mut sources: Vec<PathBuf> = options.paths.clone();
        let last = match &options.target_directory {
            Some(directory) => Some(directory.clone()),
            None => sources.pop(),
        };
        let Some(last) = last else { return Ok(None) };
        let (hosts, paths): (Vec<_>, Vec<_>) =
            sources.iter().filter_map(|path| split(path)).unzip();
        let (direction, host) = match (split(&last), hosts.first()) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Err(UsageError::Remote("both ends are on other machines", THROUGH));
            }
            (Some((host, path)), None) => {
                match &mut options.target_directory {
                    Some(directory) => *directory = path,
                    None => options.paths[sources.len()] = path,
                }
                (Direction::Push, host)
            }
            (None, Some(host)) => {
                if paths.len() != sources.len() || hosts.iter().any(|other| other != host) {
                    return Err(UsageError::Remote("the sources are on several machines", ONE));
                }
                options.paths[..paths.len()].clone_from_slice(&paths);
                (Direction::Pull, host.clone())
            }
        };
        if host.starts_with('-') {
            return Err(UsageError::Remote("a host's name begins with a dash", LOCAL));
        }
        refuse(&options)?;
        Self::of(options, direction, host).map(Some)
    }

    fn of(mut options: Options, direction: Direction, host: String) -> Result<Self, UsageError> {
        let remote = options.remote.clone();
        let check = options.check;
        let (attributes, links) = (run_check::attributes(&options), run_check::links(&options));
        let follow = match run_check::follows_operands(&options) {
            true => Follow::Operands,
            false => Follow::Never,
        };
        options.trees.recursive |= check;
        let words = remote.rsh.clone().unwrap_or_else(|| "ssh".into());
        let words = words.as_bytes().split(|&byte| byte == b' ').filter(|word| !word.is_empty());
        let rsh = words.map(|word| OsString::from_vec(word.to_vec())).collect();
        let mut request = Request::new(options)?;
        let standard = || UsageError::Remote("\"-\" is no file of another machine", LOCAL);
        let sources = request.sources.iter().map(|source| match source {
            Endpoint::Path(path) => Ok(path.clone()),
            Endpoint::Standard => Err(standard()),
        });
        let mut sources: Vec<PathBuf> = sources.collect::<Result<_, _>>()?;
        let mut target = Target::of(&request.destination).ok_or_else(standard)?;
        let mut wishes = request.trees.clone().unwrap_or_else(Wishes::of_files);
        let lanes = remote.streams.unwrap_or_else(task::lanes);
        let (mut settings, plain) = (request.settings, remote.plain);
        if check {
            if sources.len() != 1 {
                return Err(UsageError::Remote("--check compares one with another", PAIR));
            }
            target.onto = Onto::Exactly;
            wishes = Wishes { follow, links, ..wishes };
            settings.preserve = attributes;
        }
        let rdma = match remote.transport {
            Transport::Auto => plain,
            Transport::Tcp => false,
            Transport::Rdma => true,
        };
        let naming = match &wishes {
            Wishes { files_from: Some(_), .. } => Naming::Listed,
            Wishes { parents: true, .. } => Naming::Parents,
            _ => Naming::Operands,
        };
        let mut twice = Vec::new();
        if naming == Naming::Operands {
            let mut seen = HashSet::new();
            (sources, twice) =
                sources.into_iter().partition(|path| seen.insert(path.as_os_str().to_owned()));
            request.sources = sources.iter().cloned().map(Endpoint::Path).collect();
        }
        let sums = request.manifest.is_some();
        let congestion = remote.congestion.clone();
        let task = Task { settings, wishes, plain, lanes, rdma, congestion, check, naming, sums };
        Ok(Self {
            host,
            direction,
            sources,
            twice,
            target,
            task,
            streams: remote.streams,
            rsh,
            remote_program: remote.remote_program.clone().unwrap_or_else(|| "hugecp".into()),
            key_file: remote.key_file.clone(),
            transport: remote.transport,
            port: remote.port,
            timeout: remote.timeout(),
            request,
        })
    }

    /// Where the copy of `source` goes, as far as this end knows.
    pub fn shown_target(&self, source: &Path) -> PathBuf {
        let path = &self.target.path;
        match task::name_of(source).0.as_slice() {
            _ if self.task.naming != Naming::Operands => path.clone(),
            name if self.target.onto == Onto::Into && name != b"." => {
                path.join(OsStr::from_bytes(name))
            }
            _ => path.clone(),
        }
    }
}

const THROUGH: &str = "run hugecp on one of them, or copy here and from here";
const ONE: &str = "copy from one after the other";
const PAIR: &str = "name SRC and DST, one of them on the other machine";
const WHOLE: &str = "what is on two machines is compared as a whole, but for --exclude";
const AS_LINKS: &str = "links are compared as links between machines, but for operands";
const LISTED: &str = "files are compared with a list where they are: run hugecp --check --manifest FILE there, \
                      in the directory that its names begin at";
const LOCAL: &str = "if it is a file of this machine, write ./ before it";

/// What is not done between machines.
fn refuse(options: &Options) -> Result<(), UsageError> {
    let trees = &options.trees;
    for (given, option) in [
        (options.in_place, "--in-place"),
        (options.capabilities, "--capabilities"),
        (options.engine != crate::copy::options::EngineChoice::Auto, "--engine"),
        (options.reflink == crate::copy::options::When::Always, "--reflink"),
        (trees.shard.is_some(), "--shard"),
    ] {
        if given {
            return Err(UsageError::NotBetweenMachines(option));
        }
    }
    if options.check && trees.dereference {
        return Err(UsageError::Conflict("--check", "-L", AS_LINKS));
    }
    if options.check && options.manifest.is_some() {
        return Err(UsageError::Conflict("--check", "--manifest", LISTED));
    }
    for (given, option) in
        [(trees.files_from.is_some(), "--files-from"), (trees.parents, "--parents")]
    {
        if options.check && given {
            return Err(UsageError::Conflict("--check", option, WHOLE));
        }
    }
    Ok(())
}

// What goes in one message is always small for whoever copies trees here as well.
const _: () = assert!((super::protocol::SMALL_MAX as u64) < SMALL_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(line: &str) -> Result<Option<Wanted>, UsageError> {
        Wanted::new(&Options::read(line.split_whitespace()).unwrap())
    }

    #[test]
    fn hosts_are_told_from_paths() {
        for (operand, host, path) in [
            ("h:a", "h", "a"),
            ("u@h:/a:b", "u@h", "/a:b"),
            ("h:", "h", ""),
            ("[::1]:a", "[::1]", "a"),
            ("u@[::1]:a", "u@[::1]", "a"),
            ("h:x@[1]", "h", "x@[1]"),
            ("u@h:z@[1]:b", "u@h", "z@[1]:b"),
        ] {
            assert_eq!(
                split(Path::new(operand)),
                Some((host.to_owned(), path.into())),
                "{operand}"
            );
        }
        for operand in ["a", "./h:a", "/h:a", "a/b:c", ":a", "[::1", ""] {
            assert_eq!(split(Path::new(operand)), None, "{operand}");
        }
    }

    #[test]
    fn either_end_may_be_elsewhere() {
        let push = wanted("hugecp -a --streams 3 a b h:c").unwrap().unwrap();
        assert_eq!((push.direction, push.host.as_str()), (Direction::Push, "h"));
        assert_eq!(push.sources, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(push.target, Target { path: "c".into(), onto: Onto::Into });
        assert_eq!((push.task.lanes, push.rsh), (3, vec![OsString::from("ssh")]));
        let pull = wanted("hugecp --rsh x\u{20}y h:a h:b .");
        assert!(pull.is_err() || pull.unwrap().is_some());
        let pull = wanted("hugecp h:a b").unwrap().unwrap();
        assert_eq!((pull.direction, pull.sources), (Direction::Pull, vec![PathBuf::from("a")]));
        assert_eq!(pull.target, Target { path: "b".into(), onto: Onto::Either });
        let into = wanted("hugecp -t h:d a").unwrap().unwrap();
        assert_eq!(into.target, Target { path: "d".into(), onto: Onto::Into });
        assert!(wanted("hugecp a b").unwrap().is_none());
        let check = wanted("hugecp --check -p a h:b").unwrap().unwrap();
        assert!(check.task.check && check.task.wishes.recursive && check.task.settings.preserve);
        assert_eq!(check.target, Target { path: "b".into(), onto: Onto::Exactly });
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (line, part) in [
            ("hugecp h:a i:b", "both ends"),
            ("hugecp h:a i:b c", "several machines"),
            ("hugecp h:a b c", "several machines"),
            ("hugecp - h:a", "\"-\""),
            ("hugecp --in-place a h:b", "--in-place"),
            ("hugecp -r --shard 1/2 a h:b", "--shard"),
            ("hugecp --check --files-from l a h:b", "--files-from exclude each other"),
            ("hugecp -r --delete --files-from l a h:b", "--delete needs one SRC"),
            ("hugecp --files-from l a c h:b", "--files-from needs one SRC"),
            ("hugecp -r --delete a c h:b", "--delete needs one SRC"),
            ("hugecp --check --parents a h:b", "--parents exclude each other"),
            ("hugecp -r --parents --delete a h:b", "--delete needs one SRC"),
            ("hugecp --check --manifest m a h:b", "--manifest FILE there"),
            ("hugecp --check -L a h:b", "-L exclude each other"),
            ("hugecp --check a c h:b", "--check compares one"),
        ] {
            let error = wanted(line).unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
