//! The status page, which reloads itself.

use forebay_report::chart::{COLORS, sparkline};
use forebay_report::number::{bytes, count, duration, percent};
use forebay_report::page::{page, pill, section};
use maud::{Markup, html};

use crate::source::StorageLoad;
use crate::telemetry::{HISTORY, Snapshot, StreamSnapshot};

/// Seconds after which the page reloads itself.
const REFRESH_S: u32 = 2;
/// More streams than this are only counted, so that the page stays small.
const MAX_STREAMS: usize = 100;
/// Colors of who waits.
const CLIENTS_WAIT: &str = "var(--bad)";
const SERVER_WAITS: &str = "var(--good)";

/// The page.
pub(crate) fn status(now: &Snapshot, picture: bool) -> String {
    let state = if now.ready { "serving" } else { "shutting down" };
    let body = html! {
        header {
            h1 { "forebay" }
            (pill(now.ready, state))
            small { "version " (now.version) ", up " (duration(now.uptime_s)) }
        }
        main {
            (section("third", "Throughput", &throughput(now)))
            (section("wide", "Who waits for whom", &waits(now)))
            (section("third", "Server", &server(now)))
            (section("wide", "Stages", &stages(now)))
            (section("", &format!("Streams: {} of {}", now.streams.len(), now.streams_limit), &streams(now)))
            @if let Some(load) = &now.pipeline.storage { (section("", "Buckets", &storage(load))) }
            (section("", "Datasets", &datasets(now)))
            @if picture { (section("", "Samples of the last microbatch", &samples(now))) }
        }
        footer {
            "Rates and ratios cover the last " (duration(now.window_s)) ". "
            a href="/status.json" { "JSON" } " · " a href="/metrics" { "metrics" }
        }
    };
    page(&format!("forebay: {} images/s", count(now.images_per_s)), Some(REFRESH_S), &body)
}

fn throughput(now: &Snapshot) -> Markup {
    html! {
        div.big { (count(now.images_per_s)) " " small { "images/s" } }
        div.faint { (bytes(now.bytes_per_s)) "/s" }
        (sparkline(&now.history, HISTORY, "images per second, last five minutes"))
    }
}

