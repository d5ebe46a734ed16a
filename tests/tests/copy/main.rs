//! `hugecp`, as built, on real file systems: what it copies, and what it leaves when it cannot.
//!
//! Every engine passes the same tests. An engine that cannot do a copy says so, exits with 1 and
//! leaves no target; where it must be able to is written in [`engines::can`].

mod attributes;
mod between;
mod big;
mod devices;
mod engines;
mod failures;
mod killed;
mod matrix;
mod trees;
