//! `--metrics-address`: figures of a run in Prometheus' text format, over plain HTTP.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use forebay_client::{Circuit, ServerStats, blocking};
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use crate::accuracy::Accuracy;
use crate::training_loop::StepReport;

/// Concurrent connections. Further ones wait until one of these has ended.
const CONNECTIONS: usize = 8;
/// Longest time of a connection, which is for one request.
const LIFETIME: Duration = Duration::from_secs(5);
/// Longest head of a request.
const HEAD_BYTES: usize = 16 << 10;

/// The figures of a run, which a thread serves.
#[derive(Clone, Default)]
pub(crate) struct Metrics(Arc<Mutex<Figures>>);

/// Sums over the steps of this process, and the figures of the last one.
#[derive(Default)]
struct Figures {
    steps: u64,
    images: u64,
    step_seconds: f64,
    data_wait_seconds: f64,
    last: Option<StepReport>,
    checkpoints: u64,
    /// The last evaluations, by name.
    evaluations: Vec<(String, Accuracy)>,
}

impl Metrics {
    /// Serves figures at an address, with those of a client's servers.
    ///
    /// # Errors
    /// When the address cannot be listened at.
    pub(crate) fn serve(address: &str, client: Option<blocking::Client>) -> anyhow::Result<Self> {
        let cannot = || {
            format!(
                "cannot listen at --metrics-address {address}: expected HOST:PORT of this machine, which no other \
                 process or rank uses"
            )
        };
        let listener = TcpListener::bind(address).with_context(cannot)?;
        listener.set_nonblocking(true).with_context(cannot)?;
        let bound = listener.local_addr().with_context(cannot)?;
        let metrics = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.with_context(cannot)?;
        let of_thread = metrics.clone();
        let serve = move || {
            runtime.block_on(async move {
                // The listener is made for the runtime within it.
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => accept(listener, of_thread, client).await,
                    Err(error) => tracing::warn!(%error, "no metrics are served"),
                }
            });
        };
        let thread = std::thread::Builder::new().name("metrics".to_owned());
        thread.spawn(serve).with_context(cannot)?;
        super::output::print_progress(&format!("metrics: http://{bound}/metrics"));
        Ok(metrics)
    }

    /// Records a step.
    pub(crate) fn step(&self, report: &StepReport) {
        let mut figures = self.figures();
        figures.steps += 1;
        figures.images += report.samples as u64;
        figures.step_seconds += report.step_seconds;
        figures.data_wait_seconds += report.data_wait_seconds;
        figures.last = Some(*report);
    }

    /// Records a checkpoint.
    pub(crate) fn checkpoint(&self) {
        self.figures().checkpoints += 1;
    }

    /// Records an evaluation.
    pub(crate) fn evaluation(&self, name: &str, accuracy: &Accuracy) {
        let mut figures = self.figures();
        figures.evaluations.retain(|(other, _)| other != name);
        figures.evaluations.push((name.to_owned(), *accuracy));
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn render(&self, servers: &[ServerStats]) -> String {
        let mut text = self.figures().render();
        render_servers(&mut text, servers);
        text
    }
}

