//! The options of a run as text.

use forebay_client::{Description, PixelFormat, Prefetch, RecipeRef};
use forebay_types::settings::{ByteSize, TimeSpan};

use crate::options::Options;
use crate::plan::{Pace, StepTime};

/// The options that are set, as names and values.
pub(crate) fn settings(
    options: &Options,
    description: &Description,
) -> Vec<(&'static str, String)> {
    let recipe = match &options.job.recipe {
        RecipeRef::Name(name) => name.clone(),
        RecipeRef::Toml(_) => "a TOML file".into(),
    };
    let plan: Vec<String> = options.phases().iter().map(ToString::to_string).collect();
    let pace = match options.pace {
        Pace::Free => "as fast as possible".to_owned(),
        Pace::Step(StepTime { mean, jitter }) => {
            format!("{} per microbatch, +-{:.0} %", TimeSpan(mean), jitter * 100.0)
        }
        Pace::Rate(rate) => format!("{rate} images/s by the clock"),
    };
    let Description { batch, microbatches, image_size, .. } = description;
    let client = &options.client;
    let prefetch = match client.prefetch {
        Prefetch::Auto => "automatic".to_owned(),
        Prefetch::Bytes(bytes) => format!("{} per trainer", ByteSize(bytes as u64)),
    };
    let mut settings = vec![
        ("servers", client.endpoints.join(", ")),
        ("dataset", format!("{} ({} records)", options.job.dataset, description.records)),
        (
            "recipe",
            format!(
                "{recipe}, {batch} images in {microbatches} microbatches per step, {image_size} pixels"
            ),
        ),
        ("seed", options.job.seed.to_string()),
        ("pixels", {
            let PixelFormat { dtype, layout, mixed_by } = client.format;
            format!("{dtype}, {layout}, mixed by the {mixed_by}")
        }),
        ("plan (trainers x length)", plan.join(", ")),
        ("jobs", options.jobs.to_string()),
        ("trainers read", pace),
        ("window", prefetch),
    ];
    if options.slow_readers > 0 {
        settings.push(("slow readers", options.slow_readers.to_string()));
    }
    if let Some(every) = options.reconnect_every {
        settings.push(("all reconnect every", TimeSpan(every).to_string()));
    }
    if let Some(spawn) = &options.spawn {
        let arguments: Vec<_> = spawn.arguments.iter().map(|word| word.to_string_lossy()).collect();
        settings.push(("servers started with", arguments.join(" ")));
        if let Some(every) = spawn.kill_every {
            settings.push(("kill -9 every", format!("{}, seed {}", TimeSpan(every), spawn.seed)));
        }
    }
    settings.push(("version", env!("CARGO_PKG_VERSION").into()));
    settings
}
