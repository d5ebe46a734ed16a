//! `hugectl persist`: a systemd unit that reserves at boot.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::request::{Target, Wanted, place};
use super::{Context, Failure};
use crate::cli::{exit, output};

/// Prints a systemd unit that reserves these pages at boot, or installs it
///
/// It runs before other services, while memory is still whole. Without --install nothing is
/// written.
#[derive(Clone, Debug, Args)]
pub struct Options {
    #[command(flatten)]
    target: Target,
    /// Write the unit, instead of printing it; an existing one is replaced
    #[arg(long)]
    install: bool,
    /// Where to
    #[arg(long, value_name = "DIR", default_value = "/etc/systemd/system", requires = "install")]
    unit_dir: PathBuf,
}

const UNIT: &str = "hugectl-reserve.service";

/// Prints or installs the unit.
///
/// # Errors
/// [`Failure`].
pub fn run(options: &Options, context: &Context) -> Result<u8, Failure> {
    place(context, options.target.node)?;
    let wanted = options.target.amounts.wanted(context)?;
    let program = std::env::current_exe().map_err(|source| Failure::UserFile {
        path: "hugectl".into(),
        what: "find its own path",
        source,
    })?;
    let unit = unit(&program, &wanted, options)?;
    let written = if options.install {
        let path = options.unit_dir.join(UNIT);
        replace(&path, unit.as_bytes())?;
        let path = path.display();
        output::line(format_args!(
            "{path} is written; to use it: systemctl daemon-reload && systemctl enable {UNIT}"
        ))
    } else {
        output::line(unit.trim_end())
    };
    written.map_err(Failure::Output)?;
    Ok(exit::SUCCESS)
}

fn unit(program: &Path, wanted: &[Wanted], options: &Options) -> Result<String, Failure> {
    let program = program.to_str().filter(|path| !path.contains(['"', '\\', '%', '$', '\n']));
    let program = program.ok_or_else(|| {
        Failure::Usage(
            "the path of hugectl cannot be written in a unit; install it elsewhere".into(),
        )
    })?;
    let mut command = format!("\"{program}\" reserve");
    for Wanted { page, pages } in wanted {
        command.push_str(&format!(" --size {} --pages {pages}", page.bytes().get()));
    }
    if let Some(node) = options.target.node {
        command.push_str(&format!(" --node {node}"));
    }
    if options.target.contiguous {
        command.push_str(" --contiguous");
    }
    Ok(format!(
        "[Unit]\n\
         Description=Reserve huge pages while memory is whole\n\
         DefaultDependencies=no\n\
         After=local-fs.target\n\
         Before=sysinit.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         # 3: some pages could not be had; the journal says who is in the way.\n\
         SuccessExitStatus=3\n\
         TimeoutStartSec=90\n\
         ExecStart={command}\n\
         \n\
         [Install]\n\
         WantedBy=sysinit.target\n"
    ))
}

/// Writes a file whole or not at all.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |source| Failure::UserFile { path: path.into(), what: "write", source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file = fs::File::create_new(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("unit");
        fs::write(&path, "old").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(replace(&directory.path().join("none/unit"), b"new").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no leftovers");
    }
}
