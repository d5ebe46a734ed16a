//! What the machine is and allows, read from it.
