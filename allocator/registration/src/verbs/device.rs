//! Devices and what they can.
#![allow(unsafe_code)] // calls libibverbs

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::fmt;
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use bookend::units::{Bytes, Node};

use super::abi::{self, Context, ContextEx, DeviceAttr, DeviceAttrEx, PortAttr};
use super::endpoint::address;
use super::library::Library;
use crate::RegisterError;

/// What a device can.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceLimits {
    /// Bytes of one memory region at most.
    pub max_mr_size: Bytes,
    /// Memory regions at most.
    pub max_mr: u32,
    /// Entries of one work request at most.
    pub max_sge: u32,
    /// Work requests of a queue at most.
    pub max_qp_wr: u32,
    /// Memory windows at most.
    pub max_mw: u32,
    /// Whether it reports memory windows of type 2, which one work request binds and another takes back.
    pub windows: bool,
    /// On-demand paging, where it reports any.
    pub on_demand: OnDemand,
    /// Ports, numbered from 1.
    pub ports: u8,
}

/// On-demand paging: registering without pinning.
///
/// Not to be trusted with the kernel's software device: rxe of Linux 7.3 was seen to misplace, without an error, the
/// data of packets that begin within a page of such memory.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct OnDemand {
    /// For ranges.
    pub explicit: bool,
    /// For all of the address space at once.
    pub implicit: bool,
    /// Whether RC writes may touch such memory at the far end (`IBV_ODP_SUPPORT_WRITE`).
    pub rc_write: bool,
}

/// Whether memory that a device has pinned survives fork(2) in the parent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForkSafety {
    /// The kernel copies pinned pages for the child (Linux 5.12): nothing to do.
    Kernel,
    /// `ibv_fork_init` was called by somebody: each registration reads `/proc/self/smaps` where
    /// RDMAV_HUGEPAGES_SAFE is set (93 µs became 5,414 µs), and marks ranges as not to be inherited.
    Advised,
    /// Neither: after a fork writes of the parent may go where the device does not look.
    None,
    /// The library does not say.
    Unknown,
}

/// What `ibv_is_fork_initialized` says. Nothing here calls `ibv_fork_init`.
///
/// # Errors
/// [`RegisterError::Unsupported`] without libibverbs.
pub fn fork_safety() -> Result<ForkSafety, RegisterError> {
    let asked = Library::get()?.is_fork_initialized;
    // SAFETY: the function takes nothing and changes nothing.
    Ok(match asked.map(|ask| unsafe { ask() }) {
        None => ForkSafety::Unknown,
        Some(0) => ForkSafety::None,
        Some(1) => ForkSafety::Advised,
        Some(_) => ForkSafety::Kernel,
    })
}

/// The names of this machine's RDMA devices.
///
/// # Errors
/// [`RegisterError::Unsupported`] without libibverbs, or where the kernel has no RDMA.
pub fn devices() -> Result<Vec<String>, RegisterError> {
    with_devices(|_, devices| devices.iter().map(|(name, _)| name.clone()).collect())
}

