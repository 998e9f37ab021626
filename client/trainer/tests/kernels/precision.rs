/// The precision of activations, which kernels.rs expects in its parent module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    Bf16,
    F16,
    F32,
}
