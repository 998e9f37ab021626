//! The status page: one HTML document without scripts that reloads itself.

use std::fmt::Write as _;

use crate::telemetry::{Snapshot, StreamSnapshot};

const CSS: &str = include_str!("page.css");
/// Seconds after which the page reloads itself.
const REFRESH: u32 = 2;
/// More streams than this are only counted, so that the page stays small.
const MAX_STREAMS: usize = 100;

/// The page.
pub(crate) fn html(now: &Snapshot, picture: bool) -> String {
    let mut sections = String::new();
    for section in [throughput(now), waits(now), server(now), stages(now)] {
        sections += &section;
    }
    sections += &streams(now);
    sections += &datasets(now);
    if picture {
        sections += &last(now);
    }
    let (state, class) = if now.ready { ("serving", "") } else { ("shutting down", " bad") };
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"refresh\" content=\"{REFRESH}\"><title>forebay: {rate} images/s</title>\
         <style>{CSS}</style></head><body><header><h1>forebay</h1>\
         <span class=\"pill{class}\">{state}</span>\
         <small>version {version}, up {uptime}</small></header>\
         <main class=\"grid\">{sections}</main>\
         <footer>Rates and ratios cover the last {window:.0} s. \
         <a href=\"/status.json\">JSON</a> · <a href=\"/metrics\">metrics</a></footer></body></html>\n",
        rate = count(now.images_per_s),
        version = now.version,
        uptime = duration(now.uptime_s),
        window = now.window_s,
    )
}

fn throughput(now: &Snapshot) -> String {
    let body = format!(
        "<div class=\"big\">{} <small>images/s</small></div><div class=\"faint\">{}/s</div>{}",
        count(now.images_per_s),
        bytes(now.bytes_per_s),
        sparkline(&now.history),
    );
    section("third", "Throughput", &body)
}

/// A line chart of five minutes, with the newest value at the right.
fn sparkline(values: &[f64]) -> String {
    let max = values.iter().copied().fold(1.0, f64::max);
    let points = values.iter().enumerate().map(|(at, value)| {
        let x = at as f64 + 300.0 - values.len() as f64;
        format!("{x:.0},{:.1} ", 48.0 - 46.0 * value / max)
    });
    format!(
        "<svg viewBox=\"0 0 300 50\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"images per second, last five minutes\"><polyline points=\"{}\" fill=\"none\" \
         stroke=\"var(--line)\" stroke-width=\"1.5\" vector-effect=\"non-scaling-stroke\"/></svg>",
        points.collect::<String>()
    )
}

fn waits(now: &Snapshot) -> String {
    let (reader, server) = (now.input_bound_ratio, 1.0 - now.input_bound_ratio);
    let said = match now.bottleneck {
        "none" => "No stream is open.".to_owned(),
        "clients" => format!(
            "Clients or the network are the bottleneck: microbatches wait for them {} of the time.",
            percent(server)
        ),
        "queue" => "Clients wait, and no stage is working: see the log.".to_owned(),
        stage => format!(
            "This server is the bottleneck: its clients wait {} of the time. Its slowest stage is \
             <b>{}</b>.{}",
            percent(reader),
            escape(stage),
            underused_cores(now)
        ),
    };
    let parts: &[(f64, &str)] = match now.bottleneck {
        "none" => &[],
        _ => &[(reader, "--bad"), (server, "--good")],
    };
    let body = format!(
        "{}<ul class=\"legend\"><li><b style=\"background:var(--bad)\"></b>clients wait for the server \
         {}</li><li><b style=\"background:var(--good)\"></b>the server waits for clients {}</li></ul>\
         <p class=\"verdict\">{said} Its clients need <b>{:.1}</b> servers like this one.</p>",
        bar(parts),
        if parts.is_empty() { "–".to_owned() } else { percent(reader) },
        if parts.is_empty() { "–".to_owned() } else { percent(server) },
        now.recommended_replicas,
    );
    section("wide", "Who waits for whom", &body)
}

/// A note for a server that is the bottleneck while its cores are not in full use.
fn underused_cores(now: &Snapshot) -> String {
    let threads = now.pipeline.threads as f64;
    if now.cores > 0.5 * threads {
        return String::new();
    }
    format!(
        " Its {threads} workers used only {:.1} cores: the machine is shared, its CPU is limited, or \
         storage is slow.",
        now.cores
    )
}

fn stages(now: &Snapshot) -> String {
    let colors = ["--s0", "--s1", "--s2", "--s3", "--s4", "--s5"];
    let mut rows = String::new();
    for (stage, color) in now.stages.iter().zip(colors) {
        push(
            &mut rows,
            format_args!(
                "<tr><td>{}<td class=\"fill\">{}<td class=\"n\">{:.2}</tr>",
                stage.name,
                bar(&[(stage.share, color)]),
                stage.cpu_ms_per_image
            ),
        );
    }
    let sum: f64 = now.stages.iter().map(|stage| stage.cpu_ms_per_image).sum();
    let body = format!(
        "<table><tr><th>stage<th><th class=\"n\">CPU ms per image</tr>{rows}\
         <tr><td>all<td><td class=\"n\">{sum:.2}</tr></table>"
    );
    section("wide", "Stages", &body)
}

