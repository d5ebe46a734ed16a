//! What the kernel would know of a device's file: its objects, who has imported them, and what was done wrong.
//!
//! It lies in the memory of the file itself, so that it is the same for all processes that have the file, and
//! ends with the last of them, as the objects of a uverbs file do. The lock is a robust one: a process that is
//! killed with it leaves every row either as it was or complete, since a row's `kind` is written last.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr::NonNull;

pub const ROWS: usize = 4096;
const WRONGS: usize = 32;
const WRONG_BYTES: usize = 120;
const MAGIC: u64 = 0xfa4e_0000_7ab1_e001;

/// What a row is about; 0 is a free one.
pub const FREE: u32 = 0;
pub const PD: u32 = 1;
pub const MR: u32 = 2;
pub const MW: u32 = 3;
/// A process's import of the object with that handle.
pub const IMPORT: u32 = 4;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub kind: u32,
    pub handle: u32,
    /// Of what is in a domain, the domain; of an import, the process.
    pub parent: u32,
    pub access: u32,
    pub address: u64,
    pub len: u64,
    pub key: u32,
    /// The descriptor of a DMA buffer, -1 of other memory.
    pub dmabuf: i32,
    pub offset: u64,
}

#[repr(C)]
struct Shared {
    magic: u64,
    lock: libc::pthread_mutex_t,
    /// Which device it is.
    device: u32,
    last_handle: u32,
    wrong_count: u32,
    wrongs: [[u8; WRONG_BYTES]; WRONGS],
    rows: [Row; ROWS],
}

/// A mapping of a device's file.
#[derive(Debug)]
pub struct Table(NonNull<Shared>);

// SAFETY: what it points to is used under its lock alone.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

fn map(file: RawFd) -> Option<NonNull<Shared>> {
    let (access, len) = (libc::PROT_READ | libc::PROT_WRITE, size_of::<Shared>());
    // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, file, 0) };
    if at == libc::MAP_FAILED { None } else { NonNull::new(at.cast()) }
}

impl Table {
    /// A new file with an empty table; `None` with errno.
    pub fn create(device: u32) -> Option<(RawFd, Self)> {
        // SAFETY: the name is a string; the file's length is that of the structure that is mapped, and its
        // zeros are a valid value of all but the lock, which is made before anybody else has the file.
        unsafe {
            let file = libc::memfd_create(c"fake uverbs".as_ptr(), libc::MFD_CLOEXEC);
            if file < 0 || libc::ftruncate(file, size_of::<Shared>() as i64) != 0 {
                return None;
            }
            let shared = map(file)?;
            let mut attributes = MaybeUninit::uninit();
            libc::pthread_mutexattr_init(attributes.as_mut_ptr());
            libc::pthread_mutexattr_setpshared(
                attributes.as_mut_ptr(),
                libc::PTHREAD_PROCESS_SHARED,
            );
            libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST);
            libc::pthread_mutex_init(&raw mut (*shared.as_ptr()).lock, attributes.as_ptr());
            (*shared.as_ptr()).device = device;
            (*shared.as_ptr()).magic = MAGIC;
            Some((file, Self(shared)))
        }
    }

    /// The table in a file that [`Table::create`] has made; `None` where it is another file.
    pub fn open(file: RawFd) -> Option<Self> {
        // SAFETY: zeros are a valid value of it, and it is ours to write.
        let long_enough = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            libc::fstat(file, &mut stat) == 0 && stat.st_size as usize == size_of::<Shared>()
        };
        let table = Self(long_enough.then(|| map(file)).flatten()?);
        // SAFETY: the mapping is as long as the structure.
        (unsafe { table.0.as_ref().magic } == MAGIC).then_some(table)
    }

    /// Which device the file is of.
    pub fn device(&self) -> u32 {
        // SAFETY: it is written before anybody else has the file.
        unsafe { (*self.0.as_ptr()).device }
    }

    /// Runs `with` while nobody else has the table.
    fn locked<T>(&self, with: impl FnOnce(&mut Shared) -> T) -> T {
        let shared = self.0.as_ptr();
        // SAFETY: the lock was made with the file; under it the structure is ours alone; `with` gets no
        // reference that outlives it.
        unsafe {
            if libc::pthread_mutex_lock(&raw mut (*shared).lock) == libc::EOWNERDEAD {
                libc::pthread_mutex_consistent(&raw mut (*shared).lock);
            }
            let result = with(&mut *shared);
            libc::pthread_mutex_unlock(&raw mut (*shared).lock);
            result
        }
    }

    /// Adds a row; its handle, where the row has none, and its key are new. `None` where there is no room.
    pub fn add(&self, mut row: Row) -> Option<Row> {
        self.locked(|shared| {
            if row.handle == 0 {
                shared.last_handle += 1;
                row.handle = shared.last_handle;
                row.key = row.handle << 8;
            }
            let free = shared.rows.iter_mut().find(|row| row.kind == FREE)?;
            *free = Row { kind: FREE, ..row };
            std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::Release);
            free.kind = row.kind;
            Some(row)
        })
    }

    /// The object of that kind and number.
    pub fn find(&self, kind: u32, handle: u32) -> Option<Row> {
        self.rows().into_iter().find(|row| (row.kind, row.handle) == (kind, handle))
    }

    /// All that is there.
    pub fn rows(&self) -> Vec<Row> {
        self.locked(|shared| shared.rows.iter().filter(|row| row.kind != FREE).copied().collect())
    }

    /// Takes out the first row that is meant; whether there was one.
    pub fn remove(&self, meant: impl Fn(&Row) -> bool) -> bool {
        self.locked(|shared| {
            let found = shared.rows.iter_mut().find(|row| row.kind != FREE && meant(row));
            found.map(|row| row.kind = FREE).is_some()
        })
    }

    /// Keeps for the report what a caller should not have done; the errno for it.
    pub fn wrong(&self, what: &str) -> c_int {
        self.locked(|shared| {
            if let Some(line) = shared.wrongs.get_mut(shared.wrong_count as usize) {
                let len = what.len().min(WRONG_BYTES);
                line[..len].copy_from_slice(&what.as_bytes()[..len]);
            }
            shared.wrong_count += 1;
        });
        libc::EINVAL
    }

    /// All that was done wrong; where it is too much, the first.
    pub fn wrongs(&self) -> Vec<String> {
        self.locked(|shared| {
            let kept = shared.wrongs.iter().take(shared.wrong_count as usize);
            kept.map(|line| String::from_utf8_lossy(line).trim_end_matches('\0').to_owned())
                .collect()
        })
    }

    /// Whether a living process other than `except` has imported the object.
    pub fn is_imported(&self, handle: u32, except: u32) -> bool {
        // SAFETY: no signal is sent.
        let lives = |process: u32| unsafe { libc::kill(process as i32, 0) } == 0;
        let rows = self.rows();
        let mut imports = rows.iter().filter(|row| (row.kind, row.handle) == (IMPORT, handle));
        imports.any(|import| import.parent != except && lives(import.parent))
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `map`, that long, and nobody keeps a reference.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<Shared>()) };
    }
}
