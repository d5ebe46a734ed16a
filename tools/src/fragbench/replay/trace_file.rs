//! Reads recordings (the format is `bookend::heap::recording`'s) into what each process did.
//!
//! Threads' events are put together by time. What a process freed that it had not allocated (its parent
//! had, before a fork; or the heap's first allocation) is counted and left out; what it allocates where
//! something still stands ends that first, which happens where events were lost.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use bookend::heap::recording::{Event, Events, HEADER_BYTES, Header, Kind, Malformed};
use bookend::units::Bytes;

use crate::fragbench::memory;

/// Why a recording cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file.
    #[error("cannot read {path:?}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// What is in it.
    #[error("{path:?} is no recording, or a damaged one: at byte {at}: {malformed}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Where the chunk begins.
        at: usize,
        /// What is wrong.
        malformed: Malformed,
    },
    /// Nothing is in it.
    #[error(
        "{0:?} has no events: the program did not use the recording library (a static program, or one \
         with an allocator of its own), or did nothing"
    )]
    Empty(PathBuf),
    /// It would not fit.
    #[error("{path:?} takes some {needed} of memory to replay, and {available} are available here")]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// What it takes.
        needed: Bytes,
        /// What there is.
        available: Bytes,
    },
}

/// One step of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// An object of so many bytes begins. Its number is less than [`Process::objects`]; numbers of those
    /// that have ended come again.
    Make(u32, u64),
    /// It ends.
    End(u32),
}

/// What a process did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Process {
    /// Its program's name.
    pub program: String,
    /// Its number.
    pub number: u32,
    /// When its recording began.
    pub began_ns: u64,
    /// When its last event was.
    pub ended_ns: u64,
    /// In the order of time.
    pub steps: Vec<Step>,
    /// When each was.
    pub times_ns: Vec<u64>,
    /// Numbers of objects.
    pub objects: u32,
    /// Most bytes that lived.
    pub peak: u64,
    /// Bytes that it allocated in all.
    pub bytes: u64,
    /// Threads' heaps.
    pub threads: u32,
    /// Frees of what it had not allocated.
    pub unknown: u64,
    /// Events that were lost.
    pub lost: u64,
}

/// Memory that a byte of a recording takes when it is replayed: an event is some 5 bytes, and 56 then.
const EXPANSION: u64 = 12;

/// Reads a file.
///
/// # Errors
/// [`ReadError`].
pub fn read(path: &Path) -> Result<Vec<Process>, ReadError> {
    let unread = |cause| ReadError::File { path: path.to_owned(), cause };
    let len = path.metadata().map_err(unread)?.len();
    let needed = Bytes::new(len.saturating_mul(EXPANSION));
    if let Some(available) = memory::available()
        && needed > available
    {
        return Err(ReadError::TooLarge { path: path.to_owned(), needed, available });
    }
    let file = std::fs::read(path).map_err(unread)?;
    let processes = parse(&file).map_err(|(at, malformed)| ReadError::Malformed {
        path: path.to_owned(),
        at,
        malformed,
    })?;
    if processes.iter().all(|process| process.steps.is_empty()) {
        return Err(ReadError::Empty(path.to_owned()));
    }
    Ok(processes)
}

/// A chunk's header, where it stands and its bytes that are used.
pub type Chunk<'a> = (usize, Header, &'a [u8]);

/// The chunks of a recording; ends after an error, which says where.
pub fn chunks(file: &[u8]) -> impl Iterator<Item = Result<Chunk<'_>, (usize, Malformed)>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let left = file.get(at..).filter(|left| !left.is_empty())?;
        let start = at;
        match Header::read(left) {
            Ok(header) => {
                at += HEADER_BYTES + header.room as usize;
                let used = &left[HEADER_BYTES..HEADER_BYTES + header.used as usize];
                Some(Ok((start, header, used)))
            }
            Err(malformed) => {
                at = file.len();
                Some(Err((start, malformed)))
            }
        }
    })
}

/// Reads a recording; processes in the order in which they began.
///
/// # Errors
/// What is wrong with the chunk at which byte.
pub fn parse(file: &[u8]) -> Result<Vec<Process>, (usize, Malformed)> {
    let mut all: BTreeMap<(u64, u32), Gathered> = BTreeMap::new();
    for chunk in chunks(file) {
        let (at, header, used) = chunk?;
        let gathered = all.entry((header.began_ns, header.process)).or_default();
        gathered.program = header.program;
        gathered.lost += u64::from(header.lost);
        *gathered.threads.entry(header.thread).or_default() += 1;
        for event in Events::new(&header, used) {
            gathered.events.push(event.map_err(|malformed| (at, malformed))?);
        }
    }
    Ok(all.into_iter().map(|((began_ns, number), g)| g.process(began_ns, number)).collect())
}

#[derive(Default)]
struct Gathered {
    program: [u8; 16],
    events: Vec<Event>,
    threads: HashMap<u32, u32>,
    lost: u64,
}

