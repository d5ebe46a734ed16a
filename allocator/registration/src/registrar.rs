//! What all registrars have in common.
#![allow(unsafe_code)] // registering has a safety contract

use core::fmt;

use bookend::scatter::Held;
use bookend::units::Bytes;

use crate::RegisterError;
use crate::pieces::{Piece, pieces};

/// What a registrar takes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct RegistrarLimits {
    /// Bytes of one registration at most. Longer memory is registered in pieces.
    pub longest: Option<Bytes>,
    /// Registrations at most.
    pub count: Option<usize>,
}

/// Who makes memory known to a device, a ring, or a fake: its pages are pinned, and requests name it by
/// what the registration says (an index, a key).
pub trait Registrar {
    /// Memory that is registered; dropping it takes it out. In which order, and whether the registrar is
    /// still there, does not matter.
    type Registration;

    /// Its name in reports.
    fn name(&self) -> &'static str;

    /// What it takes.
    fn limits(&self) -> RegistrarLimits;

    /// Registers pieces of memory, all or none of them.
    ///
    /// # Safety
    /// They are mapped, readable and writable, and neither unmapped, nor given back, nor moved while
    /// the registration lives.
    ///
    /// # Errors
    /// [`RegisterError`]; nothing is registered then.
    unsafe fn register_pieces(&self, pieces: &[Piece])
    -> Result<Self::Registration, RegisterError>;

    /// Registers the memory that `held` holds: a pin of a pool, a scatter list, a pinned object. The
    /// region owns it.
    ///
    /// # Errors
    /// [`RegisterError`]; `held` is dropped then.
    fn register<H: Held>(&self, held: H) -> Result<Region<Self::Registration, H>, RegisterError> {
        let pieces = pieces(&held, self.limits().longest);
        if pieces.is_empty() {
            return Err(RegisterError::Nothing);
        }
        // SAFETY: what a `Held` promises for as long as it lives, wherever it is moved; the region drops
        // the registration before it.
        let registration = unsafe { self.register_pieces(&pieces)? };
        Ok(Region { registration, held })
    }
}

/// Registered memory, and what holds it where it is.
///
/// The registration is dropped first (it is declared first), so the memory is let go of only when nothing
/// can reach it through the device any more.
pub struct Region<G, H> {
    registration: G,
    held: H,
}

impl<G, H> Region<G, H> {
    /// What the device knows it by.
    pub fn registration(&self) -> &G {
        &self.registration
    }

    /// What holds the memory.
    pub fn held(&self) -> &H {
        &self.held
    }

    /// Ends the registration; the memory is held on.
    pub fn into_held(self) -> H {
        drop(self.registration);
        self.held
    }

    /// # Safety
    /// `registration` is of the memory that `held` holds.
    pub(crate) unsafe fn from_parts(registration: G, held: H) -> Self {
        Self { registration, held }
    }
}

impl<G: fmt::Debug, H> fmt::Debug for Region<G, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({:?})", self.registration)
    }
}
