//! A peer of compare.sh that is not a data loader: the fastest building blocks in C and Rust for decoding a random
//! crop and resizing it. `turbo FOLDER crop`; see `../peers/common.py`.

use std::ffi::{CStr, c_char, c_int};
use std::io::{BufRead, stdin};
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{env, fs};

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

const SIDE: u32 = 224;
const BATCH: usize = 256;

/// `struct reader` of `partial.c`.
#[repr(C)]
struct Reader {
    opaque: [u8; 0],
}

unsafe extern "C" {
    fn reader_new() -> *mut Reader;
    fn reader_open(reader: *mut Reader, data: *const u8, length: usize, size: *mut u32) -> c_int;
    fn reader_decode(
        reader: *mut Reader,
        region: *const u32,
        columns: *mut u32,
        pixels: *mut u8,
    ) -> c_int;
    fn reader_version() -> *const c_char;
}

fn main() {
    let folder = env::args().nth(1).expect("the first argument is an ImageFolder");
    let files = files(Path::new(&folder));
    let mut worker = Worker::new();
    let mut batch = vec![0; BATCH * SIDE as usize * SIDE as usize * 3];
    worker.pass(&files, &mut batch);
    // SAFETY: the function returns a string constant.
    let version = unsafe { CStr::from_ptr(reader_version()) }.to_string_lossy();
    println!("{{\"versions\": \"libjpeg-turbo {version}, fast_image_resize 6\"}}");
    for _ in stdin().lock().lines() {
        let start = Instant::now();
        worker.pass(&files, &mut batch);
        let (images, seconds) = (files.len(), start.elapsed().as_secs_f64());
        println!("{{\"images\": {images}, \"seconds\": {seconds}}}");
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let list = |folder: &Path| {
        let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        entries.map(|entry| entry.expect("a readable folder").path()).collect::<Vec<_>>()
    };
    list(folder).iter().flat_map(|class| list(class)).collect()
}

struct Worker {
    reader: *mut Reader,
    resizer: Resizer,
    pixels: Vec<u8>,
    random: u64,
}

impl Worker {
    fn new() -> Self {
        // SAFETY: the function takes no arguments and allocates.
        let reader = unsafe { reader_new() };
        Self { reader, resizer: Resizer::new(), pixels: Vec::new(), random: 1 }
    }

    /// Reads every file once, into the slots of a batch.
    fn pass(&mut self, files: &[PathBuf], batch: &mut [u8]) {
        let slots = batch.len() / BATCH;
        for (number, file) in files.iter().enumerate() {
            let slot = number % BATCH * slots;
            self.sample(file, &mut batch[slot..slot + slots]);
        }
    }

    fn sample(&mut self, file: &Path, slot: &mut [u8]) {
        let data = fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let mut size = [0; 2];
        // SAFETY: the reader is valid, `data` outlives the decoding, and `size` has room for two numbers.
        let failed =
            unsafe { reader_open(self.reader, data.as_ptr(), data.len(), size.as_mut_ptr()) };
        assert_eq!(failed, 0, "header of {}", file.display());
        let region = self.random_box(size);
        let [_, left, height, width] = region;
        self.pixels.resize(self.pixels.len().max(height as usize * size[1] as usize * 3), 0);
        let mut columns = [0; 2];
        // SAFETY: the header was read, the box is inside of the image, and `pixels` has room for its rows.
        let failed = unsafe {
            let pixels = self.pixels.as_mut_ptr();
            reader_decode(self.reader, region.as_ptr(), columns.as_mut_ptr(), pixels)
        };
        assert_eq!(failed, 0, "pixels of {}", file.display());
        let pixels = &self.pixels[..height as usize * columns[1] as usize * 3];
        let from = ImageRef::new(columns[1], height, pixels, PixelType::U8x3).expect("its size");
        let mut to = Image::from_slice_u8(SIDE, SIDE, slot, PixelType::U8x3).expect("a slot");
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom))
            .crop(f64::from(left - columns[0]), 0.0, f64::from(width), f64::from(height));
        self.resizer.resize(&from, &mut to, &options).expect("RGB to RGB");
        if self.unit() < 0.5 {
            for row in slot.chunks_exact_mut(SIDE as usize * 3) {
                flip(row);
            }
        }
    }

    /// torchvision's `RandomResizedCrop.get_params`: top, left, height, width.
    fn random_box(&mut self, [height, width]: [u32; 2]) -> [u32; 4] {
        for _ in 0..10 {
            let area = f64::from(height) * f64::from(width) * (0.08 + 0.92 * self.unit());
            let ratio = f64::powf(4.0 / 3.0, 2.0 * self.unit() - 1.0);
            let (h, w) =
                ((area / ratio).sqrt().round() as u32, (area * ratio).sqrt().round() as u32);
            if (1..=height).contains(&h) && (1..=width).contains(&w) {
                return [self.below(height - h + 1), self.below(width - w + 1), h, w];
            }
        }
        let ratio = f64::from(width) / f64::from(height);
        let h = if ratio < 0.75 { (f64::from(width) / 0.75).round() as u32 } else { height };
        let w =
            if ratio > 4.0 / 3.0 { (f64::from(height) * 4.0 / 3.0).round() as u32 } else { width };
        [(height - h) / 2, (width - w) / 2, h, w]
    }

    /// A random number from 0 to 1, by splitmix64.
    fn unit(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, n: u32) -> u32 {
        (self.unit() * f64::from(n)) as u32
    }
}

fn flip(row: &mut [u8]) {
    let (pixels, _) = row.as_chunks_mut::<3>();
    pixels.reverse();
}
