//! Losses and their gradients against timm's and torch's, in f64 and f32.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;

use forebay_trainer::backend::cpu::Real;
use forebay_trainer::loss::{Criterion, Loss};
use libtest_mimic::Trial;

use crate::arrays::{Arrays, apart, within};

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let folder = folder.join("09_loss");
    if !folder.is_dir() {
        return Vec::new();
    }
    let cases = forebay_tests::json(&folder.join("cases.json"));
    let arrays = Arc::new(Arrays::read(&folder.join("loss.safetensors")));
    let trial = |case: &serde_json::Value| {
        let (case, arrays) = (case.clone(), Arc::clone(&arrays));
        let name = format!("09_loss/{}", case["name"].as_str().unwrap());
        Trial::test(name, move || {
            check::<f64>(&case, &arrays, "f64", 1e-12, 1e-12)?;
            check::<f32>(&case, &arrays, "f32", 1e-6, 1e-7)?;
            Ok(())
        })
    };
    cases["cases"].as_array().unwrap().iter().map(trial).collect()
}

/// timm's names of losses.
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
    Loss { criterion, smoothing, threshold }
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
    // The set keeps the gradients over 1000 classes in f32 alone.
    if dtype == "f64" && batch != 6 {
        return Ok(());
    }
    within(&format!("{dtype} gradient"), apart(&gradient, &arrays.get(&name)), slope)
}
