//! Operations of augmentation policies as data: what is done to pixels, and the name and argument by
//! which timm or torchvision does the same. [`crate::augment`] applies them; the plan only names them.

mod mixture;
mod op;
pub(crate) mod policies;
mod timm;
pub(crate) mod torch_policies;
mod torchvision;

pub(crate) use mixture::MAX_WIDTH;
pub use mixture::{Chain, Mixture, MixtureKind};
pub(crate) use op::{Effect, MAX_MAGNITUDE};
pub use op::{Library, Op};
pub use timm::{Drawn, Hparams, TimmOp};
pub use torchvision::{Space, TorchOp};
