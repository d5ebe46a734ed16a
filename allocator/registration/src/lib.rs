//! Registers pool memory with devices and rings.
