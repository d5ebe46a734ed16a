//! Sharing a pool, and its registration with an RDMA device, between processes.
//!
//! A *server* owns the pool and has registered it, once. *Workers* get it over a Unix socket: the memory
//! files, the descriptor of the device's file where there is one, and the numbers of what is in it. They map
//! the pool at an address of their own, import domain and keys, and use the server's registration as if it were
//! theirs, so that a thousand workers cost the device one memory region.
//!
//! # Who trusts whom
//! One protection domain is one domain of trust, and so is one pool. A worker can read and write all of the
//! pool, punch holes into it, use every key of the domain and destroy every object in it. So pass it to
//! programs that would be threads of the server if they could. The server decides who connects: the socket's
//! path has permissions, and [`Server::accept`] tells who the peer is (`SO_PEERCRED`) before anything is
//! passed. Workers trust the server in the same way.
//!
//! # Who frees what
//! Everything is held by descriptors, which the kernel closes when a process dies, however it dies.
//!
//! - Each [`Guest`] holds the shared registration: it is dropped when the server and the last guest are done
//!   with it, so no worker's key ends under it while it is connected.
//! - A worker that is killed leaves nothing: its mappings and its imports go with it, and the server sees its
//!   end of the socket close. What it *made* in the domain (queue pairs of its own) goes with the file's last
//!   descriptor, which is the server's; a domain for short-lived workers that make many is better
//!   renewed now and then.
//! - A server that is killed leaves its workers the memory and the kernel's objects, until they let go. They
//!   are told by [`Worker::check`], and get no new answers.
//!
//! What is passed is one message of text and descriptors, `message.rs` has it; `include/bookend_share.h` is the
//! same for C.

mod message;
mod server;
mod socket;
mod worker;

pub use server::{Guest, Peer, Server, Share};
pub use worker::{SharedKeys, Worker};

use std::io;

use bookend::pool::PoolError;

use crate::RegisterError;

/// Why a pool could not be shared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// The pool stands in private memory.
    #[error("the pool is private: build it with shareable(true)")]
    Private,
    /// The socket, by what was tried.
    #[error("cannot {operation}: {cause}")]
    Socket {
        /// What was tried, as a verb.
        operation: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// The server is gone. What this process has got stays until it lets go, but nobody else looks after it.
    #[error(
        "the server that owns the pool is gone: its memory stays as long as this process has it, but \
         start anew with the next server"
    )]
    ServerGone,
    /// The message is none of ours.
    #[error("the server's message cannot be used: {0}")]
    Message(String),
    /// The pool could not be mapped.
    #[error("cannot map the shared pool: {0}")]
    Map(#[from] PoolError),
    /// The device's objects could not be imported.
    #[error(transparent)]
    Import(#[from] RegisterError),
}
