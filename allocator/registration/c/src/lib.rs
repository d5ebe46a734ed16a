//! libbookend_share: [`bookend_registration::share`] for C. `include/bookend_share.h` documents it; here are
//! one-line shims.
#![deny(missing_docs)]
#![allow(unsafe_code)] // the interface of C

mod error;
mod server;
mod worker;
