//! Reads the metrics of the servers and of this process once a second.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use forebay_types::process;

use crate::error::Error;
use crate::telemetry::{ServerInterval, Telemetry};

const INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for a server's metrics.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Largest response that is read.
const MAX_BYTES: usize = 1 << 20;

/// A thread that reads metrics until it is stopped.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: SyncSender<()>,
    thread: JoinHandle<Watched>,
}

/// What all servers did in all intervals.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watched {
    pub(crate) cpu_seconds: f64,
    /// Images sent, including those that nobody had taken when the run ended.
    pub(crate) images: f64,
}

/// A server's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counters {
    images: f64,
    cpu_seconds: f64,
    rss_bytes: f64,
}

impl Watch {
    /// Watches servers by the addresses of their metrics, as `host:port` or `http://host:port/metrics`.
    ///
    /// # Errors
    /// When the metrics of a server cannot be read now. Later it may be absent for a while.
    pub(crate) fn start(telemetry: &Arc<Telemetry>, metrics: Vec<String>) -> Result<Self, Error> {
        let (stop, stopped) = sync_channel::<()>(1);
        let telemetry = Arc::clone(telemetry);
        let first = |address: &String| {
            let unread = || {
                Error::Server(format!(
                    "cannot read the metrics of {address}: --metrics takes the admin port of each server \
                     (--metrics-listen of `forebay serve`)"
                ))
            };
            scrape(address).map(Some).ok_or_else(unread)
        };
        let mut before = metrics.iter().map(first).collect::<Result<Vec<_>, _>>()?;
        let watch = move || {
            let mut sum = Watched::default();
            let begin = Instant::now();
            for tick in 1.. {
                let wait = (INTERVAL * tick).saturating_sub(begin.elapsed());
                let over = stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout);
                let look = |(address, before): (&String, &mut Option<Counters>)| {
                    let now = scrape(address)?;
                    let since = now.since(before.replace(now).unwrap_or_default());
                    sum.cpu_seconds += since.cpu_seconds;
                    sum.images += since.images;
                    Some(since)
                };
                let servers = metrics.iter().zip(&mut before).map(look).collect();
                let memory = process::memory().map_or(0, |memory| memory.resident);
                telemetry.close(memory, servers);
                if over {
                    break;
                }
            }
            sum
        };
        let thread = std::thread::Builder::new().name("watch".into()).spawn(watch);
        let failed =
            |error| Error::Server(format!("cannot start a thread that reads metrics: {error}"));
        Ok(Self { stop, thread: thread.map_err(failed)? })
    }

    /// Ends the last interval.
    pub(crate) fn stop(self) -> Watched {
        self.stop.send(()).ok();
        self.thread.join().unwrap_or_default()
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
            text.lines().find_map(value).filter(|value: &f64| value.is_finite() && *value >= 0.0)
        };
        Some(Self {
            images: value("forebay_images_served_total")?,
            cpu_seconds: value("process_cpu_seconds_total")?,
            rss_bytes: value("process_resident_memory_bytes")?,
        })
    }
}

fn scrape(address: &str) -> Option<Counters> {
    let address = address.trim_start_matches("http://");
    let address = address.trim_end_matches('/').trim_end_matches("/metrics");
    let socket = address.to_socket_addrs().ok()?.next()?;
    let mut stream = TcpStream::connect_timeout(&socket, TIMEOUT).ok()?;
    let deadline = Instant::now() + TIMEOUT;
    stream.set_write_timeout(Some(TIMEOUT)).ok()?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    Counters::parse(&read_before(&mut stream, deadline)?)
}

/// Reads to the end of the connection. `None` if it does not end in time, however often bytes arrive, or has too
/// many of them.
fn read_before(stream: &mut TcpStream, deadline: Instant) -> Option<String> {
    let (mut answer, mut bytes) = (Vec::new(), [0; 1 << 14]);
    while answer.len() <= MAX_BYTES {
        let left =
            deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        stream.set_read_timeout(Some(left)).ok()?;
        match stream.read(&mut bytes).ok()? {
            0 => return String::from_utf8(answer).ok(),
            count => answer.extend(&bytes[..count]),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

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
        for lie in ["NaN", "inf", "-1"] {
            assert_eq!(Counters::parse(&text.replace("120", lie)), None, "{lie}");
        }
    }

    #[test]
    fn metrics_that_arrive_byte_by_byte_without_end_are_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        // Ends when the connection is closed.
        let drip = std::thread::Builder::new().spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(b"#").is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        assert_eq!(scrape(&address), None);
        drip.unwrap().join().unwrap();
    }
}
