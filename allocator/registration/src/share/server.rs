//! The side that owns.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bookend::os::Os;
use bookend::pool::{Pool, SharedPin};
use bookend::units::Bytes;

use super::message::{BYTES_MAX, Message, SharedDevice, SharedRegion};
use super::{ShareError, socket};
use crate::Region;
use crate::verbs::{Domain, Regions, import};

/// What is shared: a pool, and what of it is registered with a device. Clones are the same; the
/// registration lasts until the last one, and with it the last [`Guest`], is gone.
#[derive(Clone)]
pub struct Share<O: Os> {
    shared: Arc<Shared<O>>,
}

struct Shared<O: Os> {
    pool: Arc<Pool<O>>,
    registered: Option<Registered<O>>,
}

struct Registered<O: Os> {
    domain: Arc<Domain>,
    region: Region<Regions, SharedPin<Arc<Pool<O>>>>,
}

impl<O: Os> Share<O> {
    /// A pool that is registered with nothing. Workers can register it with their rings.
    ///
    /// # Errors
    /// [`ShareError::Private`].
    pub fn new(pool: Arc<Pool<O>>) -> Result<Self, ShareError> {
        Self::with(pool, None)
    }

    /// A pool and its registration in a protection domain.
    ///
    /// # Errors
    /// [`ShareError::Private`].
    pub fn registered(
        pool: Arc<Pool<O>>,
        domain: Arc<Domain>,
        region: Region<Regions, SharedPin<Arc<Pool<O>>>>,
    ) -> Result<Self, ShareError> {
        Self::with(pool, Some(Registered { domain, region }))
    }

    fn with(pool: Arc<Pool<O>>, registered: Option<Registered<O>>) -> Result<Self, ShareError> {
        if !pool.is_shareable() {
            return Err(ShareError::Private);
        }
        Ok(Self { shared: Arc::new(Shared { pool, registered }) })
    }

    /// How many hold it: this, its clones and the guests.
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.shared)
    }

    /// The message, and the descriptors that it names.
    fn message(&self) -> Result<(Message, Vec<BorrowedFd<'_>>), ShareError> {
        let (mut message, mut files) = (Message::default(), Vec::new());
        let mut rungs = Vec::new();
        for segment in self.shared.pool.segments() {
            let known = rungs.iter().position(|&rung| rung == segment.rung);
            let file = match known {
                Some(file) => file,
                None => {
                    files.push(self.shared.pool.file(segment.rung).ok_or(ShareError::Private)?);
                    rungs.push(segment.rung);
                    files.len() - 1
                }
            };
            message.segments.push((segment, file));
        }
        if let Some(Registered { domain, region }) = &self.shared.registered {
            let name = domain.device().name().to_owned();
            files.push(import::command_file(domain));
            message.device =
                Some(SharedDevice { name, file: files.len() - 1, domain: domain.handle() });
            let base = self.shared.pool.base().addr().get();
            let regions = region.registration().iter().map(|(piece, region)| SharedRegion {
                start: Bytes::of_len(piece.address() - base),
                len: piece.len,
                handle: region.handle(),
                lkey: region.lkey(),
                rkey: region.rkey(),
                address: piece.address() as u64,
            });
            message.regions.extend(regions);
        }
        Ok((message, files))
    }

    fn send(&self, to: BorrowedFd<'_>) -> Result<(), ShareError> {
        let (message, files) = self.message()?;
        let text = message.to_text();
        if text.len() > BYTES_MAX {
            return Err(ShareError::Message(format!(
                "{} pieces do not fit in a message: register larger ones",
                message.segments.len() + message.regions.len()
            )));
        }
        let failed = |cause| ShareError::Socket { operation: "pass the pool to a worker", cause };
        socket::send(to, text.as_bytes(), &files).map_err(failed)
    }
}

/// Who a worker is, as the kernel says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its process.
    pub process: i32,
    /// Its user.
    pub user: u32,
    /// Its group.
    pub group: u32,
}

/// A socket where workers come to. Its path is removed with it.
#[derive(Debug)]
pub struct Server {
    socket: OwnedFd,
    path: PathBuf,
}

impl Server {
    /// Listens at a path. Who may come is a matter of the path's permissions and its directory's.
    ///
    /// # Errors
    /// [`ShareError::Socket`]; a path that a killed server has left is in use, until it is removed.
    pub fn listen(path: impl AsRef<Path>) -> Result<Self, ShareError> {
        let path = path.as_ref().to_owned();
        let socket = socket::listen(&path)
            .map_err(|cause| ShareError::Socket { operation: "listen for workers", cause })?;
        Ok(Self { socket, path })
    }

    /// Waits for the next worker, asks `admit` who is told who it is, and passes it the share. `None` where
    /// it was not admitted, or was gone before it had everything.
    ///
    /// # Errors
    /// [`ShareError`] for what the next worker would meet as well.
    pub fn accept<O: Os>(
        &self,
        share: &Share<O>,
        admit: impl FnOnce(Peer) -> bool,
    ) -> Result<Option<Guest<O>>, ShareError> {
        let failed = |cause| ShareError::Socket { operation: "accept a worker", cause };
        let socket = socket::accept(self.socket.as_fd()).map_err(failed)?;
        let who = socket::peer(socket.as_fd()).map_err(failed)?;
        let peer = Peer { process: who.pid, user: who.uid, group: who.gid };
        if !admit(peer) {
            return Ok(None);
        }
        match share.send(socket.as_fd()) {
            Ok(()) => Ok(Some(Guest { socket, peer, share: share.clone() })),
            Err(ShareError::Socket { cause, .. }) if is_end(&cause) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn is_end(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A worker, as the server knows it: it holds what is shared until this is dropped.
pub struct Guest<O: Os> {
    socket: OwnedFd,
    peer: Peer,
    share: Share<O>,
}

impl<O: Os> Guest<O> {
    /// Who it is.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Whether it has ended or let go. Does not wait: poll(2) its descriptor for POLLRDHUP to wait.
    pub fn is_gone(&self) -> bool {
        socket::is_gone(self.socket.as_fd())
    }

    /// What it holds.
    pub fn share(&self) -> &Share<O> {
        &self.share
    }
}

impl<O: Os> AsFd for Guest<O> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<O: Os> fmt::Debug for Share<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({:?}, {} holders)", self.shared.pool, self.holders())
    }
}

impl<O: Os> fmt::Debug for Guest<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guest({:?})", self.peer)
    }
}
