//! Zones: what each node's memory is divided into, from `/proc/zoneinfo` and `/proc/buddyinfo`.
//!
//! Three sizes of a zone differ: *spanned* counts its holes, *present* does not, and *managed*
//! leaves out what was taken at boot or has not come online yet. A kernel that brings memory online
//! lazily shows `managed` growing; until it has, figures of free memory are too low.

use bookend::units::{Node, Pfn};

use super::files::{FileError, Files};
use super::indices::FreeBlocks;

/// One zone that has memory. Counts are of base pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Zone {
    /// Whose memory.
    pub node: Node,
    /// `DMA`, `DMA32`, `Normal`, `Movable`, `HighMem` or `Device`.
    pub name: String,
    /// Pages from its first to its last frame.
    pub spanned: u64,
    /// Pages that exist.
    pub present: u64,
    /// Pages that the kernel's page allocator has.
    pub managed: u64,
    /// Pages that are free, those in per-CPU lists left out.
    pub free: u64,
    /// Free pages below which the kernel reclaims before it hands out more.
    pub low: u64,
    /// Free pages at which background reclaim stops.
    pub high: u64,
    /// Free pages kept back for what can come from no other zone (`vm.lowmem_reserve_ratio`): huge
    /// pages, which can come from any, leave these alone.
    pub protected: u64,
    /// Free pages in per-CPU lists, which no flag tells from the kernel's own.
    pub in_lists: u64,
    /// Its first frame.
    pub start: Pfn,
    /// Free blocks by order.
    pub blocks: FreeBlocks,
}

impl Zone {
    fn new(node: Node, name: &str) -> Self {
        Self {
            node,
            name: name.to_owned(),
            spanned: 0,
            present: 0,
            managed: 0,
            free: 0,
            low: 0,
            high: 0,
            protected: 0,
            in_lists: 0,
            start: Pfn::new(0),
            blocks: FreeBlocks::default(),
        }
    }

    /// Whether only movable pages live there, so that all of it can be made contiguous.
    pub fn is_movable(&self) -> bool {
        self.name == "Movable"
    }

    /// Free pages beyond the high watermark and what is protected: what huge pages can take
    /// without waking reclaim.
    pub fn spare(&self) -> u64 {
        self.free.saturating_sub(self.high + self.protected)
    }
}

const ZONEINFO: &str = "proc/zoneinfo";
const BUDDYINFO: &str = "proc/buddyinfo";

/// All zones that have memory, by node and then by address.
///
/// # Errors
/// [`FileError`] of the two files.
pub fn zones(files: &Files) -> Result<Vec<Zone>, FileError> {
    let text = files.text(ZONEINFO)?;
    let mut zones = parse_zoneinfo(&text).map_err(|line| files.strange(ZONEINFO, line))?;
    zones.retain(|zone| zone.present > 0);
    let text = files.text(BUDDYINFO)?;
    for line in text.lines() {
        let (node, name, blocks) =
            parse_buddy_line(line).ok_or_else(|| files.strange(BUDDYINFO, line))?;
        if let Some(zone) = zones.iter_mut().find(|zone| zone.node == node && zone.name == name) {
            zone.blocks = blocks;
        }
    }
    Ok(zones)
}

/// `Node 0, zone   Normal`, which begins a zone in both files; and what follows it.
pub(super) fn zone_of(line: &str) -> Option<(Node, &str, &str)> {
    let (node, rest) = line.strip_prefix("Node")?.split_once(',')?;
    let rest = rest.trim_start().strip_prefix("zone")?.trim_start();
    let (name, rest) = rest.split_once([' ', ',']).unwrap_or((rest, ""));
    Some((Node::new(node.trim().parse().ok()?), name, rest))
}

fn parse_buddy_line(line: &str) -> Option<(Node, &str, FreeBlocks)> {
    let (node, name, counts) = zone_of(line)?;
    let counts: Option<Vec<u64>> = counts.split_whitespace().map(|n| n.parse().ok()).collect();
    Some((node, name, FreeBlocks::new(counts.filter(|counts| counts.len() < 64)?)))
}

/// The line that cannot be understood is the error.
fn parse_zoneinfo(text: &str) -> Result<Vec<Zone>, &str> {
    let mut zones: Vec<Zone> = Vec::new();
    for line in text.lines() {
        if line.starts_with("Node") {
            let (node, name, _) = zone_of(line).ok_or(line)?;
            zones.push(Zone::new(node, name));
        } else if let Some(zone) = zones.last_mut() {
            set(zone, line).ok_or(line)?;
        }
    }
    Ok(zones)
}

