//! Queue pairs, as far as moving registered memory needs them: RC, connected by hand.
#![allow(unsafe_code)] // calls libibverbs, lets devices write into memory

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::mem;
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::abi::{self, Qp, QpAttr, RecvWr, SendWr, Sge, Wc, mask, opcode};
use super::access::Access;
use super::device::{errno_of, system};
use super::domain::Domain;
use super::endpoint::{Endpoint, address, first_number};
use super::window::Window;
use super::work::{Completion, WorkError};
use crate::RegisterError;

/// Ethernet, of `ibv_port_attr.link_layer`: peers are named by global addresses.
const LINK_ETHERNET: u8 = 2;

/// What a queue pair has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueSizes {
    /// Send requests at once.
    pub sends: u32,
    /// Receive requests at once.
    pub receives: u32,
    /// Entries of a request.
    pub entries: u32,
}

/// A reliable connection's end, with a completion queue of its own.
pub struct QueuePair {
    qp: *mut Qp,
    cq: *mut abi::Cq,
    domain: Arc<Domain>,
    port: u8,
    link_layer: u8,
    gid_index: u8,
    here: Endpoint,
}

// SAFETY: libibverbs may be called from any thread, on the same objects too.
unsafe impl Send for QueuePair {}
// SAFETY: as above.
unsafe impl Sync for QueuePair {}

impl QueuePair {
    /// A queue pair at a port (the first is 1), not connected yet. `access` is what peers may do at most;
    /// [`Access::WINDOWS`] belongs to regions and is left out.
    ///
    /// # Errors
    /// [`RegisterError::System`] by what failed.
    pub fn new(
        domain: &Arc<Domain>,
        port: u8,
        sizes: QueueSizes,
        access: Access,
    ) -> Result<Self, RegisterError> {
        let device = domain.device();
        let attr = device.port(port)?;
        let (gid_index, gid) = address(&device.gids(port, attr.gid_tbl_len)).unwrap_or((0, [0; 2]));
        let room = sizes.sends + sizes.receives;
        // SAFETY: the context is open; no channel is given.
        let cq = unsafe {
            let nothing = ptr::null_mut();
            (device.library.create_cq)(device.context, room as i32, nothing, nothing, 0)
        };
        if cq.is_null() {
            return Err(system("make a completion queue"));
        }
        let qp = create(domain, cq, sizes).inspect_err(|_| {
            // SAFETY: nothing uses it.
            let _ = unsafe { (device.library.destroy_cq)(cq) };
        })?;
        // SAFETY: the queue pair was just made.
        let qpn = unsafe { (*qp).qp_num };
        let mtu = attr.active_mtu;
        let here = Endpoint { lid: attr.lid, qpn, psn: first_number(), gid, mtu };
        let link_layer = attr.link_layer;
        let domain = domain.clone();
        let pair = Self { qp, cq, domain, port, link_layer, gid_index, here };
        pair.initialise(access)?;
        Ok(pair)
    }

    /// Where it is, for the peer.
    pub fn endpoint(&self) -> Endpoint {
        self.here
    }

    /// The domain it is in.
    pub fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    fn modify(
        &self,
        attr: &mut QpAttr,
        mask: i32,
        what: &'static str,
    ) -> Result<(), RegisterError> {
        // SAFETY: the queue pair is there, and the attributes that the mask names are set.
        match unsafe { (self.domain.device().library.modify_qp)(self.qp, attr, mask) } {
            0 => Ok(()),
            errno => Err(errno_of(what, errno)),
        }
    }

    fn initialise(&self, access: Access) -> Result<(), RegisterError> {
        let mut attr = no_attr();
        attr.qp_state = 1;
        attr.port_num = self.port;
        attr.qp_access_flags = access.bits() & !(Access::WINDOWS | Access::ON_DEMAND).bits();
        let set = mask::STATE | mask::PKEY_INDEX | mask::PORT | mask::ACCESS_FLAGS;
        self.modify(&mut attr, set, "initialise a queue pair")
    }

