//! Slab caches by size, from `/proc/slabinfo` (root only), and which of them can be shrunk.

use bookend::units::PageSize;
use serde::Serialize;

use super::files::{FileError, Files};

/// A cache.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Cache {
    /// Its name; caches that the kernel has merged go by one of their names.
    pub name: String,
    /// Objects in use.
    pub active: u64,
    /// Objects there is room for.
    pub objects: u64,
    /// Bytes of an object.
    pub object_bytes: u64,
    /// Memory of all its slabs.
    pub bytes: u64,
    /// Whether shrinkers can free its objects (dentries, inodes); `None` where the kernel does not
    /// tell.
    pub reclaimable: Option<bool>,
}

const SLABINFO: &str = "proc/slabinfo";

/// All caches, largest first.
///
/// # Errors
/// [`FileError`] of slabinfo.
pub fn caches(files: &Files, base: PageSize) -> Result<Vec<Cache>, FileError> {
    let text = files.text(SLABINFO)?;
    let lines = text.lines().skip_while(|line| line.starts_with("slabinfo"));
    let mut caches = Vec::new();
    for line in lines.filter(|line| !line.starts_with('#')) {
        let mut cache = parse(line, base).ok_or_else(|| files.strange(SLABINFO, line))?;
        let account = files.number(format!("sys/kernel/slab/{}/reclaim_account", cache.name));
        cache.reclaimable = account.ok().map(|flag| flag != 0);
        caches.push(cache);
    }
    caches.sort_by_key(|cache| std::cmp::Reverse(cache.bytes));
    Ok(caches)
}

/// `name active objects size objects-a-slab pages-a-slab : tunables … : slabdata active slabs …`
fn parse(line: &str, base: PageSize) -> Option<Cache> {
    let mut parts = line.split(':');
    let mut fields = parts.next()?.split_whitespace();
    let name = fields.next()?.to_owned();
    let numbers: Option<Vec<u64>> = fields.map(|field| field.parse().ok()).collect();
    let [active, objects, object_bytes, _, pages] = numbers?[..] else { return None };
    let data = parts.nth(1)?.trim().strip_prefix("slabdata")?;
    let slabs: u64 = data.split_whitespace().nth(1)?.parse().ok()?;
    let bytes = slabs.checked_mul(pages)?.checked_mul(base.bytes().get())?;
    Some(Cache { name, active, objects, object_bytes, bytes, reclaimable: None })
}

#[cfg(test)]
mod tests {
    use super::super::made_up::MadeUp;
    use super::*;

    const TEXT: &str = "\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables
small 1 25 160 25 1 : tunables 0 0 0 : slabdata 9 9 0
dentry 35911 42567 192 21 1 : tunables 0 0 0 : slabdata 2000 2027 0
";

    #[test]
    fn the_largest_cache_comes_first() {
        let machine = MadeUp::empty();
        machine.put(SLABINFO, TEXT);
        machine.put("sys/kernel/slab/dentry/reclaim_account", "1\n");
        let caches = caches(machine.files(), PageSize::KIB4).unwrap();
        let names: Vec<_> = caches.iter().map(|cache| (cache.name.as_str(), cache.bytes)).collect();
        assert_eq!(names, [("dentry", 2027 << 12), ("small", 9 << 12)]);
        assert_eq!((caches[0].reclaimable, caches[1].reclaimable), (Some(true), None));
    }

    #[test]
    fn a_strange_line_is_quoted() {
        let machine = MadeUp::empty();
        machine.put(SLABINFO, "slabinfo - version: 2.1\nx 1 2\n");
        let error = caches(machine.files(), PageSize::KIB4).unwrap_err();
        assert!(error.to_string().contains("x 1 2"), "{error}");
    }
}
