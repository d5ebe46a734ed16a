//! Commands on their way to a drive: by io_uring where the kernel passes them on, else by `ioctl(2)`.
//!
//! Source: linux/nvme_ioctl.h. A command is written as the kernel's `struct nvme_passthru_cmd64` and
//! `struct nvme_uring_cmd` have it, which differ in the last field only.
//!
//! When [`Sender::send`] returns, no command is under way. What the kernel reads behind the program's back
//! lives until then; where that cannot be known, it is never freed.
#![allow(unsafe_code)] // hands commands to the kernel

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use libc::c_ulong;

use super::command::{COPY, Command, Entry};
use super::identify::{BEHAVIOR_BYTES, IDENTIFY_BYTES};
use super::place::Place;

/// Commands under way at once, unless told otherwise.
pub(super) const DEPTH: u32 = 4;
/// Most of them.
const DEPTH_MAX: u32 = 64;

/// `struct nvme_passthru_cmd64`; without its last field `struct nvme_uring_cmd`; with a result of 4 bytes in
/// place of the last two `struct nvme_passthru_cmd`, whose 72 bytes are the first of these.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct PassThrough {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    words_2: [u32; 2],
    metadata: u64,
    address: u64,
    metadata_len: u32,
    data_len: u32,
    words_10: [u32; 6],
    timeout_ms: u32,
    reserved_2: u32,
    result: u64,
}

const _: () = assert!(size_of::<PassThrough>() == 80);

const ADMIN: c_ulong = nix::request_code_readwrite!(b'N', 0x41, 72) as c_ulong;
const ID: c_ulong = nix::request_code_none!(b'N', 0x40) as c_ulong;
const IO_64: c_ulong = nix::request_code_readwrite!(b'N', 0x48, 80) as c_ulong;
/// `NVME_URING_CMD_IO`, `_IOWR('N', 0x80, struct nvme_uring_cmd)`.
const URING_IO: c_ulong = nix::request_code_readwrite!(b'N', 0x80, 72) as c_ulong;

/// Why a drive did not do what it was told.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The kernel did not pass it on, or lost it.
    Kernel(io::Error),
    /// The drive's status: its type in bits 8 to 10, its code in 0 to 7.
    Drive(u32),
    /// It cannot be known what is under way.
    Lost(io::Error),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kernel(cause) if cause.raw_os_error() == Some(libc::EACCES) => {
                f.write_str("commands to a drive need CAP_SYS_ADMIN, or on Linux 6.2 and later the right to write its ng device")
            }
            Self::Kernel(cause) => write!(f, "the kernel does not pass on the command: {cause}"),
            // Generic command status (type 0) and command specific status (1) of the specifications.
            Self::Drive(status) => {
                let words = match status & 0x7ff {
                    0x001 => ", invalid opcode",
                    0x002 => ", invalid field",
                    0x080 => ", a block out of range",
                    0x182 => ", a write to read only blocks",
                    0x183 => ", over the limits of a Copy",
                    0x281 => ", unrecovered read error",
                    _ => "",
                };
                write!(f, "the drive refuses: status {:#05x}{words}", status & 0x7ff)
            }
            Self::Lost(cause) => write!(f, "commands were lost on their way: {cause}"),
        }
    }
}

/// Who takes commands.
pub(super) trait Sender {
    /// How many at once.
    fn depth(&self) -> usize;

    /// Sends as many commands as [`Sender::depth`] at most, and waits for all.
    ///
    /// # Errors
    /// The first refusal.
    fn send(&mut self, commands: &[Command]) -> Result<(), Refusal>;
}

/// The device file of a namespace, open for commands.
#[derive(Debug)]
pub(super) struct Drive {
    file: File,
    path: PathBuf,
    namespace: u32,
}

impl Drive {
    /// Opens the command file of `place`, and makes sure that it is that namespace's.
    ///
    /// # Errors
    /// In words.
    pub(super) fn open(place: &Place) -> Result<Self, String> {
        let path = place.command_file();
        let cannot =
            |error: &io::Error| format!("{}: {}", path.display(), crate::copy::error::said(error));
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let file = opened.map_err(|error| cannot(&error))?;
        // SAFETY: NVME_IOCTL_ID takes no argument and returns the namespace's number.
        let found = unsafe { libc::ioctl(file.as_raw_fd(), ID as _) };
        match u32::try_from(found) {
            Ok(found) if found == place.namespace => {
                Ok(Self { file, path, namespace: place.namespace })
            }
            Ok(found) => Err(format!(
                "{} is namespace {found}, and not {} as sysfs says of {}",
                path.display(),
                place.namespace,
                place.name
            )),
            Err(_) => Err(cannot(&io::Error::last_os_error())),
        }
    }

    pub(super) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Identify: the controller's data structure (CNS 1).
    pub(super) fn controller(&self) -> io::Result<[u8; IDENTIFY_BYTES]> {
        self.ask(6, 0, 1)
    }

    /// Identify: the namespace's (CNS 0).
    pub(super) fn identified(&self) -> io::Result<[u8; IDENTIFY_BYTES]> {
        self.ask(6, self.namespace, 0)
    }

    /// Get Features: Host Behavior Support (16h).
    pub(super) fn behavior(&self) -> io::Result<[u8; BEHAVIOR_BYTES]> {
        self.ask(10, 0, 0x16)
    }

