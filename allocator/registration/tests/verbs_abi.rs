//! Our declarations of libibverbs' structures beside its own header, where that and a compiler are there.

use std::io::Write;
use std::mem::offset_of;
use std::process::Command;

use bookend_registration::verbs::abi::*;

macro_rules! facts {
    ($($ours:ident = $theirs:literal { $($field:ident $(= $their_field:literal)?),* })*) => {
        vec![$(
            $((concat!("offsetof(struct ", $theirs, ", ", facts!(@name $field $($their_field)?), ")"), offset_of!($ours, $field)),)*
        )*]
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $their_field:literal) => { $their_field };
}

macro_rules! sizes {
    ($($ours:ident = $theirs:literal),*) => {
        vec![$((concat!("sizeof(struct ", $theirs, ")"), size_of::<$ours>())),*]
    };
}

fn facts() -> Vec<(&'static str, usize)> {
    let mut facts = facts! {
        DeviceAttr = "ibv_device_attr" { max_mr_size, device_cap_flags, max_sge, max_mr, max_mw, phys_port_cnt }
        DeviceAttrEx = "ibv_device_attr_ex" { comp_mask, odp = "odp_caps" }
        ContextOps = "ibv_context_ops" { alloc_mw, dealloc_mw, poll_cq, post_send, post_recv }
        Context = "ibv_context" { ops, cmd_fd, async_fd, abi_compat }
        Pd = "ibv_pd" { context, handle }
        Mr = "ibv_mr" { context, pd, addr, length, handle, lkey, rkey }
        Mw = "ibv_mw" { context, pd, rkey, handle, kind = "type" }
        Qp = "ibv_qp" { handle, qp_num }
        Sge = "ibv_sge" { length, lkey }
        SendWr = "ibv_send_wr" { sg_list, num_sge, opcode, send_flags, imm_or_rkey = "imm_data",
            remote_addr = "wr.rdma.remote_addr", rkey = "wr.rdma.rkey", bind_mw = "bind_mw.mw",
            bind_rkey = "bind_mw.rkey", bind = "bind_mw.bind_info" }
        RecvWr = "ibv_recv_wr" { sg_list, num_sge }
        Wc = "ibv_wc" { status, opcode, byte_len, imm_data, flags = "wc_flags" }
        QpInitAttr = "ibv_qp_init_attr" { send_cq, recv_cq, cap, qp_type, sq_sig_all }
        AhAttr = "ibv_ah_attr" { sgid_index = "grh.sgid_index", hop_limit = "grh.hop_limit", dlid, is_global, port_num }
        QpAttr = "ibv_qp_attr" { path_mtu, rq_psn, sq_psn, dest_qp_num, qp_access_flags, ah_attr,
            max_rd_atomic, max_dest_rd_atomic, min_rnr_timer, port_num, timeout, retry_cnt, rnr_retry }
        PortAttr = "ibv_port_attr" { active_mtu, gid_tbl_len, lid, link_layer }
    };
    facts.extend(sizes! {
        DeviceAttr = "ibv_device_attr", Context = "ibv_context", ContextOps = "ibv_context_ops",
        Pd = "ibv_pd", Mr = "ibv_mr", Mw = "ibv_mw", Sge = "ibv_sge", MwBindInfo = "ibv_mw_bind_info",
        SendWr = "ibv_send_wr", RecvWr = "ibv_recv_wr", Wc = "ibv_wc", QpInitAttr = "ibv_qp_init_attr",
        AhAttr = "ibv_ah_attr", QpAttr = "ibv_qp_attr", PortAttr = "ibv_port_attr"
    });
    facts.push((
        "offsetof(struct verbs_context, context) - offsetof(struct verbs_context, query_device_ex)",
        size_of::<ContextEx>(),
    ));
    facts.push((
        "offsetof(struct verbs_context, sz) - offsetof(struct verbs_context, query_device_ex)",
        offset_of!(ContextEx, size),
    ));
    for (name, ours) in [
        ("IBV_WR_RDMA_WRITE", opcode::RDMA_WRITE),
        ("IBV_WR_RDMA_WRITE_WITH_IMM", opcode::RDMA_WRITE_WITH_IMM),
        ("IBV_WR_SEND", opcode::SEND),
        ("IBV_WR_LOCAL_INV", opcode::LOCAL_INV),
        ("IBV_WR_BIND_MW", opcode::BIND_MW),
        ("IBV_QPT_RC", QPT_RC),
        ("IBV_SEND_SIGNALED", SEND_SIGNALED),
        ("IBV_WC_WITH_IMM", WC_WITH_IMM),
        ("IBV_MW_TYPE_2", MW_TYPE_2),
        ("IBV_DEVICE_MEM_WINDOW_TYPE_2A | IBV_DEVICE_MEM_WINDOW_TYPE_2B", CAP_WINDOWS_2),
        ("IBV_QP_DEST_QPN", mask::DEST_QPN as u32),
        ("IBV_QP_MAX_DEST_RD_ATOMIC", mask::MAX_DEST_RD_ATOMIC as u32),
        ("IBV_QP_MIN_RNR_TIMER", mask::MIN_RNR_TIMER as u32),
    ] {
        facts.push((name, ours as usize));
    }
    facts
}

#[test]
fn declarations_agree_with_the_header() {
    let skip = |why: &str| {
        let _ = writeln!(std::io::stderr(), "skipped: declarations_agree_with_the_header: {why}");
    };
    let mut program = "#include <stddef.h>\n#include <infiniband/verbs.h>\n".to_owned();
    let facts = facts();
    for (n, (theirs, ours)) in facts.iter().enumerate() {
        program.push_str(&format!("_Static_assert(({theirs}) == {ours}, \"fact {n}\");\n"));
    }
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("facts.c");
    std::fs::write(&source, program).unwrap();
    let compile = |text: &[&str]| {
        let mut command = Command::new("cc");
        // Another place for the header than the system's.
        if let Some(include) = std::env::var_os("BOOKEND_VERBS_INCLUDE") {
            command.arg("-I").arg(include);
        }
        command.args(["-fsyntax-only", "-w"]).args(text).output()
    };
    let probe = dir.path().join("probe.c");
    std::fs::write(&probe, "#include <infiniband/verbs.h>\n").unwrap();
    match compile(&[probe.to_str().unwrap()]) {
        Err(_) => return skip("there is no C compiler"),
        Ok(output) if !output.status.success() => {
            return skip("infiniband/verbs.h is missing (apt-get install libibverbs-dev)");
        }
        Ok(_) => {}
    }
    let output = compile(&[source.to_str().unwrap()]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let wrong = facts.iter().enumerate().filter(|(n, _)| said.contains(&format!("\"fact {n}\"")));
    let wrong: Vec<_> = wrong.map(|(_, fact)| fact).collect();
    assert!(output.status.success(), "{wrong:?}\n{said}");
}
