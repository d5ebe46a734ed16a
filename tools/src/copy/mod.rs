//! Copying files through contiguous memory: parse, probe, engine, report.

pub mod engine;
pub mod engines;
pub mod holes;
pub mod limit;
pub mod probe;
pub mod sys;
pub mod zeros;
