//! Being asked to stop, where something must be put back first.
//!
//! A handler that only takes a note: work looks at it between steps and returns, so that guards
//! are dropped on the way out. Interrupted system calls are restarted.
#![allow(unsafe_code)] // sigaction(2)

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// The last signal that came, or 0.
static RECEIVED: AtomicI32 = AtomicI32::new(0);

/// Proof that signals are noted instead of ending the process.
#[derive(Clone, Copy, Debug)]
pub struct Interrupts(());

/// A signal that asks to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interrupted {
    signal: i32,
}

impl Interrupted {
    /// The exit status that shells expect: 128 and the signal's number.
    pub fn status(self) -> u8 {
        128u8.saturating_add(self.signal as u8)
    }
}

impl Interrupts {
    /// Takes note of SIGINT, SIGTERM and SIGHUP from now on, for the rest of the process.
    ///
    /// # Errors
    /// What sigaction(2) failed with.
    pub fn note() -> io::Result<Self> {
        let action =
            SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            // SAFETY: the handler stores to an atomic and does nothing else, which is safe at any
            // moment.
            unsafe { sigaction(signal, &action) }?;
        }
        Ok(Self(()))
    }

    /// Whether a signal has come, for libraries that know nothing of this type.
    pub fn any() -> bool {
        RECEIVED.load(Ordering::Relaxed) != 0
    }

    /// An error if a signal has come.
    ///
    /// # Errors
    /// Which one.
    pub fn check(self) -> Result<(), Interrupted> {
        match RECEIVED.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => Err(Interrupted { signal }),
        }
    }
}

extern "C" fn on_signal(signal: i32) {
    RECEIVED.store(signal, Ordering::Relaxed);
}
