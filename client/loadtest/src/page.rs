//! The results of a run as a folder: `report.html`, `report.json`, `intervals.csv`.

use std::fmt::Write as _;
use std::path::Path;

use forebay_report::chart::{Axis, COLORS, Chart, INK, Line, MAX_POINTS, Mark, PALE};
use forebay_report::number::{count, duration};
use forebay_report::page::{facts, page, pill, section, tiles};
use maud::{Markup, html};

use crate::error::Error;
use crate::figures::{ServerCost, WaitMs};
use crate::report::{PhaseReport, Report};
use crate::telemetry::{Interval, Kill};

impl Report {
    /// Writes the files of the run into a folder, which is created if it does not exist.
    ///
    /// # Errors
    /// When the folder or a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        let put = |name: &str, text: String| {
            let file = folder.join(name);
            std::fs::write(&file, text).map_err(|error| Error::file(&file, &error))
        };
        std::fs::create_dir_all(folder).map_err(|error| Error::file(folder, &error))?;
        let json = serde_json::to_string_pretty(self).expect("a report can be written as JSON");
        put("report.json", json + "\n")?;
        put("intervals.csv", self.csv())?;
        put("report.html", self.html())
    }

    /// One line per interval. A field is empty if no microbatch arrived, or the server did not answer.
    fn csv(&self) -> String {
        let servers = self.intervals.first().map_or(0, |interval| interval.servers.len());
        let mut csv = "at_s,seconds,trainers,images,wait_p50_ms,wait_p99_ms,wait_max_ms,\
                       client_rss_bytes,kills"
            .to_owned();
        for server in 0..servers {
            write!(csv, ",server{server}_images,server{server}_cpu_s,server{server}_rss_bytes")
                .ok();
        }
        let mut before = 0.0;
        for interval in &self.intervals {
            let Interval { at, seconds, trainers, images, rss_bytes, .. } = interval;
            write!(csv, "\n{at:.3},{seconds:.3},{trainers},{images},").ok();
            match interval.wait_ms {
                Some(WaitMs { p50, p99, max, .. }) => write!(csv, "{p50},{p99},{max},").ok(),
                None => write!(csv, ",,,").ok(),
            };
            let within = |kill: &&Kill| kill.at > before && kill.at <= *at;
            write!(csv, "{rss_bytes},{}", self.kills.iter().filter(within).count()).ok();
            for server in &interval.servers {
                match server {
                    Some(s) => {
                        write!(csv, ",{},{:.3},{}", s.images, s.cpu_seconds, s.rss_bytes).ok()
                    }
                    None => write!(csv, ",,,").ok(),
                };
            }
            before = *at;
        }
        csv + "\n"
    }

    /// A self-contained page, without scripts and external files.
    fn html(&self) -> String {
        let verdict = match (self.violation_count, self.slo_missed.len()) {
            (0, 0) => "no violations",
            (0, _) => "objectives missed",
            _ => "something was lost, repeated or wrong",
        };
        let good = self.violation_count == 0 && self.slo_missed.is_empty();
        let setting = |name: &str| {
            let found = self.settings.iter().find(|(known, _)| *known == name);
            found.map_or("", |(_, value)| value)
        };
        let problems = || self.violations.iter().chain(&self.slo_missed);
        let body = html! {
            header {
                h1 { "forebay load test" }
                (pill(good, verdict))
                small { (setting("recipe")) "; " (setting("plan (trainers x length)")) }
            }
            main {
                (tiles(&self.figures()))
                @if problems().next().is_some() {
                    (section("", "Problems", &html! { ul.problems { @for what in problems() { li { (what) } } } }))
                }
                @for chart in self.charts() { (section("", "", &chart)) }
                @if self.phases.len() > 1 { (section("", "Phases", &self.phases_table())) }
                (section("half", "Results", &facts(&self.rows())))
                (section("half", "Settings", &facts(&self.settings)))
            }
        };
        page("forebay load test", None, &body)
    }

    /// The most important figures, and what they are.
    fn figures(&self) -> Vec<(String, String)> {
        let mut figures = vec![
            (count(self.images_per_s), "images/s".to_owned()),
            (duration(self.wait_ms.p99 / 1e3), "p99 wait for a microbatch".into()),
            (count(self.violation_count as f64), "microbatches lost, repeated or wrong".into()),
        ];
        if let Some(compared) = self.compared {
            let what = "microbatches equal to an undisturbed run".into();
            figures.push((count(compared as f64), what));
        }
        if let Some([_, _, median, max]) = self.recoveries() {
            let (max, kills) = (duration(max / 1e3), self.kills.len());
            let what = format!("full recovery after a kill; max {max} of {kills} kills");
            figures.push((duration(median / 1e3), what));
        }
        if let Some(ServerCost { cpu_ms_per_image, per_million_images, .. }) = self.server {
            figures.push((format!("{cpu_ms_per_image:.2} ms"), "server CPU per image".into()));
            if let Some(cost) = per_million_images {
                figures.push((format!("{cost:.4}"), "cost of a million images".into()));
            }
        }
        figures
    }

    fn charts(&self) -> [Markup; 3] {
        let end = self.intervals.last().map_or(1.0, |interval| interval.at);
        let kills: Vec<Mark> = self.kills.iter().map(mark).collect();
        let mut begin = 0.0;
        let mut phases = Vec::new();
        for PhaseReport { trainers, seconds, .. } in &self.phases {
            phases.push(Mark { at: begin, text: format!("{trainers} trainers") });
            begin += seconds;
        }
        let chart = |title, unit, lines, axis| {
            let (parts, events, event_name) = (&phases[..], &kills[..], "kill -9");
            Chart { title, unit, lines, axis, end, end_unit: "s", parts, events, event_name }.draw()
        };
        let mut rates = self.of_servers(|i, at| Some(i.servers[at]?.images / i.seconds));
        rates.push(self.line("all trainers", INK, sum_rate));
        let waits = vec![
            self.line("max", PALE, |of| max(of, |i| Some(i.wait_ms?.max))),
            self.line("p99", COLORS[1], |of| max(of, |i| Some(i.wait_ms?.p99))),
            self.line("p50", COLORS[0], |of| median(of, |i| Some(i.wait_ms?.p50))),
        ];
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let mut memory = self.of_servers(|i, at| Some(mib(i.servers[at]?.rss_bytes)));
        memory.push(self.line("load test", INK, |of| max(of, |i| Some(mib(i.rss_bytes as f64)))));
        [
            chart("Throughput", "images/s sent by each server and received", rates, Axis::Zero),
            chart("Wait for a microbatch", "ms, logarithmic from 0.1", waits, Axis::Log),
            chart("Resident memory", "MiB", memory, Axis::Zero),
        ]
    }

    /// A line, whose points combine several intervals if there are many.
    fn line(
        &self,
        name: &str,
        color: &'static str,
        value: impl Fn(&[Interval]) -> Option<f64>,
    ) -> Line {
        let each = self.intervals.len().div_ceil(MAX_POINTS).max(1);
        let points = self.intervals.chunks(each).map(|of| {
            let middle = f64::midpoint(of[0].at - of[0].seconds, of[of.len() - 1].at);
            (middle, value(of))
        });
        Line { name: name.to_owned(), color, points: points.collect() }
    }

    fn of_servers(&self, value: impl Fn(&Interval, usize) -> Option<f64>) -> Vec<Line> {
        let servers = self.intervals.first().map_or(0, |interval| interval.servers.len());
        let line = |at: usize| {
            let name = format!("server {at}");
            self.line(&name, COLORS[at % COLORS.len()], |of| median(of, |i| value(i, at)))
        };
        (0..servers).map(line).collect()
    }

    fn phases_table(&self) -> Markup {
        html! {
            table {
                tr {
                    th { "trainers" } th.n { "seconds" } th.n { "images" } th.n { "images/s" }
                    th.n { "wait p50, ms" } th.n { "p99" } th.n { "max" }
                }
                @for PhaseReport { trainers, seconds, images, images_per_s, wait_ms } in &self.phases {
                    tr {
                        td { (trainers) }
                        td.n { (format!("{seconds:.1}")) }
                        td.n { (count(*images as f64)) }
                        td.n { (count(*images_per_s)) }
                        @for wait in [wait_ms.p50, wait_ms.p99, wait_ms.max] {
                            td.n { (format!("{wait:.1}")) }
                        }
                    }
                }
            }
        }
    }
}

/// A kill, as charts describe it.
fn mark(kill: &Kill) -> Mark {
    let ms = |ms: Option<f64>| ms.map_or("-".into(), |ms| format!("{ms:.0} ms"));
    let Kill { at, server, next_ms, all_next_ms, restarted_ms, .. } = kill;
    let text = format!(
        "{at:.1} s: server {server}; first recovery {}, full recovery {}, restarted {}",
        ms(*next_ms),
        ms(*all_next_ms),
        ms(*restarted_ms)
    );
    Mark { at: *at, text }
}

fn sum_rate(of: &[Interval]) -> Option<f64> {
    let images: u64 = of.iter().map(|interval| interval.images).sum();
    let seconds: f64 = of.iter().map(|interval| interval.seconds).sum();
    (seconds > 0.0).then(|| images as f64 / seconds)
}

fn max(of: &[Interval], value: impl Fn(&Interval) -> Option<f64>) -> Option<f64> {
    of.iter().filter_map(value).reduce(f64::max)
}

fn median(of: &[Interval], value: impl Fn(&Interval) -> Option<f64>) -> Option<f64> {
    let mut values: Vec<f64> = of.iter().filter_map(value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
