//! RandAugment operations and flip, in place on a slot.
