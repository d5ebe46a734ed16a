//! Which engines to try, in which order, and why not the others: a pure function of the facts.
//!
//! The aim: never slower than `cp` without saying so, and no page cache spent on a copy that does
//! not profit from it.

use serde::Serialize;

use super::engine::{EngineName, Kind, Sparse};
use super::probe::FileSystem;

/// Below this, setting up buffers costs more than they save: through the page cache.
pub const SMALL_BYTES: u64 = 8 << 20;

/// From this share of a source in the page cache on, memory is the faster place to read it from.
pub const MOSTLY_CACHED: f64 = 0.5;

/// What the system said about one side of a copy.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SideFacts {
    /// What it is.
    pub kind: Kind,
    /// The file system of a regular file, where the system tells.
    pub file_system: Option<FileSystem>,
}

impl SideFacts {
    /// Whether there is no device behind it.
    fn is_memory(&self) -> bool {
        self.kind == Kind::Regular && self.file_system.is_some_and(FileSystem::is_memory)
    }

    /// Whether a server holds it, who could copy without sending the bytes here and back.
    fn is_remote(&self) -> bool {
        /// Magic numbers of linux/magic.h: Ceph, SMB2, CIFS, SMB.
        const REMOTE: [u64; 4] = [0x00c3_6400, 0xfe53_4d42, 0xff53_4d42, 0x517b];
        match self.file_system {
            Some(FileSystem::Nfs | FileSystem::Fuse) => true,
            Some(FileSystem::Other(magic)) => REMOTE.contains(&magic),
            _ => false,
        }
    }
}

/// What the choice depends on, as far as the system knows it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Facts {
    /// Where from.
    pub source: SideFacts,
    /// Where to.
    pub target: SideFacts,
    /// Length of the source in bytes; `None` where only its end tells.
    pub len: Option<u64>,
    /// Bytes of data within that length; the rest are holes.
    pub data_bytes: u64,
    /// How much of the source is in the page cache, 0 to 1, where the system tells.
    pub cached: Option<f64>,
}

/// What the choice depends on, as far as the user said it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wishes {
    /// This engine and no other.
    pub engine: Option<EngineName>,
    /// Whether blocks may be shared.
    pub reflink: bool,
    /// Holes.
    pub sparse: Sparse,
    /// Compare checksums afterwards.
    pub verify: bool,
    /// Make durable.
    pub fsync: bool,
    /// Leave the page cache alone even where a copy could go there first: other files are waiting
    /// for it.
    pub spare_cache: bool,
    /// Keep a journal of what was copied.
    pub resume: bool,
}

#[cfg(test)]
impl Wishes {
    /// Those of a command line without options.
    pub const NONE: Self = Self {
        engine: None,
        reflink: true,
        sparse: Sparse::Auto,
        verify: false,
        fsync: false,
        spare_cache: false,
        resume: false,
    };
}

/// An engine that does not run, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Skipped {
    /// Which one.
    pub engine: EngineName,
    /// Why not.
    pub why: String,
}

/// An engine to try, and why it stands where it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Which one.
    pub engine: EngineName,
    /// What speaks for it, for when it runs.
    pub pro: &'static str,
    /// What speaks against it, for when an earlier one that copies runs.
    pub con: &'static str,
}

/// Engines in the order in which to try them, and those not to try.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// The first that is possible runs.
    pub steps: Vec<Step>,
    /// Not possible, or not wanted.
    pub skipped: Vec<Skipped>,
}

impl Plan {
    /// Why the steps after the one at `ran` were not needed.
    pub fn passed_over(&self, ran: usize) -> impl Iterator<Item = Skipped> {
        let by_itself =
            |step: &&Step| matches!(step.engine, EngineName::Reflink | EngineName::DeviceCopy);
        let nothing_to_copy = self.steps.get(ran).filter(by_itself);
        self.steps.iter().skip(ran + 1).map(move |step| Skipped {
            engine: step.engine,
            why: nothing_to_copy.map_or(step.con, |first| first.pro).to_owned(),
        })
    }
}

const ALL: [EngineName; 5] = [
    EngineName::Reflink,
    EngineName::CopyRange,
    EngineName::DeviceCopy,
    EngineName::Direct,
    EngineName::Buffered,
];

