//! forebay's commands as processes.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use forebay_types::command::OwnedChild;

/// The path as text, for a command line.
pub(crate) fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("the path {} is not UTF-8: use another folder", path.display()))
}

/// The commands of forebay, as processes of this program.
pub(crate) struct Tools {
    pub(crate) program: PathBuf,
}

impl Tools {
    pub(crate) fn command(&self, tool: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(tool).args(arguments);
        command
    }

    pub(crate) fn run(&self, tool: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let status = OwnedChild::spawn(&mut self.command(tool, arguments))?.wait()?;
        let arguments = arguments.join(" ");
        ensure!(status.success(), "`{tool} {arguments}` failed ({status}): see its message above");
        Ok(())
    }

    pub(crate) fn serve(&self, datasets: &[String]) -> anyhow::Result<Server> {
        let mut arguments = vec!["serve", "--listen", "127.0.0.1:0"];
        arguments.extend(datasets.iter().flat_map(|dataset| ["--dataset", dataset]));
        let mut command = self.command("forebay", &arguments);
        command.env("RUST_LOG", "warn").stdout(Stdio::piped());
        let mut process = OwnedChild::spawn(&mut command).context("cannot start the server")?;
        let mut line = String::new();
        let stdout = process.take_stdout().expect("piped");
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .context("the server did not start: see its message above")?;
        Ok(Server { endpoint: format!("http://{address}"), process })
    }
}

/// A server process, which is killed when dropped.
pub(crate) struct Server {
    pub(crate) endpoint: String,
    process: OwnedChild,
}

impl Server {
    pub(crate) fn alive(&mut self) -> anyhow::Result<bool> {
        Ok(self.process.try_wait()?.is_none())
    }

    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.process.kill()?)
    }

    /// Drains and stops the server. Returns whether it exited successfully.
    pub(crate) fn stop(mut self) -> anyhow::Result<bool> {
        let pid = self.process.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().context("cannot signal the server")?;
        Ok(self.process.wait()?.success())
    }
}