fn with_devices<T>(
    use_them: impl FnOnce(&'static Library, &[(String, *mut c_void)]) -> T,
) -> Result<T, RegisterError> {
    let library = Library::get()?;
    let mut count: c_int = 0;
    // SAFETY: the count is ours to write.
    let list = unsafe { (library.get_device_list)(&mut count) };
    if list.is_null() {
        let cause = io::Error::last_os_error();
        let why = match cause.raw_os_error() {
            Some(libc::ENOSYS) => {
                "the kernel has no RDMA (module ib_uverbs is not loaded)".to_owned()
            }
            _ => cause.to_string(),
        };
        return Err(RegisterError::Unsupported { what: "RDMA verbs", why });
    }
    let named = |at: usize| {
        // SAFETY: the list has `count` devices, with names, until it is freed.
        unsafe {
            let device = *list.add(at);
            let name = CStr::from_ptr((library.get_device_name)(device));
            (name.to_string_lossy().into_owned(), device)
        }
    };
    let devices: Vec<_> = (0..count.max(0) as usize).map(named).collect();
    let result = use_them(library, &devices);
    // SAFETY: the list is of libibverbs; devices that were opened stay open.
    unsafe { (library.free_device_list)(list) };
    Ok(result)
}

/// An open device.
pub struct Device {
    pub(super) library: &'static Library,
    pub(super) context: *mut Context,
    name: String,
    limits: DeviceLimits,
}

// SAFETY: libibverbs may be called from any thread, on the same objects too.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// Opens a device by its name, or the first there is.
    ///
    /// # Errors
    /// [`RegisterError::Unsupported`] where there is none; [`RegisterError::System`] where it cannot be
    /// opened.
    pub fn open(name: Option<&str>) -> Result<Arc<Self>, RegisterError> {
        let opened = with_devices(|library, devices| {
            let wanted = |(found, _): &&(String, _)| name.is_none_or(|name| name == found);
            let Some((name, device)) = devices.iter().find(wanted) else {
                let names: Vec<_> = devices.iter().map(|(name, _)| name.as_str()).collect();
                return Err(RegisterError::Unsupported {
                    what: "an RDMA device",
                    why: match name {
                        None => "this machine has none".to_owned(),
                        Some(name) => format!("there is no {name}; there are: {}", names.join(" ")),
                    },
                });
            };
            // SAFETY: the device is of the list, which is still there.
            let context = unsafe { (library.open_device)(*device) };
            if context.is_null() {
                return Err(system("open the RDMA device (/dev/infiniband/uverbs*)"));
            }
            Ok((library, context, name.clone()))
        })?;
        let (library, context, name) = opened?;
        // SAFETY: it was just opened, and is ours.
        unsafe { Self::adopt(library, context, name) }
    }

    /// # Safety
    /// The context is open, and the caller's to give.
    pub(super) unsafe fn adopt(
        library: &'static Library,
        context: *mut Context,
        name: String,
    ) -> Result<Arc<Self>, RegisterError> {
        // SAFETY: zeros are a valid value of it.
        let mut attr: DeviceAttr = unsafe { mem::zeroed() };
        // SAFETY: the context is open, and the attributes ours to write.
        let errno = unsafe { (library.query_device)(context, &mut attr) };
        // SAFETY: the caller's.
        let limits = limits(&attr, unsafe { on_demand(context) });
        let device = Arc::new(Self { library, context, name, limits });
        if errno != 0 {
            return Err(errno_of("ask the RDMA device for its limits", errno));
        }
        Ok(device)
    }

    /// Its name, `mlx5_0` say.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it can.
    pub fn limits(&self) -> &DeviceLimits {
        &self.limits
    }

    /// Whether it is one of the kernel's software devices, which track base pages whatever the memory
    /// stands on: their times say nothing about huge pages.
    pub fn is_software(&self) -> bool {
        let parent = format!("/sys/class/infiniband/{}/parent", self.name);
        self.name.starts_with("rxe")
            || self.name.starts_with("siw")
            || std::fs::exists(parent).unwrap_or(false)
    }

    /// Whether its writes can carry immediate data: all but iWARP's (`siw`, say), after whose writes a message
    /// has to follow. By what sysfs says of its kind.
    pub fn has_immediates(&self) -> bool {
        let path = format!("/sys/class/infiniband/{}/node_type", self.name);
        std::fs::read_to_string(path).map_or(true, |kind| !is_iwarp(&kind))
    }

    /// Whether a port (the first is 1) is up, as far as the device knows.
    pub fn is_active(&self, port: u8) -> bool {
        const ACTIVE: c_uint = 4; // IBV_PORT_ACTIVE
        self.port(port).is_ok_and(|port| port.state == ACTIVE)
    }

    /// Whether a port has this machine's `address`, by which a device of Ethernet is found that leads where
    /// that address does.
    pub fn has_address(&self, port: u8, address: IpAddr) -> bool {
        let wanted = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let Ok(attr) = self.port(port) else { return false };
        let gid = |[high, low]: [u64; 2]| {
            Ipv6Addr::from(u128::from(u64::from_be(high)) << 64 | u128::from(u64::from_be(low)))
        };
        self.gids(port, attr.gid_tbl_len).into_iter().any(|(_, found)| gid(found) == wanted)
    }

    /// The address that queue pairs at a port (the first is 1) are reached at, in network byte order; zeros where it
    /// has none.
    pub fn port_address(&self, port: u8) -> [u8; 16] {
        let count = self.port(port).map_or(0, |port| port.gid_tbl_len);
        let [high, low] = address(&self.gids(port, count)).map_or([0; 2], |(_, gid)| gid);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high.to_ne_bytes()); // as it lies in memory
        bytes[8..].copy_from_slice(&low.to_ne_bytes());
        bytes
    }

    /// The NUMA node that it is at, where the machine says so.
    pub fn node(&self) -> Option<Node> {
        let path = format!("/sys/class/infiniband/{}/device/numa_node", self.name);
        std::fs::read_to_string(path).ok()?.trim().parse().ok().map(Node::new)
    }

    pub(super) fn port(&self, number: u8) -> Result<PortAttr, RegisterError> {
        // SAFETY: zeros are a valid value of it.
        let mut attr: PortAttr = unsafe { mem::zeroed() };
        // SAFETY: the context is open, and the attributes ours to write; older libraries write less.
        match unsafe { (self.library.query_port)(self.context, number, &mut attr) } {
            0 => Ok(attr),
            errno => Err(errno_of("ask the RDMA device for its port", errno)),
        }
    }

    /// The addresses of a port that are set, with their indices.
    pub(super) fn gids(&self, port: u8, count: c_int) -> Vec<(u8, [u64; 2])> {
        let gid = |index: c_int| {
            let mut gid = [0u64; 2];
            // SAFETY: the context is open, and the address ours to write.
            let errno = unsafe { (self.library.query_gid)(self.context, port, index, &mut gid) };
            (errno == 0 && gid[1] != 0).then_some((index as u8, gid))
        };
        (0..count.clamp(0, 255)).filter_map(gid).collect()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: whatever was made with it held it by an `Arc`, and is gone.
        let _ = unsafe { (self.library.close_device)(self.context) };
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name)
    }
}