fn waits(now: &Snapshot) -> Markup {
    let (reader, server) = (now.input_bound_ratio, 1.0 - now.input_bound_ratio);
    let idle = now.bottleneck == "none";
    let share = |ratio| if idle { "–".to_owned() } else { percent(ratio) };
    let parts = [(reader, CLIENTS_WAIT), (server, SERVER_WAITS)];
    html! {
        (bar(if idle { &[] } else { &parts }))
        ul.legend {
            li { (swatch(CLIENTS_WAIT)) "clients wait for the server " (share(reader)) }
            li { (swatch(SERVER_WAITS)) "the server waits for clients " (share(server)) }
        }
        p.verdict {
            @match now.bottleneck {
                "none" => "No stream is open.",
                "clients" => {
                    "Clients or the network are the bottleneck: microbatches wait for them "
                    (percent(server)) " of the time."
                },
                "queue" => "Clients wait, and no stage is working: see the log.",
                "storage" => {
                    "Storage is the bottleneck: microbatches wait for bytes of a bucket while the workers are mostly idle, \
                     and clients wait " (percent(reader)) " of the time."
                },
                stage => {
                    "This server is the bottleneck: its clients wait " (percent(reader))
                    " of the time. Its slowest stage is " b { (stage) } "." (underused_cores(now))
                },
            }
            " Its clients need " b { (format!("{:.1}", now.recommended_replicas)) } " servers like this one."
        }
    }
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

fn stages(now: &Snapshot) -> Markup {
    let sum: f64 = now.stages.iter().map(|stage| stage.cpu_ms_per_image).sum();
    html! {
        table {
            tr { th { "stage" } th {} th.n { "CPU ms per image" } }
            @for (stage, color) in now.stages.iter().zip(COLORS) {
                tr {
                    td { (stage.name) }
                    td.fill { (bar(&[(stage.share, color)])) }
                    td.n { (format!("{:.2}", stage.cpu_ms_per_image)) }
                }
            }
            tr { td { "all" } td {} td.n { (format!("{sum:.2}")) } }
        }
    }
}

fn server(now: &Snapshot) -> Markup {
    let load = &now.pipeline;
    let decoded = load.decoded as f64 / (load.samples as f64).max(1.0);
    let buffers = [load.buffer_bytes, load.buffer_limit_bytes].map(|size| bytes(size as f64));
    let rows = [
        ("CPU", format!("{:.2} cores of {} workers", now.cores, load.threads)),
        ("memory", now.resident_bytes.map_or("–".to_owned(), |rss| bytes(rss as f64))),
        ("buffers", buffers.join(" of ")),
        ("pending", format!("{} microbatches", load.microbatches_pending)),
        ("decodes per image", format!("{decoded:.2}")),
        ("images sent", count(now.images as f64)),
        ("pixels sent", bytes(now.payload_bytes as f64)),
        ("stalled readers", count(now.stalled as f64)),
    ];
    html! { dl { @for (name, value) in rows { dt { (name) } dd { (value) } } } }
}

fn streams(now: &Snapshot) -> Markup {
    let more = now.streams.len().saturating_sub(MAX_STREAMS);
    html! {
        table {
            tr {
                th { "client" } th { "from" } th { "dataset" } th { "recipe" }
                th { "epoch, step, microbatch" } th.n { "images/s" } th.n { "sent" }
                th { "waits: client | server" } th { "now" }
            }
            @for stream in now.streams.iter().take(MAX_STREAMS) { (row(stream)) }
            @if more > 0 { tr { td colspan="9" { "and " (more) " more" } } }
            @if now.streams.is_empty() { tr { td.faint colspan="9" { "none" } } }
        }
    }
}

fn row(stream: &StreamSnapshot) -> Markup {
    let last = stream.last.map(|[epoch, step, index]| format!("{epoch}, {step}, {index}"));
    let (reader, server) = (stream.reader_wait_ratio, 1.0 - stream.reader_wait_ratio);
    html! {
        tr {
            td { (stream.identity) }
            td { code { (stream.peer) } }
            td { (stream.dataset) }
            td { (stream.recipe) }
            td { (last.as_deref().unwrap_or("–")) }
            td.n { (count(stream.images_per_s)) }
            td.n { (bytes(stream.bytes as f64)) }
            td { (bar(&[(reader, CLIENTS_WAIT), (server, SERVER_WAITS)])) }
            td { @if stream.waiting == "reader" { "client waits" } @else { "server waits" } }
        }
    }
}

fn storage(load: &StorageLoad) -> Markup {
    let (hits, misses) = (load.hit_ratio(), 1.0 - load.hit_ratio());
    let size = |of: u64| bytes(of as f64);
    let disk = match load.disk_cache_limit_bytes {
        0 => "none".to_owned(),
        limit => format!("{} of {}", size(load.disk_cache_bytes), size(limit)),
    };
    let failed = match (load.disk_cache_failed, load.disk_cache_given_up_blocks) {
        (true, _) => ": cannot be written".to_owned(),
        (false, 0) => String::new(),
        (false, blocks) => format!(": {blocks} blocks cannot be read"),
    };
    let cost = load.cost_per_million_images.map(|cost| format!("{cost:.2} per million images"));
    let rows = [
        ("from the disk cache", size(load.cache_bytes)),
        ("from buckets", size(load.remote_bytes)),
        ("received", size(load.fetched_bytes)),
        ("disk cache", disk + &failed),
        ("in memory", format!("{} of {}", size(load.held_bytes), size(load.held_limit_bytes))),
        ("microbatches that wait", count(load.microbatches_waiting as f64)),
        ("requests", count(load.requests as f64)),
        ("sent again, hedged", format!("{}, {}", load.retries, load.hedges)),
        ("told to slow down", count(load.throttled as f64)),
        ("wrong in the cache", count(load.damaged as f64)),
        ("late reads", count(load.late_reads as f64)),
        ("cost", cost.unwrap_or_else(|| "no price is set".to_owned())),
    ];
    html! {
        (bar(&[(hits, SERVER_WAITS), (misses, CLIENTS_WAIT)]))
        ul.legend {
            li { (swatch(SERVER_WAITS)) "bytes from the disk cache " (percent(hits)) }
            li { (swatch(CLIENTS_WAIT)) "bytes from buckets " (percent(misses)) }
        }
        dl { @for (name, value) in rows { dt { (name) } dd { (value) } } }
    }
}

fn datasets(now: &Snapshot) -> Markup {
    html! {
        table {
            tr { th { "name" } th.n { "records" } th.n { "bad" } th.n { "classes" } th { "digest" } }
            @for dataset in &now.datasets {
                tr {
                    td { (dataset.name) }
                    td.n { (count(dataset.records as f64)) }
                    td.n { (count(dataset.bad as f64)) }
                    td.n { (count(dataset.classes as f64)) }
                    td { code { (dataset.digest.chars().take(16).collect::<String>()) } }
                }
            }
        }
    }
}

/// The query makes the browser load the current picture instead of a cached one.
fn samples(now: &Snapshot) -> Markup {
    html! {
        @if now.images == 0 {
            span.faint { "none yet" }
        } @else {
            img src={ "/last.png?" (now.microbatches) } alt="samples with their classes";
        }
    }
}

/// A stacked bar: each part's ratio and color.
fn bar(parts: &[(f64, &str)]) -> Markup {
    html! {
        div.bar {
            @for (part, color) in parts {
                i style=(format!("width:{:.1}%;background:{color}", part.clamp(0.0, 1.0) * 100.0)) {}
            }
        }
    }
}

fn swatch(color: &str) -> Markup {
    html! { b style={ "background:" (color) } {} }
}
