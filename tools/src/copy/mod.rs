//! Copying files through contiguous memory: parse, probe, engine, report.

pub mod engine;
