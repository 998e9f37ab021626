//! Which kernels a worker runs: plain Rust, or the same compiled or written for AVX2.
//!
//! A [`Simd`] that says AVX2 can only come from [`Simd::detect`], so holding one proves that the CPU
//! has it, and FMA, which no CPU with AVX2 lacks: kernels rely on that. Both kinds give the same bytes.

/// The instruction set that kernels may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simd {
    avx2: bool,
}

impl Simd {
    /// Plain Rust, on every machine.
    pub const SCALAR: Self = Self { avx2: false };

    /// The best that this CPU has.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        return Self { avx2: is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") };
        #[cfg(not(target_arch = "x86_64"))]
        return Self::SCALAR;
    }

    /// Whether the CPU has AVX2 and FMA and kernels should use them.
    pub const fn avx2(self) -> bool {
        self.avx2
    }
}

impl Default for Simd {
    fn default() -> Self {
        Self::detect()
    }
}

/// Defines a function of the given arguments and a leading [`Simd`], whose body is compiled twice:
/// plainly, and with AVX2 for the compiler's own vectors. The source is one, Rust contracts no
/// floating-point operations, so both give the same bits.
macro_rules! kernel {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name(simd: $crate::simd::Simd, $($arg: $type),*) $(-> $result)? {
            // Always, so that the body is compiled with the features of its caller.
            #[inline(always)]
            fn plain($($arg: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            if simd.avx2() {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) $(-> $result)? {
                    plain($($arg),*)
                }
                #[expect(unsafe_code, reason = "a call across target features")]
                // SAFETY: `simd` proves that the CPU has AVX2.
                return unsafe { avx2($($arg),*) };
            }
            plain($($arg),*)
        }
    };
}
pub(crate) use kernel;
