//! Measures plans on the GPU, in memory of its own.

use forebay::gpu::{DeviceError, Gpu, Lane};

use super::case::{ConvCase, Operands};
use super::graph::GraphPlan;
use super::library::Handle;
use crate::backend::cuda::Precision;

/// Executions before the first measurement: kernels are loaded at their first launch.
const WARM_UP: usize = 2;

/// Number of measurements, of which the median counts.
const REPEATS: usize = 7;

/// What inputs consist of: as bf16 and as f32 a number near 0.0115, and as f16 one near 1.06. Only in f16 sums may become infinite,
/// which takes no other time.
const BYTE: u8 = 0x3c;

/// Milliseconds of each plan of each case. A plan that does not execute takes forever.
pub(super) fn measure(
    device: &Gpu,
    handle: &Handle,
    precision: Precision,
    cases: &mut [(ConvCase, Vec<GraphPlan>)],
) -> Result<Vec<Vec<f64>>, DeviceError> {
    let bytes = |(case, plans): &(ConvCase, Vec<GraphPlan>)| {
        let workspace = plans.iter().map(|plan| plan.workspace).max().unwrap_or(0);
        starts(case, precision)[3] + workspace
    };
    let bytes = cases.iter().map(bytes).max().unwrap_or(0);
    let lane = device.lane(1, bytes)?;
    handle.attach(&lane)?;
    let one = |(case, plans): &mut (ConvCase, Vec<GraphPlan>)| {
        let starts = starts(case, precision);
        // What the case before had as its workspace is undefined.
        lane.fill(0..starts[3], BYTE)?;
        let [x, w, y, workspace] = starts.map(|start| lane.address(start..bytes));
        let operands = Operands { x, w, y };
        let time = |plan: &mut GraphPlan| time(&lane, handle, plan, (operands, workspace));
        Ok(plans.iter_mut().map(time).collect())
    };
    let times: Result<Vec<Vec<f64>>, DeviceError> = cases.iter_mut().map(one).collect();
    // The lane and its stream are dropped here, also where a case failed.
    handle.detach()?;
    lane.wait()?;
    times
}

/// Offsets of x, w, y and the workspace.
fn starts(case: &ConvCase, precision: Precision) -> [usize; 4] {
    let [x, w, y] = case.bytes(precision).map(|bytes| bytes.next_multiple_of(256));
    [0, x, x + w, x + w + y]
}

/// The median time of a plan.
fn time(
    lane: &Lane,
    handle: &Handle,
    plan: &mut GraphPlan,
    (operands, workspace): (Operands, u64),
) -> f64 {
    let mut launch = || plan.launch(handle, [operands.x, operands.w, operands.y, workspace]);
    let warm = (0..WARM_UP).try_for_each(|_| launch());
    let times = warm.and_then(|()| {
        let run = |_| lane.time(&mut launch).map(|time| time.as_secs_f64() * 1e3);
        (0..REPEATS).map(run).collect::<Result<Vec<f64>, DeviceError>>()
    });
    plan.forget_addresses();
    match times {
        Ok(mut times) => {
            times.sort_by(f64::total_cmp);
            times[REPEATS / 2]
        }
        Err(error) => {
            tracing::debug!("{plan}: {error}");
            f64::INFINITY
        }
    }
}