    /// An admin command that only reads `N` bytes.
    fn ask<const N: usize>(&self, opcode: u8, namespace: u32, word: u32) -> io::Result<[u8; N]> {
        let mut data = [0_u8; N];
        let mut command = PassThrough {
            opcode,
            namespace,
            address: data.as_mut_ptr() as u64,
            data_len: N as u32,
            words_10: [word, 0, 0, 0, 0, 0],
            ..PassThrough::default()
        };
        // SAFETY: 1. `command` has the layout of struct nvme_passthru_cmd in its first 72 bytes, which is what
        // the request's number says, and lives until the call returns. 2. It names `data`, exclusively
        // borrowed and as long as it says; the call returns when the command is done.
        let status = unsafe { libc::ioctl(self.file.as_raw_fd(), ADMIN as _, &raw mut command) };
        match status {
            0 => Ok(data),
            status if status < 0 => Err(io::Error::last_os_error()),
            status => Err(io::Error::other(format!("status {status:#x} of command {opcode:#04x}"))),
        }
    }

    fn pass_through(&self, command: &Command, entries: &[Entry]) -> PassThrough {
        PassThrough {
            opcode: COPY,
            namespace: self.namespace,
            address: entries.as_ptr() as u64,
            data_len: size_of_val(entries) as u32,
            words_10: command.words(),
            ..PassThrough::default()
        }
    }
}

/// By io_uring, several at once; by ioctl, one after the other, where the kernel does not take them so.
pub(super) struct Passing<'d> {
    drive: &'d Drive,
    ring: Option<BigRing>,
    depth: u32,
    /// Why there is no ring.
    why_not: Option<String>,
    /// Whether the ring has done anything yet.
    proven: bool,
}

/// Passing commands through takes entries of twice the size.
type BigRing = IoUring<squeue::Entry128, cqueue::Entry32>;

impl<'d> Passing<'d> {
    pub(super) fn new(drive: &'d Drive, depth: u32) -> Self {
        let depth = depth.clamp(1, DEPTH_MAX);
        let (ring, why_not) = match BigRing::builder().build(depth) {
            Ok(ring) => (Some(ring), None),
            Err(error) => (None, Some(format!("io_uring_setup: {error}"))),
        };
        Self { drive, ring, depth, why_not, proven: false }
    }

    /// What to tell of it.
    pub(super) fn note(&self) -> String {
        let file = self.drive.path().display();
        match &self.why_not {
            None => format!("commands passed to {file} by io_uring"),
            Some(why) => format!("commands passed to {file} by ioctl, not by io_uring: {why}"),
        }
    }

    fn by_ioctl(&self, command: &Command) -> Result<(), Refusal> {
        let entries = command.entries();
        let mut passed = self.drive.pass_through(command, &entries);
        let file = self.drive.file.as_raw_fd();
        // SAFETY: 1. `passed` has the layout of struct nvme_passthru_cmd64, and lives until the call returns.
        // 2. It names `entries`, which are only read, as long as it says, until the call returns.
        // 3. The blocks it writes are the target's: the caller has cut it so.
        match unsafe { libc::ioctl(file, IO_64 as _, &raw mut passed) } {
            0 => Ok(()),
            status if status < 0 => Err(Refusal::Kernel(io::Error::last_os_error())),
            status => Err(Refusal::Drive(status as u32)),
        }
    }

    fn by_ring(&self, ring: &mut BigRing, commands: &[Command]) -> Result<(), Refusal> {
        // Never freed unless all are known to be done.
        let entries = ManuallyDrop::new(commands.iter().map(Command::entries).collect::<Vec<_>>());
        let file = types::Fd(self.drive.file.as_raw_fd());
        for (command, entries) in commands.iter().zip(entries.iter()) {
            let passed = self.drive.pass_through(command, entries);
            let request = opcode::UringCmd80::new(file, URING_IO as u32).cmd(bytes_of(&passed));
            // SAFETY: 1. The file is open for longer than the ring. 2. The request names `entries`, which
            // are only read and not freed before it has ended. 3. The blocks it writes are the target's: the
            // caller has cut it so.
            let pushed = unsafe { ring.submission().push(&request.build()) };
            pushed.expect("no more than the ring's depth");
        }
        let mut result = Ok(());
        let mut left = commands.len();
        while left > 0 {
            match ring.submit_and_wait(left) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(Refusal::Lost(error)),
            }
            for ended in ring.completion() {
                left -= 1;
                let refusal = match ended.result() {
                    0 => continue,
                    code if code < 0 => Refusal::Kernel(io::Error::from_raw_os_error(-code)),
                    status => Refusal::Drive(status as u32),
                };
                if result.is_ok() {
                    result = Err(refusal);
                }
            }
        }
        drop(ManuallyDrop::into_inner(entries));
        result
    }
}

/// The command as a request has it: the first 72 bytes, and zeros.
fn bytes_of(command: &PassThrough) -> [u8; 80] {
    let command = PassThrough { result: 0, ..*command };
    // SAFETY: the struct is 80 bytes of integers without padding between them: 1, 1, 2, 4, 8, 8, 8, 4, 4, 24, 4, 4, 8.
    unsafe { std::mem::transmute::<PassThrough, [u8; 80]>(command) }
}

impl Sender for Passing<'_> {
    fn depth(&self) -> usize {
        self.depth as usize
    }

    fn send(&mut self, commands: &[Command]) -> Result<(), Refusal> {
        if let Some(mut ring) = self.ring.take() {
            match self.by_ring(&mut ring, commands) {
                // Kernels before 5.19, and devices that take no such requests.
                Err(Refusal::Kernel(error)) if !self.proven => {
                    self.why_not = Some(crate::copy::error::said(&error));
                }
                // The ring has what nobody knows of; its end waits for that.
                result => {
                    self.proven = true;
                    self.ring = Some(ring);
                    return result;
                }
            }
        }
        commands.iter().try_for_each(|command| self.by_ioctl(command))
    }
}