impl Figures {
    fn render(&self) -> String {
        let mut text = String::new();
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        metric(&mut text, "build_info", "Version of the trainer", "gauge", &[(&version, 1.0)]);
        for (name, help, value) in [
            ("steps_total", "Steps of this process", self.steps as f64),
            ("images_total", "Images of these steps, over all ranks", self.images as f64),
            (
                "step_seconds_total",
                "Time of these steps, with the wait for data",
                self.step_seconds,
            ),
            (
                "data_wait_seconds_total",
                "Time that the rank which waited longest waited for data",
                self.data_wait_seconds,
            ),
            ("checkpoints_total", "Checkpoints written by this process", self.checkpoints as f64),
        ] {
            metric(&mut text, name, help, "counter", &[(&[], value)]);
        }
        let Some(last) = &self.last else { return text };
        let mut gauge = |name: &str, help: &str, value: f64| {
            metric(&mut text, name, help, "gauge", &[(&[], value)]);
        };
        gauge("epoch", "Epoch of the last step, from 0", last.epoch as f64);
        gauge("step", "The last step within its epoch, from 0", last.step as f64);
        gauge("loss", "Mean loss of the last step", last.loss);
        gauge("learning_rate", "Learning rate of the last step", last.lr);
        gauge(
            "gradient_norm",
            "Norm of the gradient of the last step before clipping",
            last.grad_norm,
        );
        gauge(
            "images_per_second",
            "Images per second of the last step, over all ranks",
            last.samples as f64 / last.step_seconds,
        );
        gauge(
            "data_wait_ratio",
            "Share of the time of the last step spent waiting for data",
            last.data_wait_seconds / last.step_seconds,
        );
        if let Some(scale) = &last.loss_scale {
            gauge("loss_scale", "Loss scale of training in f16", scale.loss_scale);
            gauge(
                "skipped_updates",
                "Updates of the run skipped because a gradient was not finite",
                scale.skipped_updates as f64,
            );
        }
        for (name, help, figure) in [
            (
                "evaluation_top1_ratio",
                "Top-1 accuracy of the last evaluation",
                Accuracy::top1_rate as fn(&Accuracy) -> f64,
            ),
            ("evaluation_top5_ratio", "Top-5 accuracy of the last evaluation", Accuracy::top5_rate),
            ("evaluation_loss", "Mean cross-entropy of the last evaluation", Accuracy::loss),
        ] {
            let labels: Vec<_> =
                self.evaluations.iter().map(|(of, _)| [("evaluation", &**of)]).collect();
            let values = self.evaluations.iter().map(|(_, accuracy)| figure(accuracy));
            let samples: Vec<_> = labels.iter().map(|labels| &labels[..]).zip(values).collect();
            metric(&mut text, name, help, "gauge", &samples);
        }
        text
    }
}

/// The servers as this rank's client sees them.
fn render_servers(text: &mut String, servers: &[ServerStats]) {
    let bit = |is_so: bool| f64::from(u8::from(is_so));
    let mut each = |name: &str, help: &str, kind: &str, value: &dyn Fn(&ServerStats) -> f64| {
        let labels: Vec<_> = servers.iter().map(|server| [("server", &*server.name)]).collect();
        let values = servers.iter().map(value);
        let samples: Vec<_> = labels.iter().map(|labels| &labels[..]).zip(values).collect();
        metric(text, name, help, kind, &samples);
    };
    each("server_present", "Whether an endpoint resolves to the server", "gauge", &|s| {
        bit(s.present)
    });
    each("server_excluded", "Whether the server is excluded from the job", "gauge", &|s| {
        bit(s.excluded.is_some())
    });
    each(
        "server_circuit_open",
        "Whether the server failed and is not used for a while",
        "gauge",
        &|s| bit(s.circuit != Circuit::Closed),
    );
    each("server_microbatches_total", "Microbatches received from the server", "counter", &|s| {
        s.microbatches as f64
    });
    each("server_bytes_total", "Bytes of these microbatches", "counter", &|s| s.bytes as f64);
    each("server_failures_total", "Attempts that failed", "counter", &|s| s.failures as f64);
    each(
        "server_hedges_sent_total",
        "Hedges sent to the server because another was late",
        "counter",
        &|s| s.hedges_sent as f64,
    );
    each(
        "server_hedges_won_total",
        "Hedges sent to the server that arrived first",
        "counter",
        &|s| s.hedges_won as f64,
    );
    each(
        "server_overtaken_total",
        "Times that a hedge to another server arrived first",
        "counter",
        &|s| s.overtaken as f64,
    );
    each("server_wasted_bytes_total", "Bytes received and discarded", "counter", &|s| {
        s.wasted_bytes as f64
    });
}

/// The labels of a sample.
type Labels<'a> = &'a [(&'a str, &'a str)];

