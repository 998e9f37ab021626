//! A folder of microbatches, as `--dump` writes them.

use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

const SAMPLES: usize = 4;
const SIDE: usize = 8;

/// Two epochs of three steps, of ten classes.
pub(crate) fn dump(folder: &Path, microbatches: u8) {
    std::fs::create_dir_all(folder).unwrap();
    let about = serde_json::json!({
        "classes": 10, "steps": 3, "batch": usize::from(microbatches) * SAMPLES,
        "microbatches": microbatches, "image_size": SIDE,
        "smoothing": 0.0, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
        "dataset_digest": "d", "recipe_digest": "r",
    });
    std::fs::write(folder.join("description.json"), about.to_string()).unwrap();
    for name in 0..6 * microbatches {
        let (epoch, step) = (name / microbatches / 3, name / microbatches % 3);
        let index = name % microbatches;
        let pixels: Vec<u8> = (0..SAMPLES * SIDE * SIDE * 3)
            .map(|i| u8::try_from((i * 37 + usize::from(name) * 11) % 256).unwrap())
            .collect();
        let labels: Vec<u8> =
            (0..4).flat_map(|i| (u32::from(name + i) % 10).to_le_bytes()).collect();
        let lambda: Vec<u8> = [0.75_f32; SAMPLES].iter().flat_map(|l| l.to_le_bytes()).collect();
        let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes);
        let views = [
            ("pixels", view(Dtype::U8, &[SAMPLES, SIDE, SIDE, 3], &pixels).unwrap()),
            ("label_a", view(Dtype::U32, &[SAMPLES], &labels).unwrap()),
            ("label_b", view(Dtype::U32, &[SAMPLES], &labels).unwrap()),
            ("lambda", view(Dtype::F32, &[SAMPLES], &lambda).unwrap()),
        ];
        let file = folder.join(format!("{epoch:04}-{step:06}-{index:03}.safetensors"));
        safetensors::serialize_to_file(views, None, &file).unwrap();
    }
}