/// Decides.
pub fn plan(facts: &Facts, wishes: &Wishes) -> Plan {
    let mut plan = Plan::default();
    for engine in ALL {
        let why = match wishes.engine {
            Some(wanted) if wanted != engine => Some(format!("{wanted} was asked for")),
            _ => impossible(engine, facts, wishes).map(str::to_owned),
        };
        if let Some(why) = why {
            plan.skipped.push(Skipped { engine, why });
        }
    }
    let possible = |step: &Step| plan.skipped.iter().all(|skipped| skipped.engine != step.engine);
    plan.steps = match wishes.engine {
        Some(engine) => vec![Step { engine, pro: "it was asked for", con: "" }],
        None => preference(facts, wishes),
    };
    plan.steps.retain(possible);
    plan
}

const NOT_HERE: &str = "--verify: the bytes do not pass through here, so nothing can be compared";

/// Why `engine` cannot do this, as far as that is known without trying.
fn impossible(engine: EngineName, facts: &Facts, wishes: &Wishes) -> Option<&'static str> {
    let (source, target) = (&facts.source, &facts.target);
    let files = source.kind == Kind::Regular && target.kind == Kind::Regular;
    let devices = source.kind == Kind::BlockDevice && target.kind == Kind::BlockDevice;
    let streams = source.kind == Kind::Stream || target.kind == Kind::Stream;
    let in_order = streams || facts.len.is_none();
    let apart = match (source.file_system, target.file_system) {
        (Some(one), Some(other)) => one != other,
        _ => false,
    };
    match engine {
        EngineName::Buffered => None,
        EngineName::Direct if in_order => Some("a stream is read and written in order"),
        EngineName::Direct if source.is_memory() && target.is_memory() => {
            Some("there is no device on either side")
        }
        EngineName::Direct => None,
        EngineName::DeviceCopy if !devices => Some("only block devices are copied by their drive"),
        EngineName::DeviceCopy if !wishes.reflink => {
            Some("--reflink=never, and the drive might share blocks")
        }
        EngineName::DeviceCopy if wishes.verify => Some(NOT_HERE),
        EngineName::DeviceCopy => None,
        _ if !files => Some("only regular files can share or exchange blocks"),
        _ if facts.len.is_none() => Some("the length of the source is not known"),
        _ if !wishes.reflink && engine == EngineName::Reflink => Some("--reflink=never"),
        _ if !wishes.reflink => Some("--reflink=never, and the kernel might share blocks"),
        _ if wishes.verify => Some(NOT_HERE),
        EngineName::CopyRange if wishes.resume => {
            Some("--resume: the bytes do not pass through here, so there are no checksums of them")
        }
        EngineName::Reflink if wishes.sparse != Sparse::Auto => {
            Some("--sparse: shared blocks are as sparse as the source's")
        }
        EngineName::Reflink if apart => Some("the files are on different file systems"),
        EngineName::Reflink if source.is_memory() => Some("files in memory share no blocks"),
        EngineName::Reflink => None,
        EngineName::CopyRange if wishes.sparse == Sparse::Always => {
            Some("--sparse=always: the kernel does not look for zeros")
        }
        EngineName::CopyRange => None,
    }
}

/// The engines from the best to the worst for these facts, whether possible or not.
fn preference(facts: &Facts, wishes: &Wishes) -> Vec<Step> {
    let pro = "the drive copies by itself, and the bytes do not come here";
    let mut steps = vec![Step { engine: EngineName::DeviceCopy, pro, con: "" }];
    steps.extend(through_here(facts, wishes));
    steps
}