/// By a `node_type` of sysfs: 4 is `RDMA_NODE_RNIC` of the kernel's rdma/ib_verbs.h.
fn is_iwarp(node_type: &str) -> bool {
    node_type.trim_start().starts_with("4:")
}

fn limits(attr: &DeviceAttr, on_demand: OnDemand) -> DeviceLimits {
    let count = |count: c_int| count.max(0) as u32;
    DeviceLimits {
        max_mr_size: Bytes::new(attr.max_mr_size),
        max_mr: count(attr.max_mr),
        max_sge: count(attr.max_sge).max(1),
        max_qp_wr: count(attr.max_qp_wr),
        max_mw: count(attr.max_mw),
        windows: attr.device_cap_flags & abi::CAP_WINDOWS_2 != 0,
        on_demand,
        ports: attr.phys_port_cnt,
    }
}

/// What the device says of on-demand paging; nothing where library or driver are too old to say.
///
/// # Safety
/// The context is open.
unsafe fn on_demand(context: *mut Context) -> OnDemand {
    // SAFETY: (1) the context is open; (2) extended ones stand at the end of a longer structure, whose size
    // is the word before them; (3) the pointer is there where that structure is long enough; (4) the
    // driver writes no more than the size that it is given.
    unsafe {
        if (*context).abi_compat.addr() != abi::ABI_IS_EXTENDED {
            return OnDemand::default();
        }
        let extended = context.byte_sub(size_of::<ContextEx>()).cast::<ContextEx>();
        let reached = (*extended).size >= size_of::<ContextEx>() + size_of::<Context>();
        let Some(query) = (*extended).query_device_ex.filter(|_| reached) else {
            return OnDemand::default();
        };
        let mut attr: DeviceAttrEx = mem::zeroed();
        if query(context, std::ptr::null(), &mut attr, size_of::<DeviceAttrEx>()) != 0 {
            return OnDemand::default();
        }
        let abi::OdpCaps { general, rc, .. } = attr.odp;
        OnDemand { explicit: general & 1 != 0, implicit: general & 2 != 0, rc_write: rc & 4 != 0 }
    }
}

/// The error that errno names.
pub(super) fn system(operation: &'static str) -> RegisterError {
    RegisterError::System { operation, cause: io::Error::last_os_error() }
}

/// The error that a function has returned.
pub(super) fn errno_of(operation: &'static str, errno: c_int) -> RegisterError {
    RegisterError::System { operation, cause: io::Error::from_raw_os_error(errno.abs()) }
}

#[cfg(test)]
mod tests {
    use super::is_iwarp;

    #[test]
    fn iwarp_is_told_by_its_kind() {
        assert!(is_iwarp("4: RNIC\n"));
        assert!(!is_iwarp("1: CA\n") && !is_iwarp(""));
    }
}
