//! Suite 07: positions, compared with timm's `RepeatAugSampler` and torch's `DistributedSampler` for their
//! permutations.

use std::path::Path;
use std::sync::Arc;

use forebay::Sampler;
use forebay::recipe::{RecipeError, RecipeSpec};
use forebay_tests::json;
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let file = folder.join("07_sampler/sampler.json");
    if !file.is_file() {
        return Vec::new();
    }
    let golden = Arc::new(json(&file));
    let mut trials = Vec::new();
    for kind in ["repeat_aug", "distributed", "ordered"] {
        for i in 0..golden[kind].as_array().expect("cases").len() {
            let golden = Arc::clone(&golden);
            let case = &golden[kind][i];
            let name = format!("07_sampler/{kind}_{i:02}_n{}_world{}", case["n"], case["world"]);
            trials.push(Trial::test(name, move || check(&golden, kind, i)));
        }
    }
    let imagenet = golden["imagenet_epoch_length"].clone();
    if imagenet.is_object() {
        trials
            .push(Trial::test("07_sampler/imagenet_epoch_length", move || epoch_length(&imagenet)));
    }
    trials
}

fn check(golden: &Value, kind: &str, i: usize) -> Result<(), Failed> {
    let case = &golden[kind][i];
    let records = case["n"].as_u64().expect("n");
    let world = u32::try_from(case["world"].as_u64().expect("world"))?;
    let repeats = case["num_repeats"].as_u64().unwrap_or(1);
    // With one sample per microbatch and one microbatch per rank, the list of rank r is microbatch r of each step.
    let base = if kind == "ordered" { "eval" } else { "a2" };
    let set = [
        format!("batch = {world}"),
        format!("microbatches = {world}"),
        format!("repeats = {repeats}"),
        "mix.probability = 0.0".into(),
    ];
    let recipe = RecipeSpec::preset(base).with_changes(set).resolve()?;
    let sampler = Sampler::new(records, &recipe, 0);
    if kind != "ordered" && records < u64::from(world) {
        // timm pads by wrapping around; forebay has no whole step and refuses.
        let refused = matches!(sampler, Err(RecipeError::TooSmall { .. }));
        return if refused {
            Ok(())
        } else {
            Err("a dataset smaller than a step is not refused".into())
        };
    }
    let sampler = sampler?;
    let perm = case["perm"].as_str().map(|key| &golden["perms"][key]);
    let record = |position: u64| match perm {
        Some(perm) => perm[usize::try_from(position / repeats).expect("small")].as_u64(),
        None => Some(sampler.epoch(0).record(position)),
    };
    for (rank, indices) in (0_u32..).zip(case["indices_per_rank"].as_array().expect("ranks")) {
        let indices: Vec<Option<u64>> =
            indices.as_array().expect("indices").iter().map(Value::as_u64).collect();
        let ours: Vec<Option<u64>> = (0..sampler.steps_per_epoch())
            .flat_map(|step| sampler.positions(step, rank))
            .map(record)
            .collect();
        // The samplers pad a short last round; forebay drops it, or keeps it short in evaluation. Without repeats
        // timm still cuts to a multiple of 256, and forebay does not.
        let common = ours.len().min(indices.len());
        let missing = indices.len() - common;
        let short = records / u64::from(world) * u64::from(world) < records;
        if missing > usize::from(short) {
            return Err(format!("rank {rank}: {} of {} samples", ours.len(), indices.len()).into());
        }
        if ours[..common] != indices[..common] {
            return Err(format!("rank {rank}: {indices:?}, got {ours:?}").into());
        }
        if repeats > 1 && records >= 256 && ours.len() > indices.len() {
            return Err(format!(
                "rank {rank} has too many samples: {} of {}",
                ours.len(),
                indices.len()
            )
            .into());
        }
    }
    Ok(())
}

fn epoch_length(case: &Value) -> Result<(), Failed> {
    let records = case["n"].as_u64().expect("n");
    for (world, lengths) in case["repeat_aug"].as_object().expect("worlds") {
        let set = [
            format!("batch = {world}"),
            format!("microbatches = {world}"),
            "mix.probability = 0.0".into(),
        ];
        let recipe = RecipeSpec::preset("a2").with_changes(set).resolve()?;
        let samples = Sampler::new(records, &recipe, 0)?.samples_per_epoch();
        if Some(samples) != lengths["total"].as_u64() {
            return Err(format!("world {world}: {lengths}, got {samples}").into());
        }
    }
    Ok(())
}
