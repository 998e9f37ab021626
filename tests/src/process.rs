//! A `forebay serve` process, for tests of what a process does: its memory, its signals, its files.

#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests")]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use forebay_types::command::OwnedChild;
use forebay_types::process::{Memory, memory_of};

/// A server that has printed its addresses. It is killed when this is dropped.
#[derive(Debug)]
pub struct ServerProcess {
    child: OwnedChild,
    /// Port on 127.0.0.1.
    pub port: String,
    /// Address of the admin port, if the server has one.
    admin: Option<String>,
    /// File of its standard error, if it has one.
    log: Option<PathBuf>,
}

impl ServerProcess {
    /// Starts `forebay serve` on a free port. The command is the program with what stands before `serve`.
    pub fn start(command: &mut Command, log: Option<&Path>, arguments: &[&str]) -> Self {
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(arguments).stdout(Stdio::piped());
        if let Some(log) = log {
            command.stderr(File::create(log).unwrap());
        }
        let mut child = OwnedChild::spawn(command).unwrap();
        let mut lines = BufReader::new(child.take_stdout().unwrap()).lines();
        let mut address = |prefix: &str| {
            let line = lines.next().expect("the server prints its address").unwrap();
            line.strip_prefix(prefix).expect("an address").trim_end_matches('/').to_owned()
        };
        let port = address("listening on 127.0.0.1:");
        if arguments.iter().any(|argument| argument.starts_with("unix:")) {
            address("listening on unix:");
        }
        let has_admin = arguments.contains(&"--metrics-listen");
        let admin = has_admin.then(|| address("metrics and status on http://"));
        Self { child, port, admin, log: log.map(Path::to_owned) }
    }

    /// The address of the service.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.as_ref().unwrap()).unwrap()
    }

    /// Memory of the process.
    pub fn memory(&self) -> Memory {
        memory_of(self.child.id()).unwrap()
    }

    /// Its soft limit of open files.
    pub fn max_open_files(&self) -> u64 {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.child.id())).unwrap();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Sends a signal by its name for `kill`, such as `-TERM`.
    pub fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Waits until the process has ended.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Whether the process has ended, and how.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// The response of the admin port to a GET, with its head.
    pub fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin.as_ref().unwrap()).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}
