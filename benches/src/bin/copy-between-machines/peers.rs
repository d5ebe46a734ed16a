//! Who runs: each with what it needs at the far end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bookend_tests::machine::{End, Network};
use bookend_tests::skip::Skip;
use bookend_tests::tools::hugecp;

use super::HERE;

/// Names in the table.
pub const IPERF3: &str = "iperf3";
pub const RSYNC: &str = "rsync, daemon, in clear";
pub const ENCRYPTED: &str = "hugecp, encrypted";
pub const PLAIN: &str = "hugecp --plain";

/// Somebody who runs.
pub struct Peer<'a> {
    pub name: &'static str,
    /// Whether it makes the target; otherwise it says how fast it was.
    pub copies: bool,
    pub command: Box<dyn Fn() -> Command + 'a>,
}

/// Servers at the far end, ended when dropped.
pub struct Peers<'n> {
    network: &'n Network,
    directory: PathBuf,
    rsh: PathBuf,
    servers: Vec<Child>,
}

impl Drop for Peers<'_> {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl<'n> Peers<'n> {
    /// Starts the servers; targets go to `in/target` in `directory`.
    pub fn start(network: &'n Network, directory: &Path) -> Result<Self, Skip> {
        let cannot = |what: &str, error: std::io::Error| Skip(format!("{what}: {error}"));
        let into = directory.join("in");
        fs::create_dir(&into).map_err(|error| cannot("mkdir", error))?;
        let rsh = directory.join("rsh");
        let words = network.words(End::Far).join(" ");
        fs::write(&rsh, format!("#!/bin/sh\nshift\nexec nsenter {words} \"$@\"\n"))
            .and_then(|()| fs::set_permissions(&rsh, fs::Permissions::from_mode(0o755)))
            .map_err(|error| cannot("rsh", error))?;
        let config = directory.join("rsyncd.conf");
        let text = format!(
            "use chroot = no\nuid = root\ngid = root\n[in]\npath = {}\nread only = no\n",
            into.display()
        );
        fs::write(&config, text).map_err(|error| cannot("rsyncd.conf", error))?;
        let mut rsync = network.command(End::Far, "rsync");
        rsync.args(["--daemon", "--no-detach", "--config"]).arg(config);
        let mut iperf3 = network.command(End::Far, "iperf3");
        iperf3.arg("-s");
        let mut servers = Vec::new();
        for command in [&mut rsync, &mut iperf3] {
            command.stdout(Stdio::null()).stderr(Stdio::null());
            servers.extend(command.spawn()); // where it is missing, its client says so
        }
        std::thread::sleep(std::time::Duration::from_millis(500)); // they listen by then
        Ok(Self { network, directory: directory.to_owned(), rsh, servers })
    }

    /// Everybody.
    pub fn all<'a>(&'a self, source: &'a Path, seconds: u32) -> Vec<Peer<'a>> {
        let far = Network::FAR;
        let here = move |program: &str| self.network.command(HERE, program);
        let iperf3 = move |streams: &str| {
            let mut command = here("iperf3");
            command.args(["-J", "-c", far, "-P", streams, "-t"]).arg(seconds.to_string());
            command
        };
        let rsync = move |options: &[&str]| {
            let mut command = here("rsync");
            command.args(options).arg(source).arg(format!("rsync://{far}/in/target"));
            command
        };
        let hugecp = move |options: &[&str]| {
            let mut command = self.network.command(HERE, hugecp());
            command.arg("--rsh").arg(&self.rsh).arg("--remote-program").arg(self::hugecp());
            let target = self.directory.join("in/target");
            command.args(options).arg(source).arg(format!("{far}:{}", target.display()));
            command
        };
        let peer =
            |name, copies, command: Box<dyn Fn() -> Command + 'a>| Peer { name, copies, command };
        vec![
            peer(IPERF3, false, Box::new(move || iperf3("1"))),
            peer("iperf3, 2 streams", false, Box::new(move || iperf3("2"))),
            peer(RSYNC, true, Box::new(move || rsync(&["--whole-file"]))),
            peer(ENCRYPTED, true, Box::new(move || hugecp(&[]))),
            peer(
                "hugecp, encrypted, 1 stream",
                true,
                Box::new(move || hugecp(&["--streams", "1"])),
            ),
            peer(PLAIN, true, Box::new(move || hugecp(&["--plain"]))),
            peer(
                "hugecp --plain, 4 streams",
                true,
                Box::new(move || hugecp(&["--plain", "--streams", "4"])),
            ),
        ]
    }
}
