//! How the kernel gives transparent huge pages: Documentation/admin-guide/mm/transhuge.rst.

use super::InfoError;
use super::text::{Content, Reader};
use crate::os::Os;
use crate::units::{Bytes, PageSize};

/// Who gets transparent huge pages for anonymous memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Enabled {
    /// Everybody.
    Always,
    /// Who asks by madvise(2).
    Madvise,
    /// Nobody, on faults; `MADV_COLLAPSE` works still.
    Never,
}

/// What a fault does where no huge page is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Defrag {
    /// It compacts memory and waits.
    Always,
    /// It leaves that to the background.
    Defer,
    /// It waits where madvise(2) asked for huge pages, and leaves it to the background elsewhere.
    DeferMadvise,
    /// It waits where madvise(2) asked for huge pages, and nothing happens elsewhere.
    Madvise,
    /// Nothing.
    Never,
}

/// Who gets transparent huge pages for shared memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShmemEnabled {
    /// Everybody.
    Always,
    /// Everybody, within the size of the file.
    WithinSize,
    /// Who asks by madvise(2).
    Advise,
    /// Nobody.
    Never,
    /// Nobody, whatever a mount says.
    Deny,
    /// Everybody, whatever a mount says.
    Force,
}

/// Transparent huge pages of this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransparentInfo {
    /// Size of the huge page at the PMD level.
    pub page: PageSize,
    /// Who gets them for anonymous memory.
    pub enabled: Enabled,
    /// What a fault does to get one; `None` where the kernel does not say.
    pub defrag: Option<Defrag>,
    /// Who gets them for shared memory; `None` where the kernel does not say.
    pub shmem_enabled: Option<ShmemEnabled>,
}

const DIRECTORY: &str = "/sys/kernel/mm/transparent_hugepage";

pub(super) fn read<O: Os>(
    reader: &mut Reader<'_, O>,
) -> Result<Option<TransparentInfo>, InfoError> {
    let Some(content) = reader.find(format_args!("{DIRECTORY}/hpage_pmd_size"))? else {
        return Ok(None);
    };
    let page = PageSize::from_bytes(Bytes::new(content.number()?))
        .ok_or_else(|| content.unexpected(content.text.trim(), "a power of two"))?;
    let enabled = reader.read(format_args!("{DIRECTORY}/enabled"))?;
    let enabled = choice(
        &enabled,
        &[("always", Enabled::Always), ("madvise", Enabled::Madvise), ("never", Enabled::Never)],
    )?;
    let defrag = match reader.find(format_args!("{DIRECTORY}/defrag"))? {
        None => None,
        Some(content) => Some(choice(
            &content,
            &[
                ("always", Defrag::Always),
                ("defer", Defrag::Defer),
                ("defer+madvise", Defrag::DeferMadvise),
                ("madvise", Defrag::Madvise),
                ("never", Defrag::Never),
            ],
        )?),
    };
    let shmem_enabled = match reader.find(format_args!("{DIRECTORY}/shmem_enabled"))? {
        None => None,
        Some(content) => Some(choice(
            &content,
            &[
                ("always", ShmemEnabled::Always),
                ("within_size", ShmemEnabled::WithinSize),
                ("advise", ShmemEnabled::Advise),
                ("never", ShmemEnabled::Never),
                ("deny", ShmemEnabled::Deny),
                ("force", ShmemEnabled::Force),
            ],
        )?),
    };
    Ok(Some(TransparentInfo { page, enabled, defrag, shmem_enabled }))
}

/// What the word in brackets stands for.
fn choice<T: Copy>(content: &Content<'_>, words: &[(&str, T)]) -> Result<T, InfoError> {
    let chosen = content.chosen()?;
    let known = words.iter().find(|(word, _)| *word == chosen);
    known.map(|(_, meaning)| *meaning).ok_or_else(|| content.unexpected(chosen, "a known word"))
}
