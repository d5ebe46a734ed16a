//! On which machine figures were measured: they mean little without.

use std::fmt;
use std::fs;
use std::time::Duration;

use bookend::units::Bytes;

use super::memory::meminfo;
use crate::cli::format;

/// What is printed above every table.
#[derive(Clone, Debug)]
pub struct Machine {
    processor: String,
    processors: usize,
    memory: Option<Bytes>,
    kernel: String,
}

impl Machine {
    /// This one. What cannot be read is said to be unknown.
    pub fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            processor: processor(&cpuinfo),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory: meminfo("MemTotal"),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
        }
    }
}

fn processor(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let name = line.and_then(|line| line.split_once(':'));
    name.map_or_else(|| "unknown processor".to_owned(), |(_, name)| name.trim().to_owned())
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Machine: {} ({} used), ", self.processor, self.processors)?;
        match self.memory {
            Some(memory) => write!(f, "{memory} of memory, ")?,
            None => f.write_str("memory unknown, ")?,
        }
        write!(f, "Linux {}", self.kernel)
    }
}

/// What a run took of this process: its time, and the most memory it had at once.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// From start to end.
    pub time: Duration,
    /// Resident at most; `None` where the kernel does not say.
    pub peak: Option<Bytes>,
}

impl Cost {
    /// Of this process since `time` ago.
    pub fn of(time: Duration) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self { time, peak: kib_line(&status, "VmHWM:") }
    }
}

/// A line of `/proc/…/status` or `smaps_rollup` that is in kB.
pub fn kib_line(text: &str, name: &str) -> Option<Bytes> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok().map(Bytes::kib)
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Took {}", format::duration(self.time))?;
        match self.peak {
            Some(peak) => write!(f, " and {peak} of memory at most"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_prints_is_read() {
        assert_eq!(processor("x\nmodel name\t: A CPU @ 2 GHz\n"), "A CPU @ 2 GHz");
        assert_eq!(processor(""), "unknown processor");
        let status = "VmPeak:\t 12 kB\nVmHWM:\t    2048 kB\n";
        assert_eq!(kib_line(status, "VmHWM:"), Some(Bytes::mib(2)));
        assert_eq!(kib_line(status, "VmRSS:"), None);
        assert!(Cost::of(Duration::ZERO).peak.unwrap() > Bytes::ZERO);
        assert!(Machine::this().to_string().contains("Linux "));
    }
}
