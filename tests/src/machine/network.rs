//! Two network namespaces with a cable between them.
//!
//! They have no names: each is held by a child that waits for the end of its input, so that they go with this
//! process however it ends, and nothing outside them changes.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use crate::skip::{Skip, require_program, require_root};

/// One end of the cable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Whose address is [`Network::NEAR`].
    Near,
    /// Whose address is [`Network::FAR`].
    Far,
}

/// See the module.
#[derive(Debug)]
pub struct Network {
    near: Child,
    far: Child,
}

const LINK: &str = "link0";

impl Network {
    /// The address of the near end.
    pub const NEAR: &'static str = "10.77.0.1";
    /// The address of the far end.
    pub const FAR: &'static str = "10.77.0.2";

    /// Makes both ends, and the cable.
    ///
    /// # Errors
    /// Not root, no `ip`, or a kernel or container that does not allow it.
    pub fn new() -> Result<Self, Skip> {
        require_root("make network namespaces")?;
        for (program, package) in [("ip", "iproute2"), ("nsenter", "util-linux")] {
            require_program(program, package)?;
        }
        let network = Self { near: holder()?, far: holder()? };
        let far = network.far.id().to_string();
        let ip = |end, line: &str| network.run(end, &format!("ip {line}"));
        ip(End::Near, &format!("link add {LINK} type veth peer name {LINK} netns {far}"))?;
        for (end, address) in [(End::Near, Self::NEAR), (End::Far, Self::FAR)] {
            ip(end, "link set lo up")?;
            ip(end, &format!("address add {address}/24 dev {LINK}"))?;
            ip(end, &format!("link set {LINK} up"))?;
        }
        Ok(network)
    }

    /// `program`, to be run at `end`.
    pub fn command(&self, end: End, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(self.words(end)).arg(program).stdin(Stdio::null());
        command
    }

    /// What `nsenter` is told to run something at `end`, the program aside.
    pub fn words(&self, end: End) -> [String; 3] {
        let holder = if end == End::Near { &self.near } else { &self.far };
        ["-t".to_owned(), holder.id().to_string(), "-n".to_owned()]
    }

    /// Runs the words of `line` at `end`.
    fn run(&self, end: End, line: &str) -> Result<Output, Skip> {
        let mut words = line.split_whitespace();
        let mut command = self.command(end, on_path(words.next().unwrap_or_default()));
        Self::output(command.args(words), line)
    }

    /// What `command` says, which is told as `line` where it fails.
    fn output(command: &mut Command, line: &str) -> Result<Output, Skip> {
        let output = command.output().map_err(|error| Skip(format!("{line}: {error}")))?;
        if output.status.success() {
            return Ok(output);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Skip(format!("{line}: {}", said.trim_end())))
    }

    /// Gives new connections of both ends the congestion control of this name.
    ///
    /// # Errors
    /// The kernel has none, or root here is not allowed to give it.
    pub fn congestion(&self, name: &str) -> Result<(), Skip> {
        const SETTING: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
        for end in [End::Near, End::Far] {
            let mut command = self.command(end, on_path("sh"));
            command.args(["-c", "echo \"$1\" > \"$2\"", "sh", name, SETTING]);
            Self::output(&mut command, &format!("echo {name} > {SETTING}"))?;
        }
        Ok(())
    }

    /// Pulls the cable out.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn unplug(&self) -> Result<(), Skip> {
        self.run(End::Far, &format!("ip link set {LINK} down")).map(drop)
    }

    /// Plugs it in again.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn plug_in(&self) -> Result<(), Skip> {
        self.run(End::Far, &format!("ip link set {LINK} up")).map(drop)
    }

    /// Gives both directions the queueing discipline of these words of `tc`, such as `netem delay 5ms`.
    ///
    /// # Errors
    /// The kernel has none, or `tc` is missing.
    pub fn shape(&self, words: &str) -> Result<(), Skip> {
        for end in [End::Near, End::Far] {
            self.run(end, &format!("tc qdisc replace dev {LINK} root {words}"))?;
        }
        Ok(())
    }
}

/// Where a program is: busybox's `nsenter` takes a program of its own for one that is called only by its name.
fn on_path(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(program));
    found.into_iter().find(|path| path.is_file()).unwrap_or_else(|| program.into())
}

/// A child in a network namespace of its own.
fn holder() -> Result<Child, Skip> {
    let cannot = |error| Skip(format!("unshare --net: {error}"));
    let mut child = Command::new("unshare")
        .args(["--net", "sh", "-c", "echo ready; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(cannot)?;
    let mut ready = [0; 6];
    let said = match &mut child.stdout {
        Some(output) => std::io::Read::read_exact(output, &mut ready),
        None => Err(std::io::ErrorKind::BrokenPipe.into()),
    };
    if said.is_err() {
        let _ = child.wait();
        return Err(Skip("network namespaces are not allowed here".to_owned()));
    }
    Ok(child)
}

impl Drop for Network {
    fn drop(&mut self) {
        for child in [&mut self.near, &mut self.far] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
