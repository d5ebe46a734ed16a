//! What is to be done, as both ends understand it: from the command line to the request that goes over
//! the wire, and from there to what the copier goes by.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bookend::units::Bytes;

use super::protocol::{Naming, Onto, PathText, Request, RuleText};
use super::transport::congestion::{Congestion, NoName};
use crate::copy::engine::{Sparse, Tuning};
use crate::copy::plan;
use crate::copy::request::{Conflict, Destination, Endpoint, Settings};
use crate::copy::tree::filter::{Rule, Rules, Verdict};
use crate::copy::tree::wishes::{Follow, Wishes};

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Task {
    /// How files are copied.
    pub settings: Settings,
    /// How trees are.
    pub wishes: Wishes,
    /// Bytes of pieces go as they are.
    pub plain: bool,
    /// Data lanes.
    pub lanes: u32,
    /// Bytes of pieces go over RDMA where they can.
    pub rdma: bool,
    /// Which congestion control the end that sends has on its connections.
    pub congestion: Congestion,
    /// Compare with what is there, and write nothing.
    pub check: bool,
    /// How what is to be copied is named.
    pub naming: Naming,
    /// Tell the checksum of every regular file that was copied.
    pub sums: bool,
}

/// Where copies go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The path.
    pub path: PathBuf,
    /// What it may be.
    pub onto: Onto,
}

impl Target {
    /// What a command line says; standard output is none.
    pub fn of(destination: &Destination) -> Option<Self> {
        let (path, onto) = match destination {
            Destination::Into(path) => (path, Onto::Into),
            Destination::Either(path) => (path, Onto::Either),
            Destination::Exactly(Endpoint::Path(path)) => (path, Onto::Exactly),
            Destination::Exactly(Endpoint::Standard) => return None,
        };
        Some(Self { path: path.clone(), onto })
    }
}

/// Bytes of a path.
pub fn text(path: &Path) -> PathText {
    PathText(path.as_os_str().as_bytes().to_vec())
}

/// The path that came.
pub fn path(text: &PathText) -> &Path {
    Path::new(OsStr::from_bytes(&text.0))
}

/// The name that a copy of `source` has in a directory; `.` where what is in it goes there itself.
pub fn name_of(source: &Path) -> PathText {
    let bytes = source.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    let name = bytes[..end].rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    PathText(if matches!(name, b"" | b"..") { b".".to_vec() } else { name.to_vec() })
}

impl Task {
    /// Whether what is no regular file is copied as what it is.
    pub fn has_trees(&self) -> bool {
        self.wishes.recursive || self.naming != Naming::Operands
    }

    /// Whether files of the same length are compared by checksum: where they are not to be copied if they are equal, and
    /// their times do not tell.
    pub fn compares(&self) -> bool {
        let settings = &self.settings;
        self.check || settings.checksum || (settings.resume && !settings.preserve)
    }

    /// The request for it: `sources` are paths where the other end reads them.
    pub fn request(&self, push: bool, sources: &[PathBuf], target: &Target) -> Request {
        let (settings, wishes) = (&self.settings, &self.wishes);
        let operand = |source: &PathBuf| match push {
            true if self.naming != Naming::Operands => PathText(b".".to_vec()),
            true => name_of(source),
            false => text(source),
        };
        let rule = |(verdict, pattern): (Verdict, Vec<u8>)| RuleText {
            include: verdict == Verdict::Include,
            pattern: PathText(pattern),
        };
        Request {
            push,
            operands: sources.iter().map(operand).collect(),
            destination: if push { text(&target.path) } else { PathText::default() },
            onto: target.onto as u8,
            naming: self.naming as u8,
            recursive: wishes.recursive,
            follow: match wishes.follow {
                Follow::Never => 0,
                Follow::Operands => 1,
                Follow::Always => 2,
            },
            links: wishes.links,
            one_file_system: wishes.one_file_system,
            delete: wishes.delete,
            rules: wishes.rules.texts().into_iter().map(rule).collect(),
            preserve: settings.preserve,
            force: settings.force,
            conflict: match settings.conflict {
                Conflict::Replace => 0,
                Conflict::Leave => 1,
                Conflict::ReplaceOlder => 2,
            },
            resume: settings.resume,
            checksum: settings.checksum,
            fsync: settings.fsync,
            sums: self.sums,
            check: self.check,
            verify: settings.wishes.verify,
            sparse: match settings.tuning.sparse {
                Sparse::Auto => 0,
                Sparse::Always => 1,
                Sparse::Never => 2,
            },
            bwlimit: settings.tuning.bwlimit.unwrap_or(0),
            block_size: settings.tuning.block_size.unwrap_or(0),
            plain: self.plain,
            lanes: self.lanes,
            rdma: self.rdma,
            congestion: self.congestion.to_string(),
        }
    }