    /// Connects it with its peer, which does the same.
    ///
    /// # Errors
    /// [`RegisterError::System`] by what failed.
    pub fn connect(&self, peer: &Endpoint) -> Result<(), RegisterError> {
        let mut attr = no_attr();
        attr.qp_state = 2;
        attr.path_mtu = self.here.mtu.min(peer.mtu);
        attr.dest_qp_num = peer.qpn;
        attr.rq_psn = peer.psn;
        attr.max_dest_rd_atomic = 1;
        attr.min_rnr_timer = 12; // 0.64 ms
        attr.ah_attr.port_num = self.port;
        attr.ah_attr.dlid = peer.lid;
        if self.link_layer == LINK_ETHERNET || peer.lid == 0 {
            attr.ah_attr.is_global = 1;
            attr.ah_attr.dgid = peer.gid;
            attr.ah_attr.sgid_index = self.gid_index;
            attr.ah_attr.hop_limit = 64;
        }
        let set = mask::STATE
            | mask::AV
            | mask::PATH_MTU
            | mask::DEST_QPN
            | mask::RQ_PSN
            | mask::MAX_DEST_RD_ATOMIC
            | mask::MIN_RNR_TIMER;
        self.modify(&mut attr, set, "connect a queue pair with its peer")?;
        attr.qp_state = 3;
        attr.timeout = 18; // 1 s
        attr.retry_cnt = 7;
        attr.rnr_retry = 7; // without end
        attr.sq_psn = self.here.psn;
        attr.max_rd_atomic = 1;
        let set = mask::STATE
            | mask::TIMEOUT
            | mask::RETRY_CNT
            | mask::RNR_RETRY
            | mask::SQ_PSN
            | mask::MAX_QP_RD_ATOMIC;
        self.modify(&mut attr, set, "open a queue pair for sending")
    }

    /// Posts a write of `entries`, one after the other, to the peer's memory at `to`, with immediate
    /// data where some is given: that ends a receive request of the peer's.
    ///
    /// # Safety
    /// The entries stay registered, and are not written, until the completion.
    ///
    /// # Errors
    /// [`RegisterError::System`]; more entries than the queue pair has room for are `EINVAL`.
    pub unsafe fn write(
        &self,
        id: u64,
        entries: &[Sge],
        to: RemoteMemory,
        immediate: Option<u32>,
    ) -> Result<(), RegisterError> {
        let mut request = self.request(id, entries);
        request.opcode = opcode::RDMA_WRITE;
        request.remote_addr = to.address;
        request.rkey = to.key;
        if let Some(immediate) = immediate {
            request.opcode = opcode::RDMA_WRITE_WITH_IMM;
            request.imm_or_rkey = immediate.to_be();
        }
        // SAFETY: the caller's.
        unsafe { self.post(&mut request, "post a write") }
    }

    /// Posts a message, which ends a receive request of the peer's.
    ///
    /// # Safety
    /// As [`QueuePair::write`].
    ///
    /// # Errors
    /// As there.
    pub unsafe fn send(&self, id: u64, entries: &[Sge]) -> Result<(), RegisterError> {
        let mut request = self.request(id, entries);
        request.opcode = opcode::SEND;
        // SAFETY: the caller's.
        unsafe { self.post(&mut request, "post a message") }
    }

    /// Posts room for a message of the peer's; without entries, for immediate data.
    ///
    /// # Safety
    /// The entries stay registered, and nobody uses them, until the completion.
    ///
    /// # Errors
    /// [`RegisterError::System`].
    pub unsafe fn receive(&self, id: u64, entries: &[Sge]) -> Result<(), RegisterError> {
        let (sg_list, num_sge) = (entries.as_ptr().cast_mut(), entries.len() as i32);
        let mut request = RecvWr { wr_id: id, next: ptr::null_mut(), sg_list, num_sge };
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair is there; the request is copied before this returns.
        let errno = unsafe {
            match (*(*self.qp).context).ops.post_recv {
                Some(post) => post(self.qp, &mut request, &mut bad),
                None => libc::ENOSYS,
            }
        };
        if errno == 0 { Ok(()) } else { Err(errno_of("post room for a message", errno)) }
    }

    /// Posts the binding of a window to a part of a region (which needs [`Access::WINDOWS`] and
    /// [`Access::LOCAL_WRITE`] if it may be written). The window's key is new, and good when the request has
    /// ended.
    ///
    /// # Errors
    /// [`RegisterError::System`].
    pub fn bind(
        &self,
        id: u64,
        window: &mut Window,
        region: &super::Region,
        part: (*const u8, usize),
        access: Access,
    ) -> Result<(), RegisterError> {
        let mut request = self.request(id, &[]);
        request.opcode = opcode::BIND_MW;
        request.bind_mw = window.as_ptr();
        request.bind_rkey = window.next_key();
        let (addr, length) = (part.0.addr() as u64, part.1 as u64);
        request.bind = abi::MwBindInfo { mr: region.mr, addr, length, access: access.bits() };
        // SAFETY: window and region are there; what they are of is the region's affair.
        unsafe { self.post(&mut request, "bind a memory window")? };
        window.bound();
        Ok(())
    }

