//! Two directories that `--check` compares with each other: they stay open as long as there is room, and are found again
//! from what they are in otherwise, for there may be more of them, one in the other, than descriptors.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::tree::context::lock;
use super::tree::directory::{Id, open_directory};

/// Both, open.
pub type Opened = [OwnedFd; 2];

/// The pairs that stay open: the newest, since what is in them comes next.
#[derive(Debug)]
pub struct Room {
    kept: Mutex<VecDeque<Weak<Pair>>>,
    most: usize,
    /// Whether symbolic links are followed.
    follow: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Pair {
    /// What it is in; none of the top, which stays open.
    above: Option<Arc<Pair>>,
    /// Its name there.
    name: CString,
    ids: [Id; 2],
    opened: Mutex<Option<Arc<Opened>>>,
    room: Arc<Room>,
    /// From the top.
    pub path: PathBuf,
}

/// Why a pair cannot be opened: which side, and what the system said.
pub type Failed = (usize, io::Error);

impl Room {
    /// For `most` pairs; links are followed if `follow`.
    pub fn new(most: usize, follow: bool) -> Arc<Self> {
        Arc::new(Self { kept: Mutex::default(), most, follow })
    }

    /// Takes note of a pair that is open, and closes the oldest where there are too many.
    fn keep(&self, pair: &Arc<Pair>) {
        let mut kept = lock(&self.kept);
        if kept.len() >= self.most {
            kept.retain(|kept| kept.strong_count() > 0);
        }
        if kept.len() >= self.most {
            // Half of them at once, so that most calls have nothing to do.
            for old in kept.drain(..self.most.div_ceil(2)).filter_map(|old| old.upgrade()) {
                *lock(&old.opened) = None;
            }
        }
        kept.push_back(Arc::downgrade(pair));
    }
}

impl Pair {
    /// The top.
    ///
    /// # Errors
    /// What the system says.
    pub fn top(opened: Opened, room: &Arc<Room>) -> io::Result<(Arc<Self>, Arc<Opened>)> {
        let ids = [id(&opened[0])?, id(&opened[1])?];
        let opened = Arc::new(opened);
        let pair = Self {
            above: None,
            name: c".".to_owned(),
            ids,
            opened: Mutex::new(Some(Arc::clone(&opened))),
            room: Arc::clone(room),
            path: PathBuf::new(),
        };
        Ok((Arc::new(pair), opened))
    }

    /// What is called `name` in this one, at `path` from the top, open at least as long as the second is kept.
    ///
    /// # Errors
    /// [`Failed`].
    pub fn enter(
        self: &Arc<Self>,
        name: CString,
        path: PathBuf,
    ) -> Result<(Arc<Self>, Arc<Opened>), Failed> {
        let opened = self.step(&*self.open()?, &name)?;
        let ids = [
            id(&opened[0]).map_err(|error| (0, error))?,
            id(&opened[1]).map_err(|error| (1, error))?,
        ];
        let opened = Arc::new(opened);
        let entered = Arc::new(Self {
            above: Some(Arc::clone(self)),
            name,
            ids,
            opened: Mutex::new(Some(Arc::clone(&opened))),
            room: Arc::clone(&self.room),
            path,
        });
        self.room.keep(&entered);
        Ok((entered, opened))
    }

    /// One name further.
    fn step(&self, at: &Opened, name: &CString) -> Result<Opened, Failed> {
        let open = |side: usize| {
            open_directory(&at[side], name, self.room.follow).map_err(|errno| (side, errno.into()))
        };
        Ok([open(0)?, open(1)?])
    }

