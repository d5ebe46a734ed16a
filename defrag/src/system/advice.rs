//! Settings that a machine should change so that its memory stays contiguous, each with its risk.
//!
//! Every rule looks at what the machine shows, and says nothing where that gives no reason: there
//! is no list of settings that are good for everybody.

use bookend::units::PageSize;
use serde::Serialize;

use super::counters::Counters;
use super::files::{FileError, Files};
use super::indices::FreeBlocks;
use super::pools::{HugePools, Place};
use super::survey::{Class, Survey};
use super::zones::zones;

/// A setting, and what it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Advice {
    /// A sysctl, a file or a boot parameter.
    pub setting: String,
    /// What it is.
    pub now: String,
    /// What it should be.
    pub advised: String,
    /// What on this machine speaks for it.
    pub why: String,
    /// What it costs.
    pub risk: &'static str,
}

/// What the rules look at.
struct Facts<'a> {
    files: &'a Files,
    /// Free memory of all zones.
    free: FreeBlocks,
    /// The order of a huge page.
    order: usize,
    meminfo: Counters,
    survey: Option<&'a Survey>,
}

type Rule = fn(&Facts<'_>) -> Result<Option<Advice>, FileError>;

const RULES: [Rule; 8] = [
    proactiveness,
    defrag_mode,
    cache_pressure,
    watermark_boost,
    transparent,
    at_boot,
    gigantic_first,
    contiguous_area,
];

/// What this machine should change. Without a survey (which root may make) rules about who stands
/// in the way say nothing; a setting that this kernel lacks, or this user may not read, is passed
/// over.
///
/// # Errors
/// [`FileError`] of the zones and of meminfo, without which there is nothing to judge.
pub fn advice(
    files: &Files,
    base: PageSize,
    survey: Option<&Survey>,
) -> Result<Vec<Advice>, FileError> {
    let mut free = FreeBlocks::default();
    zones(files)?.iter().for_each(|zone| free += &zone.blocks);
    let order = (PageSize::MIB2.shift() - base.shift()) as usize;
    let meminfo = Counters::meminfo(files)?;
    let facts = Facts { files, free, order, meminfo, survey };
    let mut advice = Vec::new();
    for rule in RULES {
        match rule(&facts) {
            Ok(found) => advice.extend(found),
            Err(FileError::Absent { .. }) => {}
            Err(error) if error.is_denied() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(advice)
}

impl Facts<'_> {
    /// The share of free memory that is too broken up for huge pages, in percent.
    fn unusable(&self) -> u32 {
        self.free.unusable(self.order) / 10
    }

    fn is_broken_up(&self) -> bool {
        self.unusable() >= 30
    }

    /// The share of blocks of a class, in percent.
    fn share(&self, class: Class) -> Option<u64> {
        let classes = self.survey?.classes(None);
        let all: u64 = classes.iter().sum::<u64>() - classes[Class::Absent.index()];
        Some(classes[class.index()] * 100 / all.max(1))
    }

    /// Pages in the pool of a size.
    fn pool(&self, page: PageSize) -> Result<u64, FileError> {
        HugePools::of(self.files).persistent(page, Place::Machine)
    }
}

/// A sysctl by its file, and its number.
fn sysctl(facts: &Facts<'_>, name: &str) -> Result<u64, FileError> {
    facts.files.number(format!("proc/sys/vm/{name}"))
}

fn broken_up(facts: &Facts<'_>) -> String {
    format!("{}% of free memory is in pieces smaller than a huge page", facts.unusable())
}

fn proactiveness(facts: &Facts<'_>) -> Result<Option<Advice>, FileError> {
    let now = sysctl(facts, "compaction_proactiveness")?;
    Ok((now < 50 && facts.is_broken_up()).then(|| Advice {
        setting: "vm.compaction_proactiveness".to_owned(),
        now: now.to_string(),
        advised: "50".to_owned(),
        why: broken_up(facts),
        risk: "the kernel moves pages in the background: some processor time, and pauses of \
               microseconds for whoever touches a page just then",
    }))
}

fn defrag_mode(facts: &Facts<'_>) -> Result<Option<Advice>, FileError> {
    let now = sysctl(facts, "defrag_mode")?;
    Ok((now == 0 && facts.is_broken_up()).then(|| Advice {
        setting: "vm.defrag_mode".to_owned(),
        now: now.to_string(),
        advised: "1".to_owned(),
        why: format!("{}, and this kernel can keep unmovable pages together", broken_up(facts)),
        risk: "allocations reclaim and compact rather than take a block of another kind: slower \
               when memory is short",
    }))
}

fn cache_pressure(facts: &Facts<'_>) -> Result<Option<Advice>, FileError> {
    let now = sysctl(facts, "vfs_cache_pressure")?;
    let slab = facts.meminfo.get("SReclaimable").unwrap_or(0);
    let share = slab * 100 / facts.meminfo.get("MemTotal").unwrap_or(0).max(1);
    let blocks = facts.share(Class::Slab).unwrap_or(0);
    let why = format!(
        "slab that can be shrunk is {share}% of memory and alone spoils {blocks}% of blocks"
    );
    Ok((now <= 100 && (share >= 5 || blocks >= 5)).then(|| Advice {
        setting: "vm.vfs_cache_pressure".to_owned(),
        now: now.to_string(),
        advised: "200".to_owned(),
        why,
        risk: "directories and inodes are forgotten sooner and read from the disk again",
    }))
}

fn watermark_boost(facts: &Facts<'_>) -> Result<Option<Advice>, FileError> {
    let now = sysctl(facts, "watermark_boost_factor")?;
    Ok((now == 0 && facts.is_broken_up()).then(|| Advice {
        setting: "vm.watermark_boost_factor".to_owned(),
        now: now.to_string(),
        advised: "15000".to_owned(),
        why: format!(
            "{}, and with 0 the kernel does nothing when kinds of pages mix",
            broken_up(facts)
        ),
        risk: "more is reclaimed in the background right after such an event",
    }))
}

fn transparent(facts: &Facts<'_>) -> Result<Option<Advice>, FileError> {
    let file = "sys/kernel/mm/transparent_hugepage/enabled";
    let now = facts.files.choice(file)?;
    Ok((now == "never").then(|| Advice {
        setting: format!("/{file}"),
        now,
        advised: "madvise".to_owned(),
        why: "programs that ask for huge pages get none".to_owned(),
        risk: "programs that ask for them use more memory and may wait at a fault",
    }))
}

fn at_boot(facts: &Facts<'_>) -> Result<Option<Advice>, FileError> {
    let pages = facts.pool(PageSize::MIB2)?;
    let line = facts.files.text("proc/cmdline")?;
    let given = line.split_whitespace().any(|word| word.starts_with("hugepages="));
    Ok((pages > 0 && !given).then(|| Advice {
        setting: "boot parameters".to_owned(),
        now: "no hugepages=".to_owned(),
        advised: format!("hugepagesz=2M hugepages={pages}"),
        why: format!("{pages} pages of 2 MiB are in the pool, and early at boot all can be had"),
        risk: "that memory is taken from the start, needed or not; a number too large leaves too \
               little to boot (or use hugectl persist, which asks after boot)",
    }))
}

fn gigantic_first(facts: &Facts<'_>) -> Result<Option<Advice>, FileError> {
    let small = facts.pool(PageSize::MIB2)?;
    let large = facts.pool(PageSize::GIB1)?;
    let many = 4 * PageSize::GIB1.bytes().get() / PageSize::MIB2.bytes().get();
    Ok((small >= many && large == 0).then(|| Advice {
        setting: "hugectl reserve".to_owned(),
        now: format!("{small} pages of 2 MiB, none of 1 GiB"),
        advised: format!("--size 2M --pages {small} --contiguous"),
        why: "so many pages taken one by one lie strewn; from split gigantic pages they lie in \
              runs of 1 GiB, and gigantic pages can still be had if they are taken first"
            .to_owned(),
        risk: "fewer gigantic pages may be possible than are wanted; the rest is taken one by one",
    }))
}

fn contiguous_area(facts: &Facts<'_>) -> Result<Option<Advice>, FileError> {
    let line = facts.files.text("proc/cmdline")?;
    let given = line.contains("hugetlb_cma=") || line.contains("movablecore");
    let blocked = facts.share(Class::Blocked).unwrap_or(0);
    Ok((blocked >= 20 && !given).then(|| Advice {
        setting: "boot parameters".to_owned(),
        now: "neither hugetlb_cma= nor movablecore=".to_owned(),
        advised: "hugetlb_cma= with the memory that gigantic pages are to come from".to_owned(),
        why: format!(
            "the kernel's own pages stand in {blocked}% of blocks, and no ladder frees them"
        ),
        risk: "the kernel cannot use that memory for itself, and may run short of it elsewhere",
    }))
}

#[cfg(test)]
mod tests {
    use super::super::made_up::MadeUp;
    use super::*;

    fn settings(machine: &MadeUp) -> Vec<String> {
        let advice = advice(machine.files(), PageSize::KIB4, None).unwrap();
        advice.into_iter().map(|advice| advice.setting).collect()
    }

    #[test]
    fn a_machine_in_order_is_left_alone() {
        let machine = MadeUp::two_nodes();
        machine.put("proc/buddyinfo", "Node 0, zone Normal 0 0 0 0 0 0 0 0 0 0 9\n");
        machine.put("proc/sys/vm/compaction_proactiveness", "20\n");
        machine.put("proc/sys/vm/defrag_mode", "0\n");
        machine.put("proc/cmdline", "hugepagesz=2M hugepages=9\n");
        assert_eq!(settings(&machine), Vec::<String>::new());
    }

    #[test]
    fn broken_memory_asks_for_compaction_where_the_kernel_has_it() {
        let machine = MadeUp::two_nodes(); // most of its free memory is in single pages
        assert_eq!(settings(&machine), Vec::<String>::new(), "the kernel has no such settings");
        machine.put("proc/sys/vm/compaction_proactiveness", "20\n");
        machine.put("proc/sys/vm/watermark_boost_factor", "0\n");
        assert_eq!(
            settings(&machine),
            ["vm.compaction_proactiveness", "vm.watermark_boost_factor"]
        );
        machine.put("proc/sys/vm/compaction_proactiveness", "60\n");
        machine.put("proc/cmdline", "quiet\n");
        assert_eq!(settings(&machine), ["vm.watermark_boost_factor", "boot parameters"]);
    }

    #[test]
    fn much_slab_asks_for_pressure() {
        let machine = MadeUp::two_nodes();
        machine.put("proc/sys/vm/vfs_cache_pressure", "100\n");
        assert_eq!(settings(&machine), Vec::<String>::new());
        machine.put("proc/meminfo", "MemTotal: 1000 kB\nSReclaimable: 60 kB\n");
        assert_eq!(settings(&machine), ["vm.vfs_cache_pressure"]);
        machine.put("proc/sys/vm/vfs_cache_pressure", "many\n");
        assert!(advice(machine.files(), PageSize::KIB4, None).is_err());
    }
}
