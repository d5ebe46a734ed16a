//! The container's limits on hugetlb pages, by cgroup v1 or v2.
//!
//! `/proc/self/cgroup` tells the group, and `/proc/self/mountinfo` where its hierarchy is mounted.
//! A limit of any ancestor holds for the group, so all directories from the group's up to the
//! mount are read. Faults are charged to a second account as well, that of reservations (`rsvd`),
//! wherever no page was reserved before, which is how pools take theirs; so its limits hold too.

use core::fmt::{self, Write};

use super::InfoError;
use super::text::{PathText, Reader};
use crate::os::Os;
use crate::units::{Bytes, PageSize};

/// Which kind of hierarchy has the hugetlb controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CgroupVersion {
    /// A hierarchy of its own, or of some controllers.
    V1,
    /// The unified hierarchy.
    V2,
}

/// What the container allows of one size of hugetlb pages.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct HugetlbLimit {
    /// The lowest limit of the group and its ancestors; `None` where there is none.
    pub limit: Option<Bytes>,
    /// How much more can be taken below all limits; `None` where there is none. Others in the same
    /// group, or under the same ancestor, may take it first.
    pub room: Option<Bytes>,
}

impl HugetlbLimit {
    /// No limit.
    pub const NONE: Self = Self { limit: None, room: None };

    fn tighten(&mut self, limit: u64, usage: u64) {
        let lower =
            |a: Option<Bytes>, b: u64| Some(a.map_or(Bytes::new(b), |a| a.min(Bytes::new(b))));
        self.limit = lower(self.limit, limit);
        self.room = lower(self.room, limit.saturating_sub(usage));
    }
}

/// Where this process's group is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    version: CgroupVersion,
    /// The group's directory.
    directory: PathText,
    /// How much of its path is the mount point.
    mount_len: usize,
}

/// The group whose limits on hugetlb pages hold for this process; `None` where no hierarchy that
/// has the controller is mounted.
pub(super) fn find<O: Os>(reader: &mut Reader<'_, O>) -> Result<Option<Group>, InfoError> {
    let Some(content) = reader.find("/proc/self/cgroup")? else { return Ok(None) };
    let Some((version, path)) = membership(content.text) else { return Ok(None) };
    let path = PathText::new(path);
    let Some(content) = reader.find("/proc/self/mountinfo")? else { return Ok(None) };
    Ok(mount(content.text, version).map(|(root, point)| group(version, path.as_str(), root, point)))
}

/// The hierarchy that has hugetlb, and the group's path in it. Lines are
/// `number:controllers:path`, and the unified hierarchy is number 0 without controllers.
fn membership(text: &str) -> Option<(CgroupVersion, &str)> {
    let mut unified = None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        if controllers.split(',').any(|name| name == "hugetlb") {
            return Some((CgroupVersion::V1, path));
        }
        if controllers.is_empty() {
            unified = Some((CgroupVersion::V2, path));
        }
    }
    unified
}

/// Root and mount point of the hierarchy, escaped as mountinfo has them. Lines are
/// `id parent device root point options [tags…] - type source options`, see proc_pid_mountinfo(5).
fn mount(text: &str, version: CgroupVersion) -> Option<(&str, &str)> {
    text.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let fitting = match (version, kind.next()?) {
            (CgroupVersion::V2, "cgroup2") => true,
            (CgroupVersion::V1, "cgroup") => {
                kind.nth(1)?.split(',').any(|option| option == "hugetlb")
            }
            _ => false,
        };
        let mut fields = mount.split(' ').skip(3);
        fitting.then_some((fields.next()?, fields.next()?))
    })
}

/// The group's directory: its path without the part that the mount begins at. A group outside of
/// the mount (seen from inside a container) has the mount point itself: what is there holds for it.
fn group(version: CgroupVersion, path: &str, root: &str, point: &str) -> Group {
    let mut directory = PathText::new(Unescaped(point));
    let mount_len = directory.as_str().len();
    let root = PathText::new(Unescaped(root));
    let inside = path.strip_prefix(root.as_str().trim_end_matches('/'));
    let inside = inside.filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let inside = inside.filter(|rest| !rest.split('/').any(|part| part == ".."));
    if let Some(rest) = inside {
        // What does not fit is cut off, and the reader refuses cut paths.
        let _ = directory.write_str(rest.trim_end_matches('/'));
    }
    Group { version, directory, mount_len }
}

/// A path of mountinfo: space, tab, newline and backslash are three octal digits after a backslash.
struct Unescaped<'a>(&'a str);

