//! What the kernel keeps each pageblock for, from `/proc/pagetypeinfo` (root only).
//!
//! A block marked `Unmovable` or `Reclaimable` is where the kernel puts what cannot be moved; when
//! these run out it takes movable ones, and few of them ever come back.

use bookend::units::Node;

use super::files::{FileError, Files};
use super::zones::zone_of;

/// The pageblocks of a zone by what they are kept for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageTypes {
    /// Whose memory.
    pub node: Node,
    /// The zone's name.
    pub zone: String,
    /// Names of types as the kernel has them, and how many blocks are of each.
    pub blocks: Vec<(String, u64)>,
}

const PAGETYPEINFO: &str = "proc/pagetypeinfo";

/// Of all zones.
///
/// # Errors
/// [`FileError`] of the file, which only root may read.
pub fn page_types(files: &Files) -> Result<Vec<PageTypes>, FileError> {
    let text = files.text(PAGETYPEINFO)?;
    parse(&text).ok_or_else(|| files.strange(PAGETYPEINFO, text.lines().next().unwrap_or("")))
}

/// The second table: a heading with the types' names, and a line a zone.
fn parse(text: &str) -> Option<Vec<PageTypes>> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("Number of blocks type"));
    let heading = lines.next()?.strip_prefix("Number of blocks type")?;
    let names: Vec<_> = heading.split_whitespace().collect();
    lines.filter(|line| line.starts_with("Node")).map(|line| parse_line(line, &names)).collect()
}

fn parse_line(line: &str, names: &[&str]) -> Option<PageTypes> {
    let (node, zone, counts) = zone_of(line)?;
    let counts: Option<Vec<u64>> = counts.split_whitespace().map(|n| n.parse().ok()).collect();
    let counts = counts.filter(|counts| counts.len() == names.len())?;
    let blocks = names.iter().map(|&name| name.to_owned()).zip(counts).collect();
    Some(PageTypes { node, zone: zone.to_owned(), blocks })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Page block order: 9
Pages per block:  512

Free pages count per migrate type at order       0      1
Node    0, zone      DMA, type    Unmovable      0      0

Number of blocks type     Unmovable      Movable  Reclaimable   HighAtomic      Isolate
Node 0, zone      DMA            1            7            0            0            0
Node 1, zone   Normal          141        10437          174            0            0
";

    #[test]
    fn the_second_table_is_read() {
        let types = parse(TEXT).unwrap();
        assert_eq!(types.len(), 2);
        assert_eq!((types[1].node, types[1].zone.as_str()), (Node::new(1), "Normal"));
        assert_eq!(types[1].blocks[1], ("Movable".to_owned(), 10437));
    }

    #[test]
    fn a_table_with_missing_columns_is_refused() {
        assert_eq!(parse(&TEXT.replace("Isolate", "")), None);
        assert_eq!(parse("Page block order: 9\n"), None);
    }
}
