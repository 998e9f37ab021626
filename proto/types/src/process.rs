//! CPU time, memory and open files, as the operating system reports them.
//!
//! These are the only readers of these figures in forebay: pipeline, server, load test, trainer, tests
//! and benches use them. What comes from `/proc` is `None` where the system has none.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time of this process so far, user and system, of all threads.
pub fn cpu_time() -> Duration {
    read(ClockId::ProcessCPUTime)
}

/// CPU time of the calling thread so far, user and system.
pub fn thread_cpu_time() -> Duration {
    read(ClockId::ThreadCPUTime)
}

fn read(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// A stopwatch of the calling thread's CPU time.
#[derive(Debug)]
pub struct CpuTimer(Duration);

impl CpuTimer {
    /// Starts the stopwatch.
    pub fn start() -> Self {
        Self(thread_cpu_time())
    }

    /// CPU time since the start or the previous lap.
    pub fn lap(&mut self) -> Duration {
        let now = thread_cpu_time();
        now.saturating_sub(std::mem::replace(&mut self.0, now))
    }
}

/// CPU time of a child process, user and system, in whole ticks of the kernel (usually 10 ms). A child
/// that has exited can be read until it is waited for.
pub fn cpu_time_of(child: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
    let ticks = ticks_of(&stat)?;
    Some(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second().max(1)))
}

/// The sum of utime and stime, fields 14 and 15 of `proc_pid_stat(5)`.
fn ticks_of(stat: &str) -> Option<u64> {
    // The name of the program, field 2, may contain spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    Some(times.next()?.parse::<u64>().ok()? + times.next()?.parse::<u64>().ok()?)
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Physical memory in use now.
    pub resident: u64,
    /// The most physical memory that was ever in use.
    pub peak_resident: u64,
    /// The most address space that was ever mapped.
    pub peak_mapped: u64,
}

/// Memory of this process.
pub fn memory() -> Option<Memory> {
    Memory::parse(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Memory of another process.
pub fn memory_of(process: u32) -> Option<Memory> {
    Memory::parse(&std::fs::read_to_string(format!("/proc/{process}/status")).ok()?)
}

/// Memory that this process may use: that of the machine, or less where a control group limits it.
pub fn available_memory() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| kibibytes(&text, "MemTotal:"));
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&groups).filter_map(|path| read(&path)?.trim().parse().ok());
    limits.chain(machine).min()
}

/// The files that may hold a limit, of the control groups of `/proc/self/cgroup` and of those that they
/// are in. A container may see its own group as the root.
fn limit_files(groups: &str) -> impl Iterator<Item = String> {
    groups.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or(""), fields.next().unwrap_or("/"));
        let file = match controllers {
            "" => Some(("/sys/fs/cgroup", "memory.max")),
            _ if controllers.split(',').any(|name| name == "memory") => {
                Some(("/sys/fs/cgroup/memory", "memory.limit_in_bytes"))
            }
            _ => None,
        };
        let groups = std::path::Path::new(path).ancestors();
        let files = file.map(|(root, name)| groups.map(move |group| limit_file(root, group, name)));
        files.into_iter().flatten()
    })
}

fn limit_file(root: &str, group: &std::path::Path, name: &str) -> String {
    format!("{root}{}/{name}", group.display().to_string().trim_end_matches('/'))
}

/// The bytes of a line such as `MemTotal:     1234 kB`, whose kB are KiB.
fn kibibytes(lines: &str, name: &str) -> Option<u64> {
    let line = lines.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

impl Memory {
    /// Parses the lines `VmRSS:     1234 kB` of `proc_pid_status(5)`.
    fn parse(status: &str) -> Option<Self> {
        let bytes = |name| kibibytes(status, name);
        Some(Self {
            resident: bytes("VmRSS:")?,
            peak_resident: bytes("VmHWM:")?,
            peak_mapped: bytes("VmPeak:")?,
        })
    }
}

/// Number of open file descriptors of this process.
pub fn open_files() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_spends_cpu_time_of_its_process() {
        let (begun, mut timer) = (cpu_time(), CpuTimer::start());
        let mut spent = Duration::ZERO;
        while spent < Duration::from_millis(5) {
            spent += timer.lap();
        }
        assert!(cpu_time().saturating_sub(begun) >= spent);
    }

    #[test]
    fn ticks_are_counted_after_the_name() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 250 50 99 99";
        for name in ["forebay", "a) R 1 (b", "a b"] {
            assert_eq!(ticks_of(&format!("17 ({name}) {fields}")), Some(300), "{name}");
        }
        assert_eq!(ticks_of("17 (forebay) S 1"), None);
    }

    #[test]
    fn memory_is_read_in_kibibytes() {
        let status = "Name:\tx\nVmPeak:\t    9000 kB\nVmHWM:\t 3 kB\nVmRSS:\t      2 kB\n";
        let memory = Memory { resident: 2048, peak_resident: 3072, peak_mapped: 9000 << 10 };
        assert_eq!(Memory::parse(status), Some(memory));
        assert_eq!(Memory::parse("VmRSS: many kB\n"), None);
    }

    #[test]
    fn the_limits_of_a_control_group_and_of_those_around_it_are_looked_for() {
        let files = |groups| limit_files(groups).collect::<Vec<_>>();
        let two = ["/sys/fs/cgroup/a/b/memory.max", "/sys/fs/cgroup/a/memory.max"];
        assert_eq!(files("0::/a/b\n"), [two[0], two[1], "/sys/fs/cgroup/memory.max"]);
        assert_eq!(files("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
        let one = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
        assert_eq!(files("5:cpu,cpuacct:/x\n4:memory:/\n"), [one]);
        assert!(files("").is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_and_open_files() {
        let memory = memory().unwrap();
        assert!(memory.resident > 0 && memory.resident <= memory.peak_mapped, "{memory:?}");
        assert!(memory_of(std::process::id()).is_some() && memory_of(u32::MAX).is_none());
        assert!(cpu_time_of(std::process::id()).is_some());
        assert!(open_files().unwrap() > 0);
        assert!(available_memory().unwrap() >= memory.resident);
    }
}
