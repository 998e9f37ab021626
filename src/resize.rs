//! Crop box and filter to a slot of the batch.
