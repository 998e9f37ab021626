//! The results of a run as a folder: `report.html`, `report.json`, `intervals.csv`.

use std::fmt::Write as _;
use std::path::Path;

use crate::chart::{COLORS, Chart, DARK, Line, PALE, escape};
use crate::error::Error;
use crate::figures::{ServerCost, WaitMs};
use crate::report::{PhaseReport, Report};
use crate::telemetry::{Interval, Kill};

/// Largest number of points of a line. More could not be distinguished.
const MAX_POINTS: usize = 480;

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
        let bad = self.violation_count > 0 || !self.slo_missed.is_empty();
        let (class, verdict) = match (bad, self.violation_count) {
            (false, _) => ("good", "no violations"),
            (true, 0) => ("bad", "objectives missed"),
            (true, _) => ("bad", "something was lost, repeated or wrong"),
        };
        let settings = |name: &str| {
            let found = self.settings.iter().find(|(known, _)| *known == name);
            escape(found.map_or("", |(_, value)| value))
        };
        format!(
            "<!doctype html><html lang=en><meta charset=utf-8>\
             <meta name=viewport content=\"width=device-width\">\
             <title>forebay load test</title><style>{}</style>\n\
             <h1>forebay load test<span class=\"verdict {class}\">{verdict}</span></h1>\
             <p>{}; {}</p>\n{}{}{}{}\
             <div class=columns><div><h2>Results</h2>{}</div><div><h2>Settings</h2>{}</div></div></html>\n",
            include_str!("page.css"),
            settings("recipe"),
            settings("plan (trainers x length)"),
            self.tiles(),
            self.violation_list(),
            self.charts(),
            self.phases_table(),
            table(self.rows()),
            table(self.settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone()))),
        )
    }

    fn tiles(&self) -> String {
        let mut tiles = vec![
            (format!("{:.0}", self.images_per_s), "images/s".to_owned()),
            (format!("{:.0} ms", self.wait_ms.p99), "p99 wait for a microbatch".into()),
            (self.violation_count.to_string(), "microbatches lost, repeated or wrong".into()),
        ];
        if let Some(compared) = self.compared {
            tiles.push((compared.to_string(), "microbatches equal to an undisturbed run".into()));
        }
        if let Some([_, _, median, max]) = self.recoveries() {
            let (max, kills) = (max / 1e3, self.kills.len());
            let what = format!("full recovery after a kill; max {max:.1} s of {kills} kills");
            tiles.push((format!("{median:.0} ms"), what));
        }
        if let Some(ServerCost { cpu_ms_per_image, per_million_images, .. }) = self.server {
            tiles.push((format!("{cpu_ms_per_image:.2} ms"), "server CPU per image".into()));
            if let Some(cost) = per_million_images {
                tiles.push((format!("{cost:.4}"), "cost of a million images".into()));
            }
        }
        let tile =
            |(value, what)| format!("<div class=tile><b>{value}</b><span>{what}</span></div>");
        format!("<div class=tiles>{}</div>\n", tiles.into_iter().map(tile).collect::<String>())
    }

    fn violation_list(&self) -> String {
        let wrong = self.violations.iter().chain(&self.slo_missed);
        let list: Vec<String> = wrong.map(|what| format!("<li>{}</li>", escape(what))).collect();
        if list.is_empty() { String::new() } else { format!("<ul>{}</ul>\n", list.concat()) }
    }

    fn charts(&self) -> String {
        let end = self.intervals.last().map_or(1.0, |interval| interval.at);
        let kills: Vec<(f64, String)> = self.kills.iter().map(mark).collect();
        let mut begin = 0.0;
        let mut phases = Vec::new();
        for PhaseReport { trainers, seconds, .. } in &self.phases {
            phases.push((begin, format!("{trainers} trainers")));
            begin += seconds;
        }
        let chart = |title, unit, lines, log| {
            Chart { title, unit, lines, end, kills: &kills, phases: &phases, log }.draw()
        };
        let images = self.line("all trainers", DARK, sum_rate);
        let mut rates = self.of_servers(|i, at| Some(i.servers[at]?.images / i.seconds));
        rates.push(images);
        let waits = vec![
            self.line("max", PALE, |of| max(of, |i| Some(i.wait_ms?.max))),
            self.line("p99", COLORS[1], |of| max(of, |i| Some(i.wait_ms?.p99))),
            self.line("p50", COLORS[0], |of| median(of, |i| Some(i.wait_ms?.p50))),
        ];
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let mut memory = self.of_servers(|i, at| Some(mib(i.servers[at]?.rss_bytes)));
        memory.push(self.line("load test", DARK, |of| max(of, |i| Some(mib(i.rss_bytes as f64)))));
        [
            chart("Throughput", "images/s sent by each server and received", rates, false),
            chart("Wait for a microbatch", "ms, logarithmic from 0.1", waits, true),
            chart("Resident memory", "MiB", memory, false),
        ]
        .concat()
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

    fn phases_table(&self) -> String {
        if self.phases.len() < 2 {
            return String::new();
        }
        let row = |phase: &PhaseReport| {
            let PhaseReport { trainers, seconds, images, images_per_s, wait_ms } = phase;
            let WaitMs { p50, p99, max, .. } = wait_ms;
            format!(
                "<tr><td>{trainers}<td>{seconds:.1}<td>{images}<td>{images_per_s:.0}<td>{p50:.1}<td>{p99:.1}<td>{max:.1}"
            )
        };
        format!(
            "<h2>Phases</h2><table class=number><tr><th>trainers<th>seconds<th>images<th>images/s\
             <th>wait p50, ms<th>p99<th>max{}</table>\n",
            self.phases.iter().map(row).collect::<String>()
        )
    }
}

/// A kill, as charts describe it.
fn mark(kill: &Kill) -> (f64, String) {
    let ms = |ms: Option<f64>| ms.map_or("-".into(), |ms| format!("{ms:.0} ms"));
    let Kill { at, server, next_ms, all_next_ms, restarted_ms, .. } = kill;
    let what = format!(
        "{at:.1} s: server {server}; first recovery {}, full recovery {}, restarted {}",
        ms(*next_ms),
        ms(*all_next_ms),
        ms(*restarted_ms)
    );
    (*at, what)
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

fn table(rows: impl IntoIterator<Item = (String, String)>) -> String {
    let row = |(name, value): (String, String)| {
        format!("<tr><td>{}<td>{}", escape(&name), escape(&value))
    };
    format!("<table>{}</table>", rows.into_iter().map(row).collect::<String>())
}