impl Gathered {
    fn process(mut self, began_ns: u64, number: u32) -> Process {
        // Stable: a thread's events stay in their order.
        self.events.sort_by_key(|event| event.time_ns);
        let name = self.program.split(|&byte| byte == 0).next().unwrap_or_default();
        let mut process = Process {
            program: String::from_utf8_lossy(name).into_owned(),
            number,
            began_ns,
            ended_ns: self.events.last().map_or(began_ns, |event| event.time_ns),
            threads: self.threads.len() as u32,
            lost: self.lost,
            ..Process::default()
        };
        let mut living: HashMap<u64, (u32, u64)> = HashMap::new();
        let mut unused = Vec::new();
        let mut live = 0;
        for event in self.events {
            if let Some((object, bytes)) = living.remove(&event.address) {
                live -= bytes;
                unused.push(object);
                process.step(Step::End(object), event.time_ns);
            } else if event.kind == Kind::Freed {
                process.unknown += 1;
            }
            if let Kind::Allocated(bytes) = event.kind {
                let bytes = bytes.min(SIZE_MAX);
                let object = unused.pop().unwrap_or_else(|| {
                    process.objects += 1;
                    process.objects - 1
                });
                living.insert(event.address, (object, bytes));
                live += bytes;
                process.peak = process.peak.max(live);
                process.bytes = process.bytes.saturating_add(bytes);
                process.step(Step::Make(object, bytes), event.time_ns);
            }
        }
        process
    }
}

/// No allocation is longer; so that sums of as many as there may be fit.
const SIZE_MAX: u64 = 1 << 40;

impl Process {
    fn step(&mut self, step: Step, time_ns: u64) {
        self.steps.push(step);
        self.times_ns.push(time_ns);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use bookend::heap::recording::{Before, EVENT_BYTES_MAX};
    use proptest::prelude::*;

    /// A chunk of events: time, address, and the size of an allocation.
    pub fn chunk(process: u32, thread: u32, events: &[(u64, u64, Option<u64>)]) -> Vec<u8> {
        let mut payload = Vec::new();
        let mut before = Before::new(0);
        for &(time_ns, address, size) in events {
            let kind = size.map_or(Kind::Freed, Kind::Allocated);
            let mut place = [0; EVENT_BYTES_MAX];
            let len = before.write(Event { time_ns, address, kind }, &mut place);
            payload.extend_from_slice(&place[..len]);
        }
        let header = Header {
            room: payload.len() as u32 + 7,
            used: payload.len() as u32,
            process,
            thread,
            began_ns: 5,
            base_ns: 0,
            lost: 1,
            program: *b"made up\0\0\0\0\0\0\0\0\0",
        };
        let mut file = header.to_bytes().to_vec();
        file.extend_from_slice(&payload);
        file.extend_from_slice(&[0xee; 7]); // room that is not used
        file
    }

    #[test]
    fn threads_are_put_together_by_time_and_processes_kept_apart() {
        let file = [
            chunk(1, 1, &[(10, 0x100, Some(64)), (40, 0x100, Some(32))]),
            chunk(2, 1, &[(11, 0x100, None), (12, 0x200, Some(8)), (13, 0x200, Some(9))]),
            chunk(1, 2, &[(20, 0x200, Some(100)), (30, 0x100, None)]),
        ]
        .concat();
        let processes = parse(&file).unwrap();
        use Step::{End, Make};
        let one = &processes[0];
        assert_eq!(one.steps, [Make(0, 64), Make(1, 100), End(0), Make(0, 32)]);
        assert_eq!((one.peak, one.bytes, one.threads, one.lost), (164, 196, 2, 2));
        assert_eq!((one.program.as_str(), one.number, one.ended_ns), ("made up", 1, 40));
        let two = &processes[1];
        assert_eq!(two.steps, [Make(0, 8), End(0), Make(0, 9)], "an address is given out once");
        assert_eq!(two.unknown, 1);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let good = chunk(1, 1, &[(10, 0x100, Some(64))]);
        let mut file = [good.clone(), b"rubbish and more of it".to_vec()].concat();
        assert_eq!(parse(&file), Err((good.len(), Malformed::Magic)));
        file.truncate(good.len() - 1);
        assert_eq!(parse(&file), Err((0, Malformed::Short)));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a recording");
        std::fs::write(&path, &file).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("a recording") && error.contains("byte 0"), "{error}");
        std::fs::write(&path, b"").unwrap();
        assert!(matches!(read(&path), Err(ReadError::Empty(_))));
        assert!(matches!(read(directory.path()), Err(ReadError::File { .. })));
    }

    proptest! {
        /// Whatever is done to a recording: an answer, and each object begins and ends by turns.
        #[test]
        fn damage_is_survived(
            at in 0usize..400, byte in any::<u8>(), cut in 0usize..400,
            events in prop::collection::vec((0u64..1000, 0u64..64, prop::option::of(0u64..1 << 62)), 0..30),
        ) {
            let events: Vec<_> = events.into_iter().map(|(t, a, s)| (t, a * 16, s)).collect();
            let mut file = [chunk(1, 1, &events), chunk(1, 2, &events)].concat();
            if let Some(place) = file.get_mut(at) {
                *place = byte;
            }
            file.truncate(file.len().saturating_sub(cut.saturating_sub(300)));
            let Ok(processes) = parse(&file) else { return Ok(()) };
            for process in processes {
                let mut living = vec![false; process.objects as usize];
                for step in process.steps {
                    let (object, begins) = match step {
                        Step::Make(object, _) => (object, true),
                        Step::End(object) => (object, false),
                    };
                    prop_assert_eq!(living[object as usize], !begins);
                    living[object as usize] = begins;
                }
            }
        }
    }
}
