//! What `hugecp` does, layer by layer; each file sees only those before it.
//!
//! - **parse**, asking nothing: [`options`] (with [`tree_options`]) defines the command line, [`generate`] makes the man
//!   page and completions of it, [`request`] says what it amounts to.
//! - **resolve** and **probe**, asking the system: [`resolve`], [`source`](mod@source), [`target`]
//!   (with [`staging`] and [`attributes`]), [`probe`], [`holes`].
//! - **plan**, a pure function of the facts: [`plan`].
//! - **copy**: [`engine`] says what an engine is, [`engines`] are those there are, and [`verify`]
//!   (by [`reread`]) looks at what they did; [`fill`] takes one file through all of that, and
//!   [`file`](mod@file) one that was named.
//! - **go on**: [`mod@sum`] tells pieces from others, [`journal`] is what is kept of a copy that can be resumed, [`unfinished`] the files
//!   of it.
//! - **trees**: [`tree`] goes through directories, and copies what is in them; [`begun`] are the small files that it is
//!   making.
//! - **compare**: [`compare`] two files or their [`contents`], [`check`] two trees, and [`check_list`] files with a [`manifest`], which is
//!   written to a [`manifest_file`].
//! - [`capabilities`] tells which ways there are, and takes none.
//! - **tell**: [`progress`], [`report`], [`error`], and [`signals`] while it lasts.
//! - [`cluster`] is several processes that make one copy, as under `mpirun`.
//! - [`run`] is the whole, [`run_trees`] where trees are copied, and
//!   [`run_check`] where nothing is.

pub mod attributes;
pub mod begun;
pub mod cached;
pub mod capabilities;
pub mod check;
pub mod check_list;
mod check_pair;
pub mod cluster;
pub mod compare;
pub mod contents;
pub mod engine;
pub mod engines;
pub mod error;
pub mod file;
pub mod fill;
pub mod generate;
pub mod holes;
pub mod journal;
pub mod limit;
pub mod manifest;
pub mod manifest_file;
pub mod options;
pub mod out;
pub mod plan;
pub mod probe;
pub mod progress;
pub mod quote;
pub mod report;
pub mod request;
pub mod reread;
pub mod resolve;
pub mod run;
pub mod run_check;
pub mod run_trees;
pub mod signals;
pub mod source;
pub mod staging;
pub mod sum;
pub mod sys;
pub mod target;
pub mod tree;
pub mod tree_options;
pub mod unfinished;
pub mod verify;
pub mod whole;
pub mod zeros;
