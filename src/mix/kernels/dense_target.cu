// The dense targets of a batch: weight lambda on label a and the rest on label b, each smoothed over
// all classes. Bit-equal to its twin `dense_target` in src/mix/targets.rs.
//
// A thread writes 4 adjacent values of the n * classes, which are 16 bytes. `labels` and `weights` have
// two entries for each sample; `on` and `off` are the values of 1 and 0 after smoothing.

extern "C" __global__ void dense_target(const unsigned *labels, const float *weights, float on,
                                        float off, unsigned n, unsigned classes, float *out) {
  const size_t total = static_cast<size_t>(n) * classes;
  const size_t stride = 4 * static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t at = 4 * (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x); at < total;
       at += stride) {
    unsigned sample = static_cast<unsigned>(at / classes);
    unsigned one = static_cast<unsigned>(at % classes);
    float values[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (unsigned k = 0; k < 4; ++k) {
      if (at + k < total) {
        const float a = labels[2 * sample] == one ? on : off;
        const float b = labels[2 * sample + 1] == one ? on : off;
        values[k] =
            __fadd_rn(__fmul_rn(a, weights[2 * sample]), __fmul_rn(b, weights[2 * sample + 1]));
      }
      if (++one == classes) {
        one = 0;
        ++sample;
      }
    }
    if (at + 4 <= total) {
      *reinterpret_cast<float4 *>(out + at) =
          make_float4(values[0], values[1], values[2], values[3]);
    } else {
#pragma unroll
      for (unsigned k = 0; k < 3; ++k) {
        if (at + k < total) out[at + k] = values[k];
      }
    }
  }
}
