//! One copy between two machines while it lasts: the main lane's way out, the beat that tells that
//! this end is alive, and the end of it all, which wakes everyone who waits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::RemoteError;
use super::protocol::Message;
use super::transport::{Closer, Sink};
use crate::copy::engine::Progress;
use crate::copy::error::FileError;

/// Between two signs of life.
const BEAT: Duration = Duration::from_millis(500);
/// Between two looks whether the user has stopped it.
const LOOK: Duration = Duration::from_millis(50);

/// Failures that one end tells the other, and are kept for the end; more are counted.
const TROUBLES_MAX: u64 = 100_000;
/// And the bytes of all their texts.
const TROUBLE_BYTES_MAX: u64 = 32 << 20;

/// It is over: why is in the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Over;

/// See the module.
pub struct Session<'a> {
    /// The other machine, in messages.
    pub host: String,
    /// Silence that is taken for its end.
    pub timeout: Duration,
    /// Whether the other end has instructions for AES, as far as it is known.
    pub aes: bool,
    /// Bytes copied, and whether the user has stopped it.
    pub progress: Arc<Progress>,
    /// What long work of this end looks at: it is cancelled when the session is over, and counts nothing.
    pub work: Progress,
    sink: Mutex<Box<dyn Sink + 'a>>,
    closers: Mutex<Vec<Box<dyn Closer>>>,
    failure: Mutex<Option<RemoteError>>,
    over: AtomicBool,
    /// Whether all was done, and lanes may end.
    done: AtomicBool,
    /// What the other end has told to have failed.
    troubles: AtomicU64,
    trouble_bytes: AtomicU64,
    /// How much of that was not kept.
    unkept: AtomicU64,
    /// Rings when it is over.
    bell: (Mutex<()>, Condvar),
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("host", &self.host).finish_non_exhaustive()
    }
}

/// Locks what stays whole whoever panics.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Session<'a> {
    /// With the main lane's `sink`.
    pub fn new(
        host: String,
        timeout: Duration,
        aes: bool,
        progress: Arc<Progress>,
        sink: Box<dyn Sink + 'a>,
    ) -> Self {
        Self {
            host,
            timeout,
            aes,
            progress,
            work: Progress::default(),
            sink: Mutex::new(sink),
            closers: Mutex::default(),
            failure: Mutex::default(),
            over: AtomicBool::new(false),
            done: AtomicBool::new(false),
            troubles: AtomicU64::new(0),
            trouble_bytes: AtomicU64::new(0),
            unkept: AtomicU64::new(0),
            bell: Default::default(),
        }
    }

    /// Adds a lane that ends with the session.
    pub fn add(&self, closer: Box<dyn Closer>) {
        lock(&self.closers).push(closer);
    }

    /// Sends on the main lane, soon.
    ///
    /// # Errors
    /// [`Over`].
    pub fn send(&self, message: &Message) -> Result<(), Over> {
        let sent = lock(&self.sink).send(message);
        self.check(sent)
    }

    /// Sends on the main lane, now.
    ///
    /// # Errors
    /// [`Over`].
    pub fn send_now(&self, message: &Message) -> Result<(), Over> {
        let mut sink = lock(&self.sink);
        let sent = sink.send(message).and_then(|()| sink.flush());
        drop(sink);
        self.check(sent)
    }

    fn check(&self, sent: std::io::Result<()>) -> Result<(), Over> {
        match sent {
            Ok(()) if !self.is_over() => Ok(()),
            Ok(()) => Err(Over),
            Err(cause) => Err(self.fail(RemoteError::write(&self.host, &cause))),
        }
    }

    /// Ends it: the first reason counts.
    pub fn fail(&self, error: RemoteError) -> Over {
        {
            let mut failure = lock(&self.failure);
            if failure.is_none() && !self.is_over() {
                *failure = Some(error);
            }
        }
        self.end();
        Over
    }

    /// Ends it well, or because of what has failed.
    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.work.cancel();
        drop(lock(&self.bell.0));
        self.bell.1.notify_all();
        lock(&self.closers).iter().for_each(|closer| closer.close());
    }

    /// All is done: lanes that end from now on end well.
    pub fn set_done(&self) {
        self.done.store(true, Ordering::Release);
    }

    /// Whether all is done.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// The other end tells that something failed, or differs. Whether there is room to keep what it says.
    pub fn keeps_trouble(&self, text: &str) -> bool {
        let few = self.troubles.fetch_add(1, Ordering::Relaxed) < TROUBLES_MAX;
        let bytes = self.trouble_bytes.fetch_add(text.len() as u64, Ordering::Relaxed);
        let keeps = few && bytes < TROUBLE_BYTES_MAX;
        self.unkept.fetch_add(u64::from(!keeps), Ordering::Relaxed);
        keeps
    }

    /// What is said of failures and differences for which there was no room.
    pub fn unkept(&self) -> Option<FileError> {
        let unkept = self.unkept.load(Ordering::Relaxed);
        let text = format!("{unkept} more are not listed, which it told after these");
        (unkept > 0).then(|| FileError::Remote { host: self.host.clone(), text })
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Why it failed, if it has.
    pub fn failure(&self) -> Option<RemoteError> {
        lock(&self.failure).take()
    }

    /// Tells the other end that this one is alive, until it is over.
    pub fn beat(&self) {
        let mut last = Instant::now();
        let mut waiting = lock(&self.bell.0);
        while !self.is_over() {
            let woken = self.bell.1.wait_timeout(waiting, LOOK);
            drop(woken.unwrap_or_else(PoisonError::into_inner).0);
            if self.progress.is_cancelled() {
                self.fail(RemoteError::Interrupted);
            } else if last.elapsed() >= BEAT {
                last = Instant::now();
                let _ = self.send_now(&Message::Alive {}); // where it fails, it is over
            }
            waiting = lock(&self.bell.0);
        }
    }
}

/// Waits at `condvar` until `ready` says so, or `session` is over.
///
/// # Errors
/// [`Over`].
pub fn wait<'l, T>(
    session: &Session<'_>,
    condvar: &Condvar,
    mut guard: MutexGuard<'l, T>,
    mut ready: impl FnMut(&mut T) -> bool,
) -> Result<MutexGuard<'l, T>, Over> {
    loop {
        if session.is_over() {
            return Err(Over);
        }
        if ready(&mut guard) {
            return Ok(guard);
        }
        guard = condvar.wait_timeout(guard, LOOK).unwrap_or_else(PoisonError::into_inner).0;
    }
}