impl fmt::Display for Unescaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some((plain, escaped)) = rest.split_once('\\') {
            f.write_str(plain)?;
            let code = escaped.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
            match code.filter(u8::is_ascii) {
                Some(code) => {
                    f.write_char(char::from(code))?;
                    rest = &escaped[3..];
                }
                None => {
                    f.write_char('\\')?;
                    rest = escaped;
                }
            }
        }
        f.write_str(rest)
    }
}

impl Group {
    pub(super) fn version(&self) -> CgroupVersion {
        self.version
    }

    /// What it allows of a page size.
    pub(super) fn limit<O: Os>(
        &self,
        reader: &mut Reader<'_, O>,
        page: PageSize,
    ) -> Result<HugetlbLimit, InfoError> {
        let accounts = match self.version {
            CgroupVersion::V1 => [
                ("limit_in_bytes", "usage_in_bytes"),
                ("rsvd.limit_in_bytes", "rsvd.usage_in_bytes"),
            ],
            CgroupVersion::V2 => [("max", "current"), ("rsvd.max", "rsvd.current")],
        };
        let size = SizeName(page);
        let mut allowed = HugetlbLimit::NONE;
        let mut directory = self.directory.as_str();
        loop {
            for (limit, usage) in accounts {
                let limit = limit_in(reader, format_args!("{directory}/hugetlb.{size}.{limit}"))?;
                if let Some(limit) = limit {
                    let usage =
                        reader.number(format_args!("{directory}/hugetlb.{size}.{usage}"))?;
                    allowed.tighten(limit, usage.unwrap_or(0));
                }
            }
            match directory.rfind('/') {
                Some(parent) if directory.len() > self.mount_len => {
                    directory = &directory[..parent]
                }
                _ => return Ok(allowed),
            }
        }
    }
}

/// A limit in bytes; `None` where there is no such file, as in the root group, or no limit.
fn limit_in<O: Os>(
    reader: &mut Reader<'_, O>,
    path: fmt::Arguments<'_>,
) -> Result<Option<u64>, InfoError> {
    // v1 has no word for "no limit": it shows the largest multiple of the page, 2^63 − page.
    const UNLIMITED: u64 = 1 << 62;
    match reader.find(path)? {
        None => Ok(None),
        Some(content) if content.text.trim() == "max" => Ok(None),
        Some(content) => Ok(Some(content.number()?).filter(|&limit| limit < UNLIMITED)),
    }
}

/// A page size as the controller's files have it: `2MB`, `1GB`, `64KB`.
struct SizeName(PageSize);

impl fmt::Display for SizeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.bytes().get();
        match self.0.shift() {
            30.. => write!(f, "{}GB", bytes >> 30),
            20.. => write!(f, "{}MB", bytes >> 20),
            _ => write!(f, "{}KB", bytes >> 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_with_hugetlb_is_the_one_that_counts() {
        let mixed = "5:hugetlb,cpu:/a:b\n0::/u\n";
        assert_eq!(membership(mixed), Some((CgroupVersion::V1, "/a:b")));
        assert_eq!(membership("9:name=systemd:/\n0::/u/v\n"), Some((CgroupVersion::V2, "/u/v")));
        assert_eq!(membership("9:name=systemd:/\n"), None);
    }

    #[test]
    fn the_mount_is_found_whatever_stands_around_it() {
        let text = "30 23 0:26 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
                    31 23 0:27 /docker/1 /sys/fs/my\\040cgroup rw - cgroup cgroup rw,hugetlb\n\
                    32 23 0:28 / /sys/fs/cgroup/unified rw shared:1 master:2 - cgroup2 none rw\n";
        assert_eq!(mount(text, CgroupVersion::V1), Some(("/docker/1", "/sys/fs/my\\040cgroup")));
        assert_eq!(mount(text, CgroupVersion::V2), Some(("/", "/sys/fs/cgroup/unified")));
    }

    #[test]
    fn a_group_is_found_below_the_root_of_its_mount() {
        let directory = |path, root, point| {
            let group = group(CgroupVersion::V2, path, root, point);
            group.directory.as_str().to_owned()
        };
        assert_eq!(directory("/a/b", "/", "/cg"), "/cg/a/b");
        assert_eq!(directory("/", "/", "/cg"), "/cg");
        assert_eq!(directory("/docker/1/x", "/docker/1", "/c\\040g"), "/c g/x");
        assert_eq!(directory("/docker/12", "/docker/1", "/cg"), "/cg", "another group");
        assert_eq!(directory("/../../x", "/", "/cg"), "/cg", "outside of the name space");
    }

    #[test]
    fn sizes_are_named_as_by_the_controller() {
        let name = |bytes| SizeName(PageSize::from_bytes(bytes).unwrap()).to_string();
        assert_eq!(
            [name(Bytes::kib(64)), name(Bytes::mib(2)), name(Bytes::gib(16))],
            ["64KB", "2MB", "16GB"]
        );
    }
}
