//! Dense targets.

/// The dense target that a sparse one stands for, in the arithmetic of timm's `mixup_target`: weight
/// lambda on label a and the rest on label b, each smoothed over all classes.
///
/// # Panics
/// When a label is not below the number of classes.
pub fn dense_target(labels: [u32; 2], lambda: f64, smoothing: f64, classes: usize) -> Vec<f32> {
    assert!(labels.iter().all(|&label| (label as usize) < classes), "{labels:?} of {classes}");
    let [on, off] = smoothed(smoothing, classes);
    let weights = label_weights(lambda);
    let one_hot = |label: u32, class: usize| if class == label as usize { on } else { off };
    (0..classes)
        .map(|class| {
            one_hot(labels[0], class) * weights[0] + one_hot(labels[1], class) * weights[1]
        })
        .collect()
}

/// The values of a one-hot target, 1 and 0, after smoothing.
#[expect(clippy::cast_possible_truncation, reason = "targets are f32")]
pub(super) fn smoothed(smoothing: f64, classes: usize) -> [f32; 2] {
    let off = smoothing / classes as f64;
    [(1.0 - smoothing + off) as f32, off as f32]
}

/// The weights of a target's two labels.
#[expect(clippy::cast_possible_truncation, reason = "targets are f32")]
pub(super) const fn label_weights(lambda: f64) -> [f32; 2] {
    [lambda as f32, (1.0 - lambda) as f32]
}