    /// It, open.
    ///
    /// # Errors
    /// [`Failed`]; `ESTALE` where something else has its path by now.
    pub fn open(self: &Arc<Self>) -> Result<Arc<Opened>, Failed> {
        let mut closed = Vec::new();
        let mut at = self;
        let mut opened = loop {
            let open = lock(&at.opened).clone();
            match (open, &at.above) {
                (Some(opened), _) => break opened,
                (None, Some(above)) => {
                    closed.push(at);
                    at = above;
                }
                (None, None) => return Err((0, Errno::ESTALE.into())), // the top stays open
            }
        };
        for pair in closed.into_iter().rev() {
            opened = Arc::new(self.step(&opened, &pair.name)?);
            for side in [0, 1] {
                let is = id(&opened[side]).map_err(|error| (side, error))?;
                if is != pair.ids[side] {
                    return Err((side, Errno::ESTALE.into()));
                }
            }
        }
        let mut at_hand = lock(&self.opened);
        if at_hand.is_none() {
            *at_hand = Some(Arc::clone(&opened));
            drop(at_hand);
            self.room.keep(self);
        }
        Ok(opened)
    }

    /// The path of the one above this in which this lies again, on the side of the source.
    pub fn loops(&self) -> Option<&PathBuf> {
        let mut above = self.above.as_ref();
        while let Some(pair) = above {
            if pair.ids[0] == self.ids[0] {
                return Some(&pair.path);
            }
            above = pair.above.as_ref();
        }
        None
    }
}

impl Drop for Pair {
    /// What it is in is dropped one after the other: a chain of them may be longer than the stack.
    fn drop(&mut self) {
        let mut next = self.above.take();
        while let Some(mut pair) = next.and_then(Arc::into_inner) {
            next = pair.above.take();
        }
    }
}

fn id(directory: &OwnedFd) -> io::Result<Id> {
    let stat = fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::path::Path;

    fn top(dir: &Path, room: &Arc<Room>) -> Arc<Pair> {
        let open = |name: &str| File::open(dir.join(name)).unwrap().into();
        Pair::top([open("a"), open("b")], room).unwrap().0
    }

    #[test]
    fn what_is_closed_is_found_again_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for side in ["a", "b"] {
            fs::create_dir_all(dir.path().join(side).join("x/y/z/w")).unwrap();
        }
        let room = Room::new(2, false);
        let top = top(dir.path(), &room);
        let enter = |pair: &Arc<Pair>, name: &str| {
            let path = pair.path.join(name);
            pair.enter(CString::new(name).unwrap(), path).unwrap().0
        };
        let x = enter(&top, "x");
        let y = enter(&x, "y");
        let z = enter(&y, "z");
        let is_open = |pair: &Pair| lock(&pair.opened).is_some();
        assert!(is_open(&top) && !is_open(&x) && is_open(&y) && is_open(&z), "the newest");
        let w = enter(&z, "w");
        assert!(is_open(&w) && !is_open(&y));
        assert_eq!(z.path, Path::new("x/y/z"));
        let opened = y.open().unwrap();
        assert_eq!([id(&opened[0]).unwrap(), id(&opened[1]).unwrap()], y.ids);
        assert!(z.loops().is_none());
        let close = || [&x, &y, &z, &w].into_iter().for_each(|pair| *lock(&pair.opened) = None);
        close();
        fs::rename(dir.path().join("b/x/y"), dir.path().join("b/x/old")).unwrap();
        let (side, error) = z.open().unwrap_err();
        assert_eq!((side, error.raw_os_error()), (1, Some(libc::ENOENT)));
        fs::create_dir_all(dir.path().join("b/x/y/z")).unwrap();
        close();
        let (side, error) = z.open().unwrap_err();
        assert_eq!((side, error.raw_os_error()), (1, Some(libc::ESTALE)));
    }

    #[test]
    fn links_that_lead_back_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        for side in ["a", "b"] {
            fs::create_dir_all(dir.path().join(side).join("x")).unwrap();
            std::os::unix::fs::symlink("..", dir.path().join(side).join("x/up")).unwrap();
        }
        let top = top(dir.path(), &Room::new(10, true));
        let x = top.enter(c"x".to_owned(), "x".into()).unwrap().0;
        let up = x.enter(c"up".to_owned(), "x/up".into()).unwrap().0;
        assert_eq!(up.loops(), Some(&PathBuf::new()));
        let not = Room::new(10, false);
        let top = self::top(dir.path(), &not);
        let x = top.enter(c"x".to_owned(), "x".into()).unwrap().0;
        assert!(x.enter(c"up".to_owned(), "x/up".into()).is_err());
    }
}
