//! Copies between machines, layer by layer; each file sees only those before it.
//!
//! - [`protocol`] is what the ends say to each other: bytes to messages and back, and nothing else.
//! - [`secure`] makes of a connection one that is authenticated and encrypted; [`transport`] is
//!   what a way between machines offers, and [`tcp`](transport::tcp) one such way.
//! - [`root`] is where paths may lead, [`attributes`] what files have besides their contents, [`task`]
//!   what is to be done, [`error`] why it is not; [`direct`] reads and writes files past the page cache.
//! - [`session`] is what both ends have while a copy lasts, [`near`] where a lane's threads run; [`sender`] and [`receiver`] are the two
//!   parts, and each end can play either.
//! - [`key`], [`channel`] and [`door`]: how the ends come to a secret, and to lanes; [`path`] how many of those.
//! - [`manifest`] is the list of checksums, and who puts what on it.
//! - [`lists`] is what names what is to be copied, where operands alone do not.
//! - [`client`] is the end that the user is at, [`host`] the other one, [`comparison`] the former
//!   for `--check`; [`options`] and [`request`]
//!   are the command line.

pub mod attributes;
mod carried;
pub mod channel;
pub mod client;
pub mod comparison;
pub mod direct;
pub mod door;
pub mod error;
pub mod host;
pub mod key;
pub mod lists;
pub mod manifest;
pub mod near;
pub mod options;
pub mod path;
pub mod protocol;
pub mod receiver;
pub mod request;
pub mod root;
pub mod secure;
pub mod sender;
pub mod session;
pub mod task;
pub mod transport;
