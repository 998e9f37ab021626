//! Reads the metrics of the servers and of this process once a second.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::telemetry::{ServerInterval, Telemetry};

const INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for a server's metrics.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Largest response that is read.
const MAX_BYTES: u64 = 1 << 20;

/// A thread that reads metrics until it is stopped.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: SyncSender<()>,
    thread: JoinHandle<f64>,
}

/// A server's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counters {
    images: f64,
    cpu_seconds: f64,
    rss_bytes: f64,
}

impl Watch {
    /// Watches servers by the addresses of their metrics, as `host:port` or `http://host:port`.
    pub(crate) fn start(telemetry: &Arc<Telemetry>, metrics: Vec<String>) -> Result<Self, Error> {
        let (stop, stopped) = sync_channel::<()>(1);
        let telemetry = Arc::clone(telemetry);
        let watch = move || {
            let mut before: Vec<Option<Counters>> =
                metrics.iter().map(|address| scrape(address)).collect();
            let mut cpu_seconds = 0.0;
            let begin = Instant::now();
            for tick in 1.. {
                let wait = (INTERVAL * tick).saturating_sub(begin.elapsed());
                let over = stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout);
                let look = |(address, before): (&String, &mut Option<Counters>)| {
                    let now = scrape(address)?;
                    let since = now.since(before.replace(now).unwrap_or_default());
                    cpu_seconds += since.cpu_seconds;
                    Some(since)
                };
                let servers = metrics.iter().zip(&mut before).map(look).collect();
                telemetry.close(resident_bytes(), servers);
                if over {
                    break;
                }
            }
            cpu_seconds
        };
        let thread = std::thread::Builder::new().name("watch".into()).spawn(watch);
        let failed =
            |error| Error::Server(format!("cannot start a thread that reads metrics: {error}"));
        Ok(Self { stop, thread: thread.map_err(failed)? })
    }

    /// Ends the last interval. Returns the CPU seconds of the servers in all intervals.
    pub(crate) fn stop(self) -> f64 {
        self.stop.send(()).ok();
        self.thread.join().unwrap_or(0.0)
    }
}

impl Counters {
    /// The difference to earlier counters. A counter that decreased was reset to 0 by a restart.
    fn since(self, before: Self) -> ServerInterval {
        let since = |now: f64, before: f64| if now < before { now } else { now - before };
        ServerInterval {
            images: since(self.images, before.images),
            cpu_seconds: since(self.cpu_seconds, before.cpu_seconds),
            rss_bytes: self.rss_bytes,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
            text.lines().find_map(value)
        };
        Some(Self {
            images: value("forebay_images_served_total")?,
            cpu_seconds: value("process_cpu_seconds_total")?,
            rss_bytes: value("process_resident_memory_bytes")?,
        })
    }
}

fn scrape(address: &str) -> Option<Counters> {
    let address = address.trim_start_matches("http://").trim_end_matches('/');
    let socket = address.to_socket_addrs().ok()?.next()?;
    let mut stream = TcpStream::connect_timeout(&socket, TIMEOUT).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.take(MAX_BYTES).read_to_string(&mut answer).ok()?;
    Counters::parse(&answer)
}

/// Resident memory of this process, on systems with `/proc`.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("");
    let kib = line.trim().trim_end_matches("kB").trim().parse::<u64>();
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_parsed_and_restart_with_a_server() {
        let text = "# TYPE forebay_images_served counter\nforebay_images_served_total 120\n\
                    process_cpu_seconds_total 1.5\nprocess_resident_memory_bytes 4096.0\n# EOF\n";
        let counters = Counters::parse(text).unwrap();
        let before = Counters { images: 100.0, cpu_seconds: 1.0, rss_bytes: 8192.0 };
        let since = counters.since(before);
        let all = [since.images, since.cpu_seconds, since.rss_bytes];
        assert_eq!(all.map(f64::to_bits), [20.0, 0.5, 4096.0].map(f64::to_bits));
        let restarted = Counters { images: 500.0, cpu_seconds: 9.0, ..before };
        assert_eq!(counters.since(restarted).images.to_bits(), 120.0_f64.to_bits());
        assert_eq!(Counters::parse("<html>"), None);
    }
}
