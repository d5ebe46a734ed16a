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
pub const SCP: &str = "scp";
pub const RSYNC_SSH: &str = "rsync over ssh";
pub const ENCRYPTED: &str = "hugecp, encrypted";
pub const PLAIN: &str = "hugecp --plain";

/// Somebody who runs.
pub struct Peer<'a> {
    pub name: &'static str,
    /// Whether it makes the target; otherwise it says how fast it was.
    pub copies: bool,
    pub command: Box<dyn Fn() -> Command + 'a>,
}

/// What `ssh` needs for a server of its own.
struct Ssh {
    config: PathBuf,
    key: PathBuf,
    /// A directory that the server wants and that was not there.
    made: Option<&'static Path>,
}

impl Ssh {
    fn new(directory: &Path) -> std::io::Result<Self> {
        let (host, key) = (directory.join("host-key"), directory.join("key"));
        for key in [&host, &key] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key);
            let _ = keygen.status(); // where it is missing, scp says so
        }
        let config = directory.join("sshd_config");
        let text = format!(
            "HostKey {}\nAuthorizedKeysFile {}.pub\nStrictModes no\nUsePAM no\nPidFile none\n\
             PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n",
            host.display(),
            key.display()
        );
        fs::write(&config, text)?;
        let separation = Path::new("/run/sshd");
        let made = (!separation.exists()).then_some(separation);
        made.map_or(Ok(()), fs::create_dir)?;
        Ok(Self { config, key, made })
    }

    fn options(&self) -> Vec<String> {
        let mut options = vec!["-i".to_owned(), self.key.display().to_string()];
        let quiet =
            "BatchMode=yes StrictHostKeyChecking=no UserKnownHostsFile=/dev/null LogLevel=ERROR";
        options.extend(quiet.split(' ').flat_map(|word| ["-o".to_owned(), word.to_owned()]));
        options
    }

    fn line(&self) -> String {
        format!("ssh {}", self.options().join(" "))
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        if let Some(made) = self.made {
            let _ = fs::remove_dir(made); // all that can be done
        }
    }
}

/// Servers at the far end, ended when dropped.
pub struct Peers<'n> {
    network: &'n Network,
    directory: PathBuf,
    rsh: PathBuf,
    ssh: Ssh,
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
        let ssh = Ssh::new(directory).map_err(|error| cannot("keys for ssh", error))?;
        let mut sshd = network.command(End::Far, "/usr/sbin/sshd");
        sshd.arg("-D").arg("-f").arg(&ssh.config);
        for command in [&mut rsync, &mut iperf3, &mut sshd] {
            command.stdout(Stdio::null()).stderr(Stdio::null());
            servers.extend(command.spawn()); // where it is missing, its client says so
        }
        std::thread::sleep(std::time::Duration::from_millis(500)); // they listen by then
        Ok(Self { network, directory: directory.to_owned(), rsh, ssh, servers })
    }

    /// Everybody.
    pub fn all<'a>(&'a self, source: &'a Path, seconds: u32) -> Vec<Peer<'a>> {
        let far = Network::FAR;
        let here = move |program: &str| self.network.command(HERE, program);
        let iperf3 = move |options: &[&str]| {
            let mut command = here("iperf3");
            command.args(["-J", "-c", far, "-t"]).arg(seconds.to_string()).args(options);
            command
        };
        let rsync = move |options: &[&str]| {
            let mut command = here("rsync");
            command.args(options).arg(source).arg(format!("rsync://{far}/in/target"));
            command
        };
        let ssh = move |program: &str| {
            let target = self.directory.join("in/target");
            let mut command = here(program);
            match program {
                "scp" => command.arg("-q").args(self.ssh.options()),
                _ => command.args(["--whole-file", "-e"]).arg(self.ssh.line()),
            };
            command.arg(source).arg(format!("root@{far}:{}", target.display()));
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
            peer(IPERF3, false, Box::new(move || iperf3(&[]))),
            peer("iperf3, 2 streams", false, Box::new(move || iperf3(&["-P", "2"]))),
            peer("iperf3, by reno", false, Box::new(move || iperf3(&["-C", "reno"]))),
            peer(RSYNC, true, Box::new(move || rsync(&["--whole-file"]))),
            peer(RSYNC_SSH, true, Box::new(move || ssh("rsync"))),
            peer(SCP, true, Box::new(move || ssh("scp"))),
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
