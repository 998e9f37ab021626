//! The modifiers after the name of an instruction that computes: `.rn.ftz.f32`.

use super::super::ops::round::mode;
use super::super::syntax::width_of;

/// The modifiers of an instruction, by kind.
#[derive(Default)]
pub(super) struct Modifiers<'m> {
    /// The types, that of the result first.
    pub(super) kinds: Vec<&'m str>,
    pub(super) mode: Option<u64>,
    /// `.rni` and similar: rounding to an integral value.
    pub(super) integral: bool,
    /// `.ftz`, `.sat`, `.relu`, `.cc`
    extras: Vec<&'m str>,
    /// The modifiers that belong to the name.
    pub(super) rest: Vec<&'m str>,
}

impl<'m> Modifiers<'m> {
    pub(super) fn new(modifiers: &[&'m str]) -> Self {
        let mut sorted = Self::default();
        for &modifier in modifiers {
            match modifier {
                "ftz" | "sat" | "relu" | "cc" => sorted.extras.push(modifier),
                kind if width_of(kind).is_some() || kind == "tf32" => sorted.kinds.push(kind),
                other => match mode::of(other) {
                    Some(mode) => {
                        sorted.mode = Some(mode);
                        sorted.integral = other.ends_with('i');
                    }
                    None => sorted.rest.push(other),
                },
            }
        }
        sorted
    }

    /// Whether a modifier such as `.ftz`, `.sat`, `.relu` or `.cc` is present.
    pub(super) fn has(&self, extra: &str) -> bool {
        self.extras.contains(&extra)
    }

    /// The steps that follow the computation of a float.
    pub(super) fn after(&self) -> impl Iterator<Item = &'static str> {
        let steps = [("ftz", "flush"), ("sat", "saturate"), ("relu", "relu")];
        steps.into_iter().filter(|step| self.has(step.0)).map(|step| step.1)
    }
}
