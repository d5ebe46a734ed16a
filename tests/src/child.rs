//! A test that plays two parts: the process that the harness started, and a child that runs one
//! function of the same binary.
//!
//! The function is an `#[ignore]`d test, which nobody runs by accident; the child is told its part
//! through the environment and talks over its standard input and output, a line at a time.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Set for children, so that a part that is run by hand (`--ignored`) can tell.
const MARK: &str = "BOOKEND_TEST_CHILD";

/// A line from the child begins with this; the harness prints lines of its own.
const SAYS: &str = "says: ";

/// What a child was given in `command`; `None` in a process that is none.
pub fn argument() -> Option<String> {
    std::env::var(MARK).ok()
}

/// The child's side: says a line to the parent.
pub fn say(line: &str) {
    println!("\n{SAYS}{line}");
    let _ = std::io::stdout().flush();
}

/// The child's side: waits for a line of the parent; `None` when it is gone.
pub fn hear() -> Option<String> {
    let mut line = String::new();
    let n = std::io::stdin().lock().read_line(&mut line).ok()?;
    (n > 0).then(|| line.trim_end().to_owned())
}

/// Waits until what another process does shows, for 20 s at most.
///
/// # Panics
/// With `what`, where it does not show.
pub fn wait_until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Makes `command` run the test function `part` of this binary with `argument`.
pub fn instruct(command: &mut Command, part: &str, argument: &str) {
    command
        .args(["--exact", part, "--ignored", "--nocapture", "--test-threads=1"])
        .env(MARK, argument)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
}

/// The parent's side of a running part. It is killed, and reaped, when this is dropped.
#[derive(Debug)]
pub struct Part {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Part {
    /// Starts the test function `part` of this binary.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(part: &str, argument: &str) -> Self {
        let this = std::env::current_exe().expect("a test knows its binary");
        let mut command = Command::new(this);
        instruct(&mut command, part, argument);
        Self::spawn(command)
    }

    /// Starts a command that was [instructed](instruct).
    ///
    /// # Panics
    /// It cannot be started.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the test's binary starts");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, input, output }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a line.
    pub fn tell(&mut self, line: &str) {
        if let Some(input) = &mut self.input {
            let _ = writeln!(input, "{line}");
        }
    }

    /// Waits for what it says next.
    ///
    /// # Panics
    /// It ended without saying anything.
    pub fn listen(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let n = self.output.read_line(&mut line).expect("a pipe can be read");
            assert!(n > 0, "the child ended: {:?}", self.child.wait());
            if let Some(said) = line.trim_end().strip_prefix(SAYS) {
                return said.to_owned();
            }
        }
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(mut self) {
        self.end();
    }

    /// Closes its input, and waits for its end.
    ///
    /// # Panics
    /// It failed.
    pub fn finish(mut self) {
        self.input = None;
        let mut rest = String::new();
        let _ = self.output.read_to_string(&mut rest);
        let status = self.child.wait().expect("a child can be waited for");
        assert!(status.success(), "the child failed: {status}\n{rest}");
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.end();
    }
}