fn server(now: &Snapshot) -> String {
    let load = &now.pipeline;
    let decoded = load.decoded as f64 / (load.samples as f64).max(1.0);
    let rows = [
        ("CPU", format!("{:.2} cores of {} workers", now.cores, load.threads)),
        ("memory", now.resident_bytes.map_or("–".to_owned(), |rss| bytes(rss as f64))),
        (
            "buffers",
            format!(
                "{} of {}",
                bytes(load.buffer_bytes as f64),
                bytes(load.buffer_limit_bytes as f64)
            ),
        ),
        ("pending", format!("{} microbatches", load.microbatches_pending)),
        ("decodes per image", format!("{decoded:.2}")),
        ("images sent", count(now.images as f64)),
        ("pixels sent", bytes(now.payload_bytes as f64)),
        ("stalled readers", count(now.stalled as f64)),
    ];
    let mut list = String::new();
    for (name, value) in rows {
        push(&mut list, format_args!("<dt>{name}</dt><dd>{value}</dd>"));
    }
    section("third", "Server", &format!("<dl>{list}</dl>"))
}

fn streams(now: &Snapshot) -> String {
    let mut rows = String::new();
    for stream in now.streams.iter().take(MAX_STREAMS) {
        rows += &row(stream);
    }
    let more = now.streams.len().saturating_sub(MAX_STREAMS);
    if more > 0 {
        push(&mut rows, format_args!("<tr><td colspan=\"9\">and {more} more</td></tr>"));
    }
    if now.streams.is_empty() {
        rows += "<tr><td colspan=\"9\" class=\"faint\">none</td></tr>";
    }
    let body = format!(
        "<table><tr><th>client<th>from<th>dataset<th>recipe<th>epoch, step, microbatch\
         <th class=\"n\">images/s<th class=\"n\">sent<th>waits: client | server<th>now</tr>{rows}</table>"
    );
    section("", &format!("Streams: {} of {}", now.streams.len(), now.streams_limit), &body)
}

fn row(stream: &StreamSnapshot) -> String {
    let at = stream
        .last
        .map_or("–".to_owned(), |[epoch, step, index]| format!("{epoch}, {step}, {index}"));
    let waits =
        bar(&[(stream.reader_wait_ratio, "--bad"), (1.0 - stream.reader_wait_ratio, "--good")]);
    let now = if stream.waiting == "reader" { "client waits" } else { "server waits" };
    format!(
        "<tr><td>{}<td><code>{}</code><td>{}<td>{}<td>{at}<td class=\"n\">{}<td class=\"n\">{}\
         <td>{waits}<td>{now}</tr>",
        escape(&stream.identity),
        escape(&stream.peer),
        escape(&stream.dataset),
        escape(&stream.recipe),
        count(stream.images_per_s),
        bytes(stream.bytes as f64),
    )
}

fn datasets(now: &Snapshot) -> String {
    let mut rows = String::new();
    for dataset in &now.datasets {
        let digest: String = dataset.digest.chars().take(16).collect();
        push(
            &mut rows,
            format_args!(
                "<tr><td>{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}<td><code>{}</code></tr>",
                escape(&dataset.name),
                count(dataset.records as f64),
                count(dataset.bad as f64),
                count(dataset.classes as f64),
                escape(&digest),
            ),
        );
    }
    let body = format!(
        "<table><tr><th>name<th class=\"n\">records<th class=\"n\">bad<th class=\"n\">classes\
         <th>digest</tr>{rows}</table>"
    );
    section("", "Datasets", &body)
}

/// The query makes the browser load the current picture instead of a cached one.
fn last(now: &Snapshot) -> String {
    let body = if now.images == 0 {
        "<span class=\"faint\">none yet</span>".to_owned()
    } else {
        format!("<img src=\"/last.png?{}\" alt=\"samples with their classes\">", now.microbatches)
    };
    section("", "Samples of the last microbatch", &body)
}

fn section(class: &str, title: &str, body: &str) -> String {
    format!("<section class=\"{class}\"><h2>{title}</h2>{body}</section>")
}

/// A stacked bar: each part with the CSS variable of its color.
fn bar(parts: &[(f64, &str)]) -> String {
    let mut bar = String::from("<div class=\"bar\">");
    for (part, color) in parts {
        let width = part.clamp(0.0, 1.0) * 100.0;
        push(&mut bar, format_args!("<i style=\"width:{width:.1}%;background:var({color})\"></i>"));
    }
    bar + "</div>"
}

fn push(text: &mut String, part: std::fmt::Arguments<'_>) {
    text.write_fmt(part).expect("writing to a String cannot fail");
}

/// Escapes text for HTML, between tags and in quotes.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            other => safe.push(other),
        }
    }
    safe
}

/// A number with thin spaces between thousands.
fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut spaced = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            spaced.push('\u{2009}');
        }
        spaced.push(digit);
    }
    spaced
}

fn bytes(value: f64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let unit = units.into_iter().find(|(size, _)| value >= *size);
    unit.map_or_else(
        || format!("{value:.0} B"),
        |(size, name)| {
            let places = usize::from(value / size < 100.0);
            format!("{:.places$} {name}", value / size)
        },
    )
}

fn percent(ratio: f64) -> String {
    format!("{:.0} %", ratio * 100.0)
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_formatted_for_people() {
        assert_eq!(count(1_234_567.0), "1\u{2009}234\u{2009}567");
        assert_eq!(count(12.4), "12");
        assert_eq!(
            (bytes(999.0), bytes(1500.0), bytes(2.5e11)),
            ("999 B".into(), "1.5 kB".into(), "250 GB".into())
        );
        assert_eq!((duration(61.0), duration(7300.0)), ("61 s".into(), "2.0 h".into()));
    }

    #[test]
    fn names_cannot_become_html() {
        assert_eq!(escape("<b>\"&'"), "&lt;b&gt;&quot;&amp;&#39;");
    }
}