/// Appends a metric with its samples; nothing if it has none.
fn metric(text: &mut String, name: &str, help: &str, kind: &str, samples: &[(Labels<'_>, f64)]) {
    if samples.is_empty() {
        return;
    }
    let name = format!("forebay_trainer_{name}");
    // Writing to a string cannot fail.
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
    for (labels, value) in samples {
        let labels: Vec<String> =
            labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        match value {
            value if value.is_infinite() => {
                writeln!(text, "{name}{labels} {}Inf", if *value > 0.0 { "+" } else { "-" })
            }
            value => writeln!(text, "{name}{labels} {value}"),
        }
        .ok();
    }
}

/// The value of a label.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

async fn accept(
    listener: tokio::net::TcpListener,
    metrics: Metrics,
    client: Option<blocking::Client>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, place, metrics.clone(), client.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for metrics; retrying in 1 s");
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    metrics: Metrics,
    client: Option<blocking::Client>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let servers = client.as_ref().map(blocking::Client::servers).unwrap_or_default();
        let response = respond(request.method(), request.uri().path(), || metrics.render(&servers));
        async move { Ok::<_, Infallible>(response) }
    });
    let mut http = Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(LIFETIME)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false);
    // A connection that breaks or takes too long is its client's loss.
    drop(timeout(LIFETIME, http.serve_connection(TokioIo::new(stream), service)).await);
    drop(place);
}

fn respond(method: &Method, path: &str, render: impl FnOnce() -> String) -> Response<Full<Bytes>> {
    let plain = "text/plain; charset=utf-8";
    let (status, kind, body) = match path {
        _ if method != Method::GET && method != Method::HEAD => {
            (StatusCode::METHOD_NOT_ALLOWED, plain, "expected GET or HEAD\n".to_owned())
        }
        "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", render()),
        "/healthz" => (StatusCode::OK, plain, "ok\n".to_owned()),
        _ => {
            (StatusCode::NOT_FOUND, plain, "not found: expected /metrics or /healthz\n".to_owned())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

#[cfg(test)]
mod tests {
    use forebay_client::Counts;

    use super::*;
    use crate::training_loop::LossScaleReport;

    #[test]
    fn a_scrape_has_the_figures_of_the_steps_of_the_evaluations_and_of_each_server() {
        let metrics = Metrics::default();
        assert!(!metrics.render(&[]).contains("forebay_trainer_loss "), "there was no step");
        let scale = LossScaleReport { loss_scale: 1024.0, skipped: false, skipped_updates: 3 };
        let mut report = StepReport {
            epoch: 1,
            step: 4,
            loss: 6.5,
            grad_norm: f64::INFINITY,
            loss_scale: Some(scale),
            lr: 0.25,
            samples: 64,
            data_wait_seconds: 0.5,
            step_seconds: 2.0,
            stops: false,
        };
        metrics.step(&report);
        report.loss = f64::NAN;
        metrics.step(&report);
        metrics.evaluation("eval", &Accuracy::default());
        let server = |name: &str, excluded| ServerStats {
            name: name.to_owned(),
            present: true,
            circuit: Circuit::Closed,
            excluded,
            counts: Counts { failures: 7, hedges_sent: 2, ..Counts::default() },
        };
        let servers = [server("http://a", None), server("b\"\\\n", Some("other data".to_owned()))];
        let text = metrics.render(&servers);
        for line in [
            "forebay_trainer_steps_total 2",
            "forebay_trainer_images_total 128",
            "forebay_trainer_step_seconds_total 4",
            "forebay_trainer_data_wait_seconds_total 1",
            "forebay_trainer_loss NaN",
            "forebay_trainer_gradient_norm +Inf",
            "forebay_trainer_learning_rate 0.25",
            "forebay_trainer_images_per_second 32",
            "forebay_trainer_data_wait_ratio 0.25",
            "forebay_trainer_loss_scale 1024",
            "forebay_trainer_evaluation_top1_ratio{evaluation=\"eval\"} 0",
            "forebay_trainer_server_failures_total{server=\"http://a\"} 7",
            "forebay_trainer_server_hedges_sent_total{server=\"http://a\"} 2",
            "forebay_trainer_server_excluded{server=\"http://a\"} 0",
            "forebay_trainer_server_excluded{server=\"b\\\"\\\\\\n\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
