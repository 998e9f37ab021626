//! Scratch memory: vectors that are reused, and hold no more than the largest content that they had.

/// Gives a vector a length. Its contents are unspecified. Unlike by `resize`, it gets no more capacity than
/// that.
pub(crate) fn fit<T: Clone>(vector: &mut Vec<T>, len: usize, value: T) {
    if len > vector.capacity() {
        vector.clear();
        vector.reserve_exact(len);
    }
    vector.resize(len, value);
}

/// The bytes that a vector takes.
pub(crate) const fn bytes_of<T>(vector: &Vec<T>) -> usize {
    vector.capacity() * size_of::<T>()
}