    /// Posts the invalidation of a key. When it has ended no peer can use it any more: only then is
    /// what was written there to be trusted to stay as it is.
    ///
    /// # Errors
    /// [`RegisterError::System`].
    pub fn invalidate(&self, id: u64, key: u32) -> Result<(), RegisterError> {
        let mut request = self.request(id, &[]);
        request.opcode = opcode::LOCAL_INV;
        request.imm_or_rkey = key;
        // SAFETY: it names a key only.
        unsafe { self.post(&mut request, "invalidate a key") }
    }

    fn request(&self, id: u64, entries: &[Sge]) -> SendWr {
        // SAFETY: zeros are a valid value of it.
        let mut request: SendWr = unsafe { mem::zeroed() };
        request.wr_id = id;
        request.sg_list = entries.as_ptr().cast_mut();
        request.num_sge = entries.len() as i32;
        request.send_flags = abi::SEND_SIGNALED;
        request
    }

    /// # Safety
    /// What the request names is there until it has ended.
    unsafe fn post(&self, request: &mut SendWr, what: &'static str) -> Result<(), RegisterError> {
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair is there; the request and its list are copied before this returns.
        let errno = unsafe {
            match (*(*self.qp).context).ops.post_send {
                Some(post) => post(self.qp, request, &mut bad),
                None => libc::ENOSYS,
            }
        };
        if errno == 0 { Ok(()) } else { Err(errno_of(what, errno)) }
    }

    /// The next request that has ended, if one has.
    ///
    /// # Errors
    /// [`WorkError`].
    pub fn poll(&self) -> Result<Option<Completion>, WorkError> {
        // SAFETY: zeros are a valid value of it.
        let mut wc: Wc = unsafe { mem::zeroed() };
        // SAFETY: the queue is there, and there is room for one.
        let count = unsafe {
            match (*(*self.cq).context).ops.poll_cq {
                Some(poll) => poll(self.cq, 1, &mut wc),
                None => -libc::ENOSYS,
            }
        };
        match count {
            0 => Ok(None),
            1 if wc.status == 0 => {
                let immediate =
                    (wc.flags & abi::WC_WITH_IMM != 0).then(|| u32::from_be(wc.imm_data));
                Ok(Some(Completion { id: wc.wr_id, immediate, bytes: wc.byte_len }))
            }
            1 => Err(WorkError::Failed { id: wc.wr_id, status: self.status(wc.status) }),
            errno => Err(WorkError::Poll(io::Error::from_raw_os_error(errno.abs()))),
        }
    }

    /// Waits for the next request to end.
    ///
    /// # Errors
    /// [`WorkError`].
    pub fn wait(&self, timeout: Duration) -> Result<Completion, WorkError> {
        let start = Instant::now();
        let mut tries = 0u32;
        loop {
            if let Some(completion) = self.poll()? {
                return Ok(completion);
            }
            if start.elapsed() > timeout {
                return Err(WorkError::TimedOut(timeout));
            }
            tries += 1;
            if tries > 1000 {
                std::thread::sleep(Duration::from_micros(50));
            } else {
                std::thread::yield_now();
            }
        }
    }

    fn status(&self, status: u32) -> String {
        // SAFETY: the function gives a string that stays.
        let text = unsafe { CStr::from_ptr((self.domain.device().library.wc_status_str)(status)) };
        text.to_string_lossy().into_owned()
    }
}

/// Memory of the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RemoteMemory {
    /// Where, in its address space.
    pub address: u64,
    /// By which key.
    pub key: u32,
}

fn create(domain: &Domain, cq: *mut abi::Cq, sizes: QueueSizes) -> Result<*mut Qp, RegisterError> {
    let mut attr = abi::QpInitAttr {
        qp_context: ptr::null_mut(),
        send_cq: cq,
        recv_cq: cq,
        srq: ptr::null_mut(),
        cap: abi::QpCap {
            max_send_wr: sizes.sends,
            max_recv_wr: sizes.receives,
            max_send_sge: sizes.entries,
            max_recv_sge: 1,
            max_inline_data: 0,
        },
        qp_type: abi::QPT_RC,
        sq_sig_all: 0,
    };
    // SAFETY: domain and completion queue are there.
    let qp = unsafe { (domain.device().library.create_qp)(domain.pd, &mut attr) };
    if qp.is_null() { Err(system("make a queue pair")) } else { Ok(qp) }
}

fn no_attr() -> QpAttr {
    // SAFETY: zeros are a valid value of it.
    unsafe { mem::zeroed() }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        let library = self.domain.device().library;
        // SAFETY: the queue pair goes first, and then the queue that it used.
        let _ = unsafe { ((library.destroy_qp)(self.qp), (library.destroy_cq)(self.cq)) };
    }
}

impl fmt::Debug for QueuePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueuePair({} of {:?})", self.here, self.domain)
    }
}
