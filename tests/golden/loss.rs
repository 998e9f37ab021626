//! Suite 09: losses and their gradients in f64 and f32, compared with timm's and torch's.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;

use forebay_trainer::{Criterion, Loss, Real};
use libtest_mimic::Trial;

use crate::arrays::{Arrays, apart, within};

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let folder = folder.join("09_loss");
    if !folder.is_dir() {
        return Vec::new();
    }
    let cases = forebay_tests::json(&folder.join("cases.json"));
    let arrays = Arc::new(Arrays::read(&folder.join("loss.safetensors")));
    #[cfg_attr(not(feature = "cuda"), expect(unused_mut, reason = "a GPU's are added"))]
    let mut trials: Vec<Trial> = Vec::new();
    #[cfg(feature = "cuda")]
    trials.extend(gpu::trials(&cases, &arrays));
    let trial = |case: &serde_json::Value| {
        let (case, arrays) = (case.clone(), Arc::clone(&arrays));
        let name = format!("09_loss/{}", case["name"].as_str().unwrap());
        Trial::test(name, move || {
            check::<f64>(&case, &arrays, "f64", 1e-12, 1e-12)?;
            check::<f32>(&case, &arrays, "f32", 1e-6, 1e-7)?;
            Ok(())
        })
    };
    trials.into_iter().chain(cases["cases"].as_array().unwrap().iter().map(trial)).collect()
}

/// The loss of timm with this name.
fn named(name: &str) -> Loss {
    let criterion = if name.starts_with("bce_sum") {
        Criterion::BceSum
    } else if name.starts_with("bce") {
        Criterion::Bce
    } else {
        Criterion::CrossEntropy
    };
    let smoothing = if name.contains("s0p1") || name == "ls_ce_0p1" { 0.1 } else { 0.0 };
    let threshold = match name {
        name if name.ends_with("thr0p2") => Some(0.2),
        name if name.ends_with("thr0") => Some(0.0),
        _ => None,
    };
    Loss { criterion, smoothing, target_threshold: threshold }
}

fn check<T: Real>(
    case: &serde_json::Value,
    arrays: &Arrays,
    dtype: &str,
    value: f64,
    slope: f64,
) -> Result<(), String> {
    let loss = named(case["loss"].as_str().unwrap());
    let logits: Vec<T> =
        arrays.get(case["logits"].as_str().unwrap()).into_iter().map(T::from_f64).collect();
    let target: Vec<T> =
        arrays.get(case["target"].as_str().unwrap()).into_iter().map(T::from_f64).collect();
    let size = case["logits"].as_str().unwrap().trim_end_matches(".logits");
    let batch = arrays.get(&format!("{size}.labels")).len();
    let classes = logits.len() / batch;
    let (mut row, mut gradient, mut sum) =
        (vec![T::ZERO; classes], vec![T::ZERO; logits.len()], 0.0);
    for (i, (logits, gradient)) in
        logits.chunks(classes).zip(gradient.chunks_mut(classes)).enumerate()
    {
        if target.len() == batch {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a class number"
            )]
            let class = target[i].to_f64() as usize;
            loss.target(class, class, 1.0, &mut row);
        } else {
            row.copy_from_slice(&target[i * classes..][..classes]);
        }
        sum += loss.sample(logits, &row, batch, 1.0, gradient);
    }
    let wanted = case[format!("value_{dtype}")].as_f64().unwrap();
    within(&format!("{dtype} value"), (sum - wanted).abs() / wanted.abs(), value)?;
    let gradient: Vec<f64> = gradient.into_iter().map(T::to_f64).collect();
    let name = format!("{}.grad_{dtype}", case["name"].as_str().unwrap());
    // The set has the gradients of 1000 classes only in f32.
    if dtype == "f64" && batch != 6 {
        return Ok(());
    }
    within(&format!("{dtype} gradient"), apart(&gradient, &arrays.get(&name)), slope)
}

/// The same cases on a GPU or its stand-in.
#[cfg(feature = "cuda")]
mod gpu {
    use std::sync::Arc;

    use forebay::mix::Device;
    use forebay_trainer::{
        Batch, Conv, Graph, MicrobatchName, Op, ParamKind, Parameter, Pixels, Precision, Shape,
    };
    use libtest_mimic::Trial;
    use serde_json::Value;

    use crate::arrays::{Arrays, apart, within};
    use crate::net::gpu;