/// The same for engines of the kernel and of ours.
fn through_here(facts: &Facts, wishes: &Wishes) -> [Step; 4] {
    let reflink =
        Step { engine: EngineName::Reflink, pro: "sharing blocks copies nothing", con: "" };
    let copy_range = |pro| Step {
        engine: EngineName::CopyRange,
        pro,
        con: "on one machine it is the page cache again, in one thread",
    };
    let direct = |pro, con| Step { engine: EngineName::Direct, pro, con };
    let buffered = |pro, con| Step { engine: EngineName::Buffered, pro, con };
    let cached = facts.cached.is_some_and(|fraction| fraction >= MOSTLY_CACHED);

    if facts.source.is_remote() && facts.source.file_system == facts.target.file_system {
        let pro = "the server may copy by itself";
        let con = "copying where the data lies comes first";
        [reflink, copy_range(pro), direct("past the page cache", con), buffered("the rest", con)]
    } else if facts.source.kind == Kind::Stream || facts.target.kind == Kind::Stream {
        let pro = "a stream is read and written in order";
        [reflink, buffered(pro, ""), direct("", pro), copy_range("")]
    } else if facts.data_bytes < SMALL_BYTES {
        let con = "not worth its buffers for so few bytes";
        [reflink, buffered("the file is small", ""), direct("", con), copy_range("")]
    } else if facts.target.is_memory() {
        let con = "the target is memory itself";
        [reflink, buffered("the target is in memory", ""), direct("", con), copy_range("")]
    } else if (cached || facts.source.is_memory()) && !wishes.fsync && !wishes.spare_cache {
        let pro = "the source is in memory, and so the copy may be at first";
        let con = "the source is in memory, and writing to the device would wait for it";
        [reflink, buffered(pro, ""), direct("", con), copy_range("")]
    } else {
        let pro = if wishes.fsync && cached {
            "the copy must reach the device anyway, and need not stay in memory"
        } else if cached {
            "the page cache is left to the other files of the tree"
        } else {
            "the file is large and not in the page cache, and need not go there"
        };
        let con = "it would fill the page cache with the source and the target";
        [reflink, direct(pro, ""), buffered("through the page cache", con), copy_range("")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use EngineName::{Buffered, CopyRange, DeviceCopy, Direct, Reflink};

    fn on(file_system: FileSystem) -> SideFacts {
        SideFacts { kind: Kind::Regular, file_system: Some(file_system) }
    }

    fn facts(source: SideFacts, target: SideFacts) -> Facts {
        Facts { source, target, len: Some(6 << 30), data_bytes: 6 << 30, cached: Some(0.0) }
    }

    fn order(facts: &Facts, wishes: &Wishes) -> Vec<EngineName> {
        plan(facts, wishes).steps.iter().map(|step| step.engine).collect()
    }

    fn why(plan: &Plan, engine: EngineName) -> &str {
        &plan.skipped.iter().find(|skipped| skipped.engine == engine).unwrap().why
    }

    const EXT4: FileSystem = FileSystem::Ext4;
    const TMPFS: FileSystem = FileSystem::Tmpfs;

    #[test]
    fn sharing_blocks_comes_first_where_it_could_be() {
        assert_eq!(
            order(&facts(on(EXT4), on(EXT4)), &Wishes::NONE),
            [Reflink, Direct, Buffered, CopyRange]
        );
        let apart = plan(&facts(on(EXT4), on(FileSystem::Xfs)), &Wishes::NONE);
        assert_eq!(why(&apart, Reflink), "the files are on different file systems");
    }

    #[test]
    fn a_cold_file_goes_past_the_page_cache_and_a_hot_one_does_not() {
        let cold = facts(on(EXT4), on(EXT4));
        assert_eq!(order(&cold, &Wishes { reflink: false, ..Wishes::NONE }), [Direct, Buffered]);
        let hot = Facts { cached: Some(0.9), ..cold };
        assert_eq!(order(&hot, &Wishes::NONE)[..2], [Reflink, Buffered]);
        assert_eq!(order(&hot, &Wishes { fsync: true, ..Wishes::NONE })[..2], [Reflink, Direct]);
        assert_eq!(
            order(&hot, &Wishes { spare_cache: true, ..Wishes::NONE })[..2],
            [Reflink, Direct]
        );
        let unknown = Facts { cached: None, ..cold };
        assert_eq!(order(&unknown, &Wishes::NONE)[1], Direct);
    }

    #[test]
    fn memory_and_small_files_are_for_the_page_cache() {
        let shm = facts(on(EXT4), on(TMPFS));
        assert_eq!(order(&shm, &Wishes::NONE)[0], Buffered);
        let small = Facts { data_bytes: 1 << 20, ..facts(on(EXT4), on(EXT4)) };
        assert_eq!(order(&small, &Wishes::NONE)[..2], [Reflink, Buffered]);
        let both = plan(&facts(on(TMPFS), on(TMPFS)), &Wishes::NONE);
        assert_eq!(why(&both, Direct), "there is no device on either side");
    }

    #[test]
    fn a_sparse_file_of_little_data_is_small() {
        let sparse = Facts { data_bytes: 4096, ..facts(on(EXT4), on(EXT4)) };
        assert_eq!(order(&sparse, &Wishes::NONE)[1], Buffered);
    }

    #[test]
    fn streams_have_one_way() {
        let pipe = SideFacts { kind: Kind::Stream, file_system: None };
        let from = Facts { len: None, data_bytes: 0, ..facts(pipe, on(EXT4)) };
        assert_eq!(order(&from, &Wishes::NONE), [Buffered]);
        assert_eq!(order(&facts(on(EXT4), pipe), &Wishes::NONE), [Buffered]);
        let guessed = Facts { len: None, data_bytes: 0, ..facts(on(EXT4), on(EXT4)) };
        assert_eq!(order(&guessed, &Wishes::NONE), [Buffered]);
    }

    #[test]
    fn devices_have_no_blocks_to_share() {
        let device = SideFacts { kind: Kind::BlockDevice, file_system: None };
        assert_eq!(order(&facts(on(EXT4), device), &Wishes::NONE), [Direct, Buffered]);
    }

    #[test]
    fn a_drive_is_asked_before_the_bytes_come_here() {
        let device = SideFacts { kind: Kind::BlockDevice, file_system: None };
        let both = facts(device, device);
        assert_eq!(order(&both, &Wishes::NONE), [DeviceCopy, Direct, Buffered]);
        let small = Facts { data_bytes: 4096, ..both };
        assert_eq!(order(&small, &Wishes::NONE), [DeviceCopy, Buffered, Direct]);
        let ran = plan(&both, &Wishes::NONE).passed_over(0).next().unwrap();
        assert!(ran.why.contains("by itself"), "{ran:?}");
        let verify = Wishes { verify: true, ..Wishes::NONE };
        assert_eq!(order(&both, &verify), [Direct, Buffered]);
        let apart = Wishes { reflink: false, ..Wishes::NONE };
        assert_eq!(order(&both, &apart), [Direct, Buffered]);
        let file = plan(&facts(device, on(EXT4)), &Wishes::NONE);
        assert_eq!(why(&file, DeviceCopy), "only block devices are copied by their drive");
    }

    #[test]
    fn a_server_is_asked_before_the_bytes_travel() {
        let nfs = facts(on(FileSystem::Nfs), on(FileSystem::Nfs));
        assert_eq!(order(&nfs, &Wishes::NONE), [Reflink, CopyRange, Direct, Buffered]);
        let down = facts(on(FileSystem::Nfs), on(EXT4));
        assert_eq!(order(&down, &Wishes::NONE)[0], Direct);
    }

    #[test]
    fn what_is_to_be_verified_must_pass_through_here() {
        let verify = Wishes { verify: true, ..Wishes::NONE };
        assert_eq!(order(&facts(on(EXT4), on(EXT4)), &verify), [Direct, Buffered]);
    }

    #[test]
    fn every_engine_is_a_step_or_has_a_reason() {
        let pipe = SideFacts { kind: Kind::Stream, file_system: None };
        for source in [on(EXT4), on(TMPFS), on(FileSystem::Nfs), pipe] {
            for engine in ALL.map(Some).into_iter().chain([None]) {
                for (verify, reflink) in [(false, false), (false, true), (true, true)] {
                    let wishes = Wishes { engine, verify, reflink, ..Wishes::NONE };
                    let plan = plan(&facts(source, on(EXT4)), &wishes);
                    for engine in ALL {
                        let steps = plan.steps.iter().filter(|s| s.engine == engine).count();
                        let skips = plan.skipped.iter().filter(|s| s.engine == engine).count();
                        assert_eq!(steps + skips, 1, "{engine} in {plan:?}");
                    }
                    assert!(plan.skipped.iter().all(|skipped| !skipped.why.is_empty()));
                    // Whatever is passed over for an earlier step can say why.
                    for ran in 0..plan.steps.len() {
                        let mut passed = plan.passed_over(ran);
                        assert!(passed.all(|skipped| !skipped.why.is_empty()), "{ran}: {plan:?}");
                    }
                    // Nothing but a forced engine can leave us without a way.
                    assert!(!plan.steps.is_empty() || engine.is_some());
                }
            }
        }
    }

    #[test]
    fn a_forced_engine_that_cannot_has_a_reason() {
        let wishes = Wishes { engine: Some(CopyRange), sparse: Sparse::Always, ..Wishes::NONE };
        let plan = plan(&facts(on(EXT4), on(EXT4)), &wishes);
        assert!(plan.steps.is_empty());
        assert!(why(&plan, CopyRange).contains("--sparse=always"));
        assert_eq!(why(&plan, Buffered), "copy-range was asked for");
    }
}