    /// What `request` asks for.
    ///
    /// # Errors
    /// A pattern that is none.
    pub fn of(request: &Request) -> Result<Self, String> {
        let rule = |rule: &RuleText| {
            let verdict = if rule.include { Verdict::Include } else { Verdict::Exclude };
            Rule::new(verdict, OsStr::from_bytes(&rule.pattern.0))
        };
        let sparse = match request.sparse {
            0 => Sparse::Auto,
            1 => Sparse::Always,
            _ => Sparse::Never,
        };
        let settings = Settings {
            conflict: match request.conflict {
                0 => Conflict::Replace,
                1 => Conflict::Leave,
                _ => Conflict::ReplaceOlder,
            },
            force: request.force,
            preserve: request.preserve,
            in_place: false,
            fsync: request.fsync,
            checksum: request.checksum,
            resume: request.resume,
            verbose: false,
            explain: false,
            json: false,
            wishes: plan::Wishes {
                engine: None,
                reflink: false,
                sparse,
                verify: request.verify,
                fsync: request.fsync,
                spare_cache: true,
                resume: true,
            },
            tuning: Tuning {
                block_size: Some(request.block_size).filter(|&bytes| bytes > 0),
                queue_depth: None,
                threads: None,
                buffer_memory: None,
                bwlimit: Some(request.bwlimit).filter(|&limit| limit > 0),
                sparse,
            },
        };
        let wishes = Wishes {
            recursive: request.recursive,
            follow: match request.follow {
                0 => Follow::Never,
                1 => Follow::Operands,
                _ => Follow::Always,
            },
            links: request.links,
            one_file_system: request.one_file_system,
            delete: request.delete,
            rules: Rules::new(request.rules.iter().map(rule).collect::<Result<_, _>>()?),
            shard: None,
            parents: false,
            files_from: None,
            from0: false,
        };
        let (plain, lanes, rdma) = (request.plain, request.lanes, request.rdma);
        let naming = Naming::of(request.naming).map_err(|error| error.to_string())?;
        let (check, sums) = (request.check, request.sums);
        let congestion = request.congestion.parse().map_err(|error: NoName| error.to_string())?;
        Ok(Self { settings, wishes, plain, lanes, rdma, congestion, check, naming, sums })
    }
}

/// Lanes where nobody says how many and the path takes no more: one for each processor, since each end has a thread for
/// each.
pub fn lanes() -> u32 {
    const ENOUGH: usize = 4;
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    processors.min(ENOUGH) as u32
}

/// Bytes of a piece that the processor copies: it is still in the cache nearest to it when it is hashed and copied on.
const NEAR_BYTES: u64 = 256 << 10;

/// Bytes of a piece, where nobody says how many: under a limit they are small, so that the flow is even.
pub fn piece_bytes(task: &Task) -> u64 {
    let most = super::protocol::PIECE_MAX as u64;
    let tuning = &task.settings.tuning;
    let usual = if task.rdma { most } else { NEAR_BYTES };
    let wanted = tuning.block_size.map_or(usual, |wanted| wanted.clamp(4096, most));
    crate::copy::limit::Limiter::new(tuning.bwlimit).request_size(wanted)
}

const _: () = assert!(Bytes::mib(1).get() == super::protocol::PIECE_MAX as u64);