/// Takes over a line that matters; `None` where its number is none.
fn set(zone: &mut Zone, line: &str) -> Option<()> {
    let line = line.trim_start();
    let (key, value) = match line.strip_prefix("pages ") {
        Some(free) => free.split_once(' ')?, // "pages free     3840"
        None => line.split_once([' ', ':']).unwrap_or((line, "")),
    };
    let field = match key {
        "free" if zone.free == 0 => &mut zone.free,
        "spanned" => &mut zone.spanned,
        "present" => &mut zone.present,
        "managed" => &mut zone.managed,
        "low" => &mut zone.low,
        "high" if zone.spanned == 0 => &mut zone.high, // further down it is of a per-CPU list
        "count" => {
            zone.in_lists += value.trim_start_matches(':').trim().parse::<u64>().ok()?;
            return Some(());
        }
        "protection" => {
            // By the highest zone that an allocation may come from; of huge pages that is the last.
            let list = value.trim().strip_prefix('(')?.strip_suffix(')')?;
            let pages = list.split(',').map(|pages| pages.trim().parse::<u64>());
            zone.protected = pages.collect::<Result<Vec<_>, _>>().ok()?.into_iter().max()?;
            return Some(());
        }
        "start_pfn" => {
            zone.start = Pfn::new(value.trim_start_matches(':').trim().parse().ok()?);
            return Some(());
        }
        _ => return Some(()),
    };
    *field = value.trim().parse().ok()?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONEINFO_TEXT: &str = "\
Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 1131
      nr_free_cma  0
  pages free     3840
        boost    0
        min      10
        low      13
        high     16
        promo    19
        spanned  4095
        present  3998
        managed  3840
        protection: (0, 3019, 24090, 24090, 24090)
      nr_free_pages 3840
  pagesets
    cpu: 0
              count:    7
              high:     6
              batch:    1
    cpu: 1
              count:    5
  vm stats threshold: 4
  start_pfn:           1
Node 1, zone   Normal
  pages free     4436119
        low      20163
        high     25557
        spanned  5505024
        present  5505024
        managed  5394266
  start_pfn:           1048576
Node 1, zone  Movable
  pages free     0
        spanned  0
        present  0
        managed  0
";
    const BUDDYINFO_TEXT: &str = "\
Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      3
Node 1, zone   Normal      5      4      0      0      0      0      0      0      0      0      1
";

    fn tree(zoneinfo: &str, buddyinfo: &str) -> (tempfile::TempDir, Files) {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("proc")).unwrap();
        std::fs::write(root.path().join(ZONEINFO), zoneinfo).unwrap();
        std::fs::write(root.path().join(BUDDYINFO), buddyinfo).unwrap();
        let files = Files::at(root.path());
        (root, files)
    }

    #[test]
    fn zones_with_memory_are_told_with_their_free_blocks() {
        let (_root, files) = tree(ZONEINFO_TEXT, BUDDYINFO_TEXT);
        let zones = zones(&files).unwrap();
        let names: Vec<_> = zones.iter().map(|z| (z.node.get(), z.name.as_str())).collect();
        assert_eq!(names, [(0, "DMA"), (1, "Normal")], "an empty zone is none");
        let dma = &zones[0];
        assert_eq!((dma.free, dma.low, dma.high, dma.spanned), (3840, 13, 16, 4095));
        assert_eq!((dma.present, dma.managed, dma.start), (3998, 3840, Pfn::new(1)));
        assert_eq!(dma.blocks.pages(), 256 + 512 + 3 * 1024);
        assert_eq!((dma.protected, dma.spare(), dma.in_lists), (24090, 0, 12));
        assert_eq!(zones[1].blocks.pages(), 5 + 8 + 1024);
        assert_eq!(zones[1].start, Pfn::new(1048576));
        assert_eq!((zones[1].protected, zones[1].spare()), (0, 4436119 - 25557));
    }

    #[test]
    fn a_strange_line_is_quoted() {
        for (line, strange) in [("managed  3840", "managed  lots"), ("(0, 3019", "(0, few")] {
            let (_root, files) = tree(&ZONEINFO_TEXT.replace(line, strange), BUDDYINFO_TEXT);
            let error = zones(&files).unwrap_err().to_string();
            assert!(error.contains("zoneinfo") && error.contains(strange), "{error}");
        }
        let (_root, files) = tree(ZONEINFO_TEXT, "Node 0, zone DMA 1 x 3\n");
        let error = zones(&files).unwrap_err().to_string();
        assert!(error.contains("buddyinfo") && error.contains("1 x 3"), "{error}");
    }

    #[test]
    fn this_machine_can_be_read() {
        let zones = zones(&Files::of_machine()).unwrap();
        assert!(!zones.is_empty());
        for zone in &zones {
            assert!(zone.managed <= zone.present && zone.present <= zone.spanned, "{zone:?}");
        }
    }
}
