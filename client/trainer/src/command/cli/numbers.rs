//! Numbers that several options take.

use forebay_types::settings::Number;

/// Height and width of images.
pub(crate) type Pixels = Number<1, 4096>;

/// A number of samples.
pub(crate) type Samples = Number<1, 1_048_576>;

/// A number of epochs. Their steps can be counted, however many an epoch has.
pub(crate) type Epochs = Number<1, 1_000_000>;
