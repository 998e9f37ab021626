//! Metrics that are counted as things happen.

use forebay_types::Timings;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tonic::Code;

use crate::access::CloseReason;
use crate::status::DataFault;

/// Upper bounds of the histogram's buckets, in seconds.
const BUCKETS: [f64; 11] = [0.001, 0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.4, 1.0, 3.0, 10.0];

/// The counters and histograms.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(super) registry: Registry,
    calls: Family<CallLabels, Counter>,
    served: Family<ServedLabels, Counter>,
    stages: Family<StageLabels, Histogram>,
    /// TLS handshakes that failed or timed out.
    pub(crate) refused_connections: Counter,
    /// Microbatches that were leased.
    pub(super) leased: Counter,
    closed: Family<ClosedLabels, Counter>,
    data_faults: Family<DataFaultLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServedLabels {
    recipe: String,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClosedLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DataFaultLabels {
    dataset: String,
    fault: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StageLabels {
    pub(super) stage: &'static str,
}

impl Metrics {
    /// The metrics of a server of these datasets. Counters with known labels are 0 from the start, because a rate can
    /// only be computed of a counter that was there before.
    pub(crate) fn new(datasets: &[String]) -> Self {
        let mut registry = Registry::with_prefix("forebay");
        let (calls, served) = (Family::default(), Family::default());
        let stages = Family::<_, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let refused_connections = Counter::default();
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of the server", version);
        registry.register("calls", "Calls ended, by method and gRPC code", calls.clone());
        registry.register(
            "microbatches_served",
            "Microbatches sent (Ok), and streams that ended early (other codes), by recipe",
            served.clone(),
        );
        registry.register_with_unit(
            "stage_duration",
            "Time of a microbatch by stage: CPU time of read to digest, wall time of queue and make",
            Unit::Seconds,
            stages.clone(),
        );
        registry.register(
            "connections_refused",
            "TLS handshakes that failed or timed out",
            refused_connections.clone(),
        );
        let leased = Counter::default();
        registry.register(
            "microbatches_leased",
            "Microbatches that clients of this host read in shared memory",
            leased.clone(),
        );
        let closed = Family::<ClosedLabels, Counter>::default();
        for reason in CloseReason::ALL {
            drop(closed.get_or_create(&ClosedLabels { reason: reason.name() }));
        }
        registry.register(
            "connections_closed",
            "Connections that the server closed, by reason",
            closed.clone(),
        );
        let data_faults = Family::<DataFaultLabels, Counter>::default();
        for dataset in datasets {
            for fault in DataFault::ALL {
                let labels = DataFaultLabels { dataset: dataset.clone(), fault: fault.name() };
                drop(data_faults.get_or_create(&labels));
            }
        }
        registry.register(
            "data_faults",
            "Streams that ended because a record could not be read (io) or is not as it was indexed (changed)",
            data_faults.clone(),
        );
        Self { registry, calls, served, stages, refused_connections, leased, closed, data_faults }
    }

    /// Counts a connection that the server closed.
    pub(crate) fn add_closed(&self, reason: CloseReason) {
        self.closed.get_or_create(&ClosedLabels { reason: reason.name() }).inc();
    }

    /// Counts a stream that ended because of the data behind a microbatch.
    pub(super) fn add_data_fault(&self, dataset: &str, fault: DataFault) {
        let labels = DataFaultLabels { dataset: dataset.to_owned(), fault: fault.name() };
        self.data_faults.get_or_create(&labels).inc();
    }

    /// Counts a call that has ended.
    pub(crate) fn add_call(&self, method: &'static str, code: Code) {
        self.calls.get_or_create(&CallLabels { method, code: format!("{code:?}") }).inc();
    }

    /// Counts a microbatch that was sent, or a stream that ended early.
    pub(super) fn add_served(&self, recipe: &str, code: Code) {
        let served = ServedLabels { recipe: recipe.to_owned(), code: format!("{code:?}") };
        self.served.get_or_create(&served).inc();
    }

    /// Counts the stages of a microbatch.
    pub(super) fn add_timings(&self, timings: &Timings) {
        for (stage, time) in timings.named() {
            self.stages.get_or_create(&StageLabels { stage }).observe(time.as_secs_f64());
        }
    }
}
