//! `hugectl topology`: nodes, their huge pages, and which devices are near which.

use bookend::units::Bytes;
use bookend_defrag::system::topology::{Device, Topology, topology};
use clap::Args;

use super::{Context, Failure};
use crate::cli::{exit, format, output};

/// Shows NUMA nodes with their huge pages, and the network cards, NVMe drives and GPUs near each
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Prints it.
///
/// # Errors
/// [`Failure`].
pub fn run(options: &Options, context: &Context) -> Result<u8, Failure> {
    let found = topology(&context.files)?;
    let written = if options.json { output::json(&found) } else { output::line(text(&found)) };
    written.map_err(Failure::Output)?;
    Ok(exit::SUCCESS)
}

fn text(found: &Topology) -> String {
    let mut text = String::new();
    let size = |bytes| Bytes::new(bytes).to_string();
    for node in &found.nodes {
        let (memory, processors) = (size(node.memory_bytes), &node.processors);
        text.push_str(&format!("Node {}: {memory}, processors {processors}\n", node.node));
        for &(page, pages, free) in &node.pools {
            let [pages, free] = [pages, free].map(format::count);
            text.push_str(&format!("  {pages} pages of {}, {free} free\n", size(page)));
        }
        if found.nodes.len() > 1 {
            let distances: Vec<_> = node.distances.iter().map(u32::to_string).collect();
            text.push_str(&format!("  distances to all nodes: {}\n", distances.join(" ")));
        }
        devices(&mut text, &node.devices);
    }
    if !found.anywhere.is_empty() {
        text.push_str("Devices that the firmware places nowhere\n");
        devices(&mut text, &found.anywhere);
    }
    text.pop();
    text
}

fn devices(text: &mut String, devices: &[Device]) {
    for Device { kind, name, address } in devices {
        text.push_str(&format!("  {kind} {name} ({address})\n"));
    }
}
