//! A registered file, and the thread that keeps its lease.
#![allow(unsafe_code)] // registers memory, calls nothing else

use std::fmt;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, PoisonError, RwLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bookend::units::Bytes;

use super::lease::{self, Lease};
use super::mapping::{Mapped, page_size};
use super::{FileError, Mapping};
use crate::pieces::Piece;
use crate::{Registrar, RegistrarLimits};

/// What the user of a leased file is told, on the thread that keeps the lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Somebody wants the file. What uses it is to end: the registration is withdrawn as soon as nobody is
    /// in [`LeasedFile::with`], and the kernel waits so long at most.
    Breaking {
        /// `lease-break-time`.
        within: Duration,
    },
    /// The registration is gone, and the lease with it.
    Withdrawn {
        /// Since the first event.
        after: Duration,
        /// Before the kernel had lost its patience.
        in_time: bool,
    },
}

/// The registration was withdrawn, because somebody else wanted the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the file's registration was withdrawn, since somebody else has opened or truncated it")]
pub struct Withdrawn;

/// A registered file: what [`LeasedFile::with`] gives.
pub struct Leased<G> {
    // Dropped in this order: nothing reaches the memory when it is unmapped.
    registration: G,
    mapped: Mapped,
}

impl<G> Leased<G> {
    /// What the device knows it by.
    pub fn registration(&self) -> &G {
        &self.registration
    }

    /// Its first byte here. Others may read and write it too.
    pub fn address(&self) -> *mut u8 {
        self.mapped.start.as_ptr()
    }

    /// How long it is.
    pub fn len(&self) -> Bytes {
        self.mapped.len
    }

    /// Never: an empty file is not registered.
    pub fn is_empty(&self) -> bool {
        self.len() == Bytes::ZERO
    }
}

/// A file that is registered for as long as nobody else wants it. See the [module](super).
pub struct LeasedFile<G> {
    leased: Arc<RwLock<Option<Leased<G>>>>,
    stop: Arc<OwnedFd>,
    keeper: Option<JoinHandle<()>>,
}

impl<G: Send + Sync + 'static> LeasedFile<G> {
    /// Maps all of a file, takes a lease, and registers it. `told` is called on a thread of its own when
    /// somebody else wants the file, and when it has been withdrawn.
    ///
    /// The file is open for reading only, for [`Mapping::Read`] (others may then open it for reading), or for
    /// both, for [`Mapping::ReadWrite`]; through this descriptor it is not to be truncated.
    ///
    /// # Errors
    /// [`FileError::Lease`] where somebody else has it open in conflict, or the file system has no leases;
    /// [`FileError::Register`]. Nothing is held then.
    pub fn register<R: Registrar<Registration = G>>(
        registrar: &R,
        file: File,
        mapping: Mapping,
        told: impl FnMut(Event) + Send + 'static,
    ) -> Result<Self, FileError> {
        let failed = |operation| move |cause| FileError::System { operation, cause };
        let stop = Arc::new(lease::event().map_err(failed("make an event"))?);
        let handle = file.try_clone().map_err(failed("keep the file"))?;
        let leased = Arc::new(RwLock::new(None));
        let (ready, taken) = mpsc::channel();
        let (begin, registered) = mpsc::channel();
        let keeper = {
            let (leased, stop) = (leased.clone(), stop.clone());
            let keep = move || {
                let write = mapping == Mapping::ReadWrite;
                let lease = Lease::take(handle, write);
                let lease = match lease {
                    Ok(lease) => lease,
                    Err(cause) => return drop(ready.send(Err(FileError::Lease(cause)))),
                };
                let _ = ready.send(Ok(()));
                // Until it is registered there is nothing to withdraw; after an error nothing ever is.
                if registered.recv().is_ok() {
                    keep(&lease, &leased, &stop, write, told);
                }
            };
            let named = thread::Builder::new().name("bookend-lease".to_owned());
            named.spawn(keep).map_err(failed("start a thread that keeps the lease"))?
        };
        // Dropped on an error: the thread ends, and the lease with it.
        let this = Self { leased, stop, keeper: Some(keeper) };
        taken.recv().unwrap_or(Err(FileError::Empty))?;
        // The length is read under the lease: it does not change any more.
        let len = Bytes::new(file.metadata().map_err(failed("read the file's length"))?.len());
        let mapped = Mapped::new(&file, len, mapping);
        let page = page_size(&file);
        // Closed here: the mapping and the lease keep what they need, and no descriptor is left to truncate.
        drop(file);
        let mapped = match mapped {
            Ok(mapped) => mapped,
            Err(error) => {
                drop(begin);
                return Err(error);
            }
        };
        let pieces = cut(mapped.piece(page), registrar.limits());
        // SAFETY: the file is mapped until after the registration is dropped; the lease keeps others from
        // taking its pages away until then.
        let registration = match unsafe { registrar.register_pieces(&pieces) } {
            Ok(registration) => registration,
            Err(error) => {
                drop(begin);
                return Err(error.into());
            }
        };
        *this.leased.write().unwrap_or_else(PoisonError::into_inner) =
            Some(Leased { registration, mapped });
        let _ = begin.send(());
        Ok(this)
    }

    /// Uses the file, which stays registered until `use_it` returns. It is to be short, or to end when
    /// [`Event::Breaking`] is told.
    ///
    /// # Errors
    /// [`Withdrawn`].
    pub fn with<T>(&self, use_it: impl FnOnce(&Leased<G>) -> T) -> Result<T, Withdrawn> {
        let leased = self.leased.read().unwrap_or_else(PoisonError::into_inner);
        leased.as_ref().map(use_it).ok_or(Withdrawn)
    }

    /// Whether it is registered still.
    pub fn is_registered(&self) -> bool {
        self.with(|_| ()).is_ok()
    }
}

/// Waits for somebody to want the file, and withdraws the registration then; or for the end.
fn keep<G>(
    lease: &Lease,
    leased: &RwLock<Option<Leased<G>>>,
    stop: &OwnedFd,
    write: bool,
    mut told: impl FnMut(Event),
) {
    let broken = lease.wait(stop.as_raw_fd(), write);
    let start = Instant::now();
    let within = lease::break_time();
    if broken {
        told(Event::Breaking { within });
    }
    drop(leased.write().unwrap_or_else(PoisonError::into_inner).take());
    if broken {
        let after = start.elapsed();
        // The lease goes after this returns; told before, so that the waiter finds everything said.
        told(Event::Withdrawn { after, in_time: after < within });
    }
}

fn cut(whole: Piece, limits: RegistrarLimits) -> Vec<Piece> {
    let longest =
        limits.longest.unwrap_or(whole.len).round_down(whole.page).max(whole.page.bytes());
    let (longest, len) = (longest.as_usize(), whole.len.as_usize());
    let piece = |at: usize| Piece {
        // Within the mapping, so that it is no null pointer.
        start: whole.start.map_addr(|start| start.saturating_add(at)),
        len: Bytes::of_len(longest.min(len - at)),
        page: whole.page,
    };
    (0..len).step_by(longest).map(piece).collect()
}

impl<G> Drop for LeasedFile<G> {
    fn drop(&mut self) {
        lease::set(&self.stop);
        let Some(keeper) = self.keeper.take() else { return };
        // Whoever drops it in a callback is the keeper himself, and about to end.
        if keeper.thread().id() != thread::current().id() {
            let _ = keeper.join();
        }
    }
}

impl<G> fmt::Debug for LeasedFile<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeasedFile").finish_non_exhaustive()
    }
}

impl<G> fmt::Debug for Leased<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Leased({})", self.len())
    }
}
