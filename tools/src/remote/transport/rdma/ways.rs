//! How bytes go over RDMA, for people.

use std::fmt;

use bookend::units::Node;

/// How the bytes of a lane go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct How {
    /// What this end's ring is of; nothing where that is not known.
    pub(super) memory: String,
    /// The receiver takes keys back.
    pub(super) windows: bool,
    pub(super) immediates: bool,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = if self.immediates { "immediate data" } else { "messages" };
        let taken = match self.windows {
            true => "keys are taken back before the data is used",
            false => "data is copied before it is used, for want of memory windows",
        };
        let with = if self.memory.is_empty() { "" } else { " with " };
        write!(f, "{with}{}, arrivals told by {told}, {taken}", self.memory)
    }
}

/// A device, and the lanes that go by it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Way {
    device: String,
    node: Option<Node>,
    how: How,
    lanes: u32,
}

/// By which of this machine's devices lanes go, and how.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ways(Vec<Way>);

impl Ways {
    /// One more lane.
    pub(super) fn add(&mut self, device: &str, node: Option<Node>, how: How) {
        match self.0.iter_mut().find(|way| way.device == device && way.how == how) {
            Some(way) => way.lanes += 1,
            None => self.0.push(Way { device: device.to_owned(), node, how, lanes: 1 }),
        }
    }

    /// Lanes in all.
    pub fn lanes(&self) -> u32 {
        self.0.iter().map(|way| way.lanes).sum()
    }
}

impl fmt::Display for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, way) in self.0.iter().enumerate() {
            let joint = match (index, index + 1 == self.0.len()) {
                (0, _) => "",
                (_, true) => " and ",
                (_, false) => ", ",
            };
            let Way { device, lanes, how, .. } = way;
            let node = way.node.map_or_else(String::new, |node| format!("node {node}, "));
            let plural = if *lanes == 1 { "" } else { "s" };
            write!(f, "{joint}{device} ({node}{lanes} queue pair{plural})")?;
            // What several have in common is said once, behind the last of them.
            if self.0.get(index + 1).is_none_or(|next| next.how != *how) {
                how.fmt(f)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn how(memory: &str) -> How {
        How { memory: memory.to_owned(), windows: true, immediates: true }
    }

    #[test]
    fn what_is_said_of_a_ring_is_plain() {
        let text = how("pages of 2 MiB").to_string();
        assert!(
            text.contains(" with pages of 2 MiB, ") && text.contains("immediate data"),
            "{text}"
        );
        assert!(text.contains("taken back before"), "{text}");
        let text = How { windows: false, immediates: false, ..how("") }.to_string();
        assert!(text.contains("messages") && text.contains("copied before"), "{text}");
        assert!(!text.contains(" with "), "{text}");
    }

    #[test]
    fn every_device_is_named_with_its_lanes() {
        let mut ways = Ways::default();
        assert_eq!(ways.lanes(), 0);
        for (device, node) in [("a", None), ("b", Some(Node::new(1))), ("a", None)] {
            ways.add(device, node, how("pages of 2 MiB"));
        }
        assert_eq!(ways.lanes(), 3);
        let text = ways.to_string();
        let start = "a (2 queue pairs) and b (node 1, 1 queue pair) with pages of 2 MiB, arrivals";
        assert!(text.starts_with(start), "{text}");
        ways.add("c", None, how("pages of 4 KiB"));
        let text = ways.to_string();
        assert!(text.contains("b (node 1, 1 queue pair) with pages of 2 MiB"), "{text}");
        assert!(text.contains("and c (1 queue pair) with pages of 4 KiB"), "{text}");
    }
}