    pub(super) fn trials(cases: &Value, arrays: &Arc<Arrays>) -> Vec<Trial> {
        let Some(Device::Cuda(device)) = forebay_tests::gpu() else { return Vec::new() };
        let trial = |case: &Value| {
            let (case, arrays) = (case.clone(), Arc::clone(arrays));
            let name = format!("cuda:{device}/09_loss/{}", case["name"].as_str().unwrap());
            Trial::test(name, move || Ok(check(device, &case, &arrays)?))
        };
        cases["cases"].as_array().unwrap().iter().map(trial).collect()
    }

    /// A network with nothing but a classifier.
    pub(crate) fn classifier(classes: usize, further: Vec<Parameter>) -> Graph {
        let pixel = |channels| Shape { height: 1, width: 1, channels };
        let (input, output) = (pixel(3), pixel(classes));
        let conv = Conv { input, output, kernel: 1, stride: 1, pad: 0, padded: false };
        let parameter = |name: &str, shape, kind| Parameter { name: name.to_owned(), shape, kind };
        let weight = parameter("fc.weight", vec![classes, 3], ParamKind::Matrix);
        let bias = parameter("fc.bias", vec![classes], ParamKind::Bias);
        Graph {
            tensors: vec![input, output],
            ops: vec![Op::Conv { conv, x: 0, y: 1, weight: 0, bias: Some(1) }],
            parameters: [vec![weight, bias], further].concat(),
            norms: Vec::new(),
            blocks: 0,
            classes,
            image: (1, 1),
            pad: 0,
        }
    }

    /// The classes a and b of a dense target's row, and the weight of a.
    fn sparse(row: &[f64], smoothing: f64) -> (usize, usize, f64) {
        let off = smoothing / row.len() as f64;
        let on = 1.0 - smoothing + off;
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        let share = |class: usize| (row[class] - off) / (on - off);
        if share(order[1]) < 1e-6 {
            (order[0], order[0], 1.0)
        } else {
            (order[0], order[1], share(order[0]))
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "classes and weights"
    )]
    fn check(device: u32, case: &Value, arrays: &Arrays) -> Result<(), String> {
        let text = |key: &str| case[key].as_str().unwrap();
        let mut loss = super::named(text("loss"));
        let (logits, target) = (arrays.get(text("logits")), arrays.get(text("target")));
        let size = text("logits").trim_end_matches(".logits");
        let samples = arrays.get(&format!("{size}.labels")).len();
        let classes = logits.len() / samples;
        let (mut label_a, mut label_b, mut lambda) = (Vec::new(), Vec::new(), Vec::new());
        let dense = target.len() != samples;
        if dense {
            loss.smoothing = if text("target").ends_with("s0.1") { 0.1 } else { 0.0 };
        }
        for sample in 0..samples {
            let (a, b, share) = if dense {
                sparse(&target[sample * classes..][..classes], loss.smoothing)
            } else {
                (target[sample] as usize, target[sample] as usize, 1.0)
            };
            label_a.push(a as u32);
            label_b.push(b as u32);
            lambda.push(share as f32);
        }
        let pixels = Pixels::Floats(vec![0.0; samples * 3]);
        let batch = Batch {
            name: MicrobatchName { seed: 0, epoch: 0, step: 0, index: 0 },
            size: (1, 1),
            pixels,
            label_a,
            label_b,
            lambda,
        };
        let mut net = gpu::open(device, Precision::F32, classifier(classes, Vec::new()), samples);
        net.load_batch(&batch, true, None).unwrap();
        net.set_logits(&logits.iter().map(|&x| x as f32).collect::<Vec<f32>>()).unwrap();
        net.compute_loss(&batch, &loss, 1.0).unwrap();
        let slope: Vec<f64> =
            net.gradient_of(1, samples).unwrap().into_iter().map(f64::from).collect();
        let sum = net.take_losses().unwrap();
        let wanted = case["value_f32"].as_f64().unwrap();
        within("value", (sum - wanted).abs() / wanted.abs(), 1e-6)?;
        let name = format!("{}.grad_f32", text("name"));
        // In addition to that rounding, torch's softmax and ours each have an error of about 2^-24 of a probability.
        let limit = 1e-7 + 2.0 / f64::from(1 << 24) / samples as f64;
        within("gradient", apart(&slope, &arrays.get(&name)), limit)
    }
}
#[cfg(feature = "cuda")]
pub(crate) use gpu::classifier;
