//! Memory and CPU time for files whose headers claim too much, each measured in a separate process.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test whose child process prints its measurements"
)]

use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use forebay::Rect;
use forebay::decode::{self, DecodeError, Decoder, PIXEL_LIMIT};
use forebay_tests::fuzz::seeds::Jpeg;
use forebay_types::process::{cpu_time, memory};
use image::codecs::gif::GifEncoder;
use image::{ExtendedColorType, ImageFormat, Rgb, RgbImage};
use jpeg_encoder::{ColorType, SamplingFactor};
use libtest_mimic::{Arguments, Failed, Trial};

/// Memory in KiB that decoding a record may use. A JPEG of several scans may use one KiB more per byte of the file,
/// because all of its coefficients are buffered.
const USED_KIB: u64 = 64 << 10;
/// Address space in KiB that it may reserve: an image of the maximum number of pixels that Pillow opens, at the
/// 8 bytes per pixel of formats other than JPEG.
const MAPPED_KIB: u64 = (PIXEL_LIMIT * 8 / 1024) + USED_KIB;
/// CPU time that a record may take. Correct code takes well below a second, also where a machine without
/// rest counts it double; unbounded work takes hours.
const MAX_CPU: Duration = Duration::from_mins(5);

/// A name, a file, and whether the file must be refused.
type Case = (&'static str, fn() -> Vec<u8>, bool);

/// Sizes at the limits of libjpeg and Pillow, and beyond.
const CASES: [Case; 13] = [
    ("jpeg_of_65535_x_65535", || jpeg(Jpeg::USUAL, 65_535, 65_535), true),
    ("jpeg_of_65500_x_65500", || jpeg(Jpeg::USUAL, 65_500, 65_500), true),
    ("progressive_jpeg_of_65535_x_65535", || jpeg(PROGRESSIVE, 65_535, 65_535), true),
    ("jpeg_of_as_many_pixels_as_pillow_opens", || jpeg(Jpeg::USUAL, 65_500, 2732), false),
    (
        "progressive_jpeg_of_as_many_pixels_as_pillow_opens",
        || jpeg(PROGRESSIVE, 65_500, 2732),
        true,
    ),
    ("jpeg_of_as_many_restarts_as_blocks", || jpeg(RESTARTS, 65_500, 2732), false),
    ("progressive_jpeg_of_200_scans", || scans(4000, 4000, 200), false),
    ("progressive_jpeg_of_100000_scans", || scans(65_500, 2732, 100_000), true),
    ("png_of_65535_x_65535", || png(65_535, 65_535), true),
    ("png_of_as_many_pixels_as_pillow_opens", || png(13_377, 13_377), true),
    ("gif_of_65535_x_65535", gif, true),
    ("bmp_of_65535_x_65535", bmp, true),
    ("webp_of_16383_x_16383", webp, true),
];

const PROGRESSIVE: Jpeg = Jpeg { scans: 4, ..Jpeg::USUAL };
const RESTARTS: Jpeg = Jpeg { color: ColorType::Luma, restart: 1, ..Jpeg::USUAL };

/// A name and a file of 3000 x 2000 pixels.
type Picture = (&'static str, fn() -> Vec<u8>);

const LARGE: Jpeg = Jpeg { size: (3000, 2000), ..Jpeg::USUAL };
const PICTURES: [Picture; 6] = [
    ("a_jpeg_takes_the_memory_that_is_declared", || LARGE.encode()),
    ("a_progressive_jpeg_takes_the_memory_that_is_declared", || {
        Jpeg { scans: 4, sampling: SamplingFactor::F_1_1, ..LARGE }.encode()
    }),
    ("a_progressive_jpeg_of_inks_takes_the_memory_that_is_declared", || {
        Jpeg { scans: 4, color: ColorType::CmykAsYcck, sampling: SamplingFactor::F_1_1, ..LARGE }
            .encode()
    }),
    ("a_bmp_takes_the_memory_that_is_declared", || encoded(ImageFormat::Bmp)),
    ("a_gif_takes_the_memory_that_is_declared", gif_of_colors),
    ("a_webp_takes_the_memory_that_is_declared", || encoded(ImageFormat::WebP)),
];

fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    drawn().write_to(&mut file, format).unwrap();
    file.into_inner()
}

fn gif_of_colors() -> Vec<u8> {
    let mut file = Vec::new();
    let (image, color) = (drawn(), ExtendedColorType::Rgb8);
    // The encoder's usual choice of colors takes minutes.
    GifEncoder::new_with_speed(&mut file, 30).encode(&image, 3000, 2000, color).unwrap();
    file
}

fn drawn() -> RgbImage {
    let pixel =
        |x: u32, y: u32| Rgb([(x / 8) ^ (y / 8), x / 16, y / 16].map(|v| v.to_le_bytes()[0]));
    RgbImage::from_fn(3000, 2000, pixel)
}

/// Measures a picture in a separate process, and compares with what the pipeline declares for it.
fn within_declared(name: &str) -> Result<(), Failed> {
    let output = Command::new(std::env::current_exe()?).args(["--picture", name]).output()?;
    let text = String::from_utf8(output.stdout)?;
    if !output.status.success() {
        return Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let numbers: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [used, declared] = numbers[..] else { return Err(text.into()) };
    println!("{name}: {} KiB used, {} KiB declared", used >> 10, declared >> 10);
    if used <= declared { Ok(()) } else { Err(format!("{used} of {declared} bytes").into()) }
}

/// Decodes a picture that this process has read and not made, and prints the peak and the bound.
fn measure_picture(name: &str) {
    if let Some(name) = name.strip_prefix("write ") {
        let (_, file) = PICTURES.into_iter().find(|(picture, _)| *picture == name).unwrap();
        return std::io::stdout().write_all(&file()).unwrap();
    }
    // What the encoder took must not hide what the decoder takes.
    let writer = Command::new(std::env::current_exe().unwrap())
        .args(["--picture", &format!("write {name}")])
        .output()
        .unwrap();
    let file = writer.stdout;
    let (_, entries) = decode::verify(&file, &mut Decoder::default()).unwrap();
    let header = decode::probe(&file).unwrap();
    let declared = decode::scratch_bytes(&header, entries.is_empty());
    let before = memory().unwrap();
    let mut decoder = Decoder::default();
    decoder.decode(&file, header.size.whole(), &entries).unwrap();
    let used = memory().unwrap().peak_resident.saturating_sub(before.resident);
    println!("{used} {declared}");
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("--measure") => return measure(&arguments.next().unwrap()),
        Some("--picture") => return measure_picture(&arguments.next().unwrap()),
        _ => {}
    }
    let trial = |(name, ..): Case| Trial::test(name, move || within_bounds(name));
    let picture = |(name, _): Picture| Trial::test(name, move || within_declared(name));
    let trials = CASES.into_iter().map(trial).chain(PICTURES.into_iter().map(picture)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// Measures a case in a separate process, and compares with the limits.
fn within_bounds(name: &str) -> Result<(), Failed> {
    let output = Command::new(std::env::current_exe()?).args(["--measure", name]).output()?;
    let text = String::from_utf8(output.stdout)?;
    if !output.status.success() {
        return Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let numbers: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [length, address_space, memory, microseconds] = numbers[..] else {
        return Err(text.into());
    };
    println!("{name}: {address_space} KiB mapped, {memory} KiB used, {microseconds} us");
    let max = USED_KIB + if name.starts_with("progressive") { length } else { 0 };
    let short = Duration::from_micros(microseconds) <= MAX_CPU;
    if address_space <= MAPPED_KIB && memory <= max && short {
        Ok(())
    } else {
        Err(format!("{address_space} KiB mapped, {memory} KiB used, {microseconds} us").into())
    }
}

/// Indexes the record, decodes a box of it, and prints the peaks and the CPU time.
fn measure(name: &str) {
    let (_, file, refused) = CASES.into_iter().find(|(case, ..)| *case == name).unwrap();
    let file = file();
    let far = |side: u32| side.saturating_sub(100);
    let (before, start) = (memory().unwrap(), cpu_time());
    let mut decoder = Decoder::default();
    let verdict = decode::verify(&file, &mut decoder);
    // A box far from the start of the image, even if the index refuses the record.
    let rect =
        decode::probe(&file).map_or(Rect { top: 0, left: 0, height: 1, width: 1 }, |header| {
            let size = header.size;
            let (top, left) = (far(size.height), far(size.width));
            Rect { top, left, height: size.height - top, width: size.width - left }
        });
    let entries = verdict.as_ref().map_or(&[][..], |(_, entries)| entries);
    let served = decoder.decode(&file, rect, entries).map(|_| ());
    let (end, after) = (cpu_time(), memory().unwrap());
    assert_eq!((verdict.is_err(), served.is_err()), (refused, refused), "{verdict:?}, {served:?}");
    if name.ends_with("65535_x_65535") && name.starts_with("png") {
        assert!(matches!(served, Err(DecodeError::TooLarge { .. })), "{served:?}");
    }
    let cpu = end.saturating_sub(start).as_micros();
    let mapped = after.peak_mapped - before.peak_mapped;
    let used = after.peak_resident - before.peak_resident;
    println!("{} {} {} {cpu}", file.len(), mapped / 1024, used / 1024);
}

/// A JPEG whose frame header claims another size than its data has.
fn jpeg(form: Jpeg, height: u16, width: u16) -> Vec<u8> {
    let mut file = form.encode();
    let marker = if form.scans > 0 { 0xC2 } else { 0xC0 };
    let frame = file.windows(2).position(|pair| pair == [0xFF, marker]).unwrap();
    file[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    file[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    file
}

/// A progressive JPEG of empty scans with a restart interval of one block, and with a comment that makes the file
/// long enough for its number of blocks.
fn scans(height: u16, width: u16, count: usize) -> Vec<u8> {
    let file = jpeg(Jpeg { scans: 4, ..RESTARTS }, height, width);
    let scan = file.windows(2).position(|pair| pair == [0xFF, 0xDA]).unwrap();
    let header = &file[scan..scan + 10];
    let comment = [&[0xFF, 0xFE, 0xFF, 0xFF], &vec![0; 65_533][..]].concat();
    [&file[..scan], &comment, &header.repeat(count), &[0xFF, 0xD9]].concat()
}

/// A PNG of 16-bit RGBA without data. The checksum of data that is never read does not matter.
fn png(height: u32, width: u32) -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([16, 6, 0, 0, 0]);
    let sum = crc(&header).to_be_bytes();
    let data = crc(b"IDAT").to_be_bytes();
    [b"\x89PNG\r\n\x1a\n\0\0\0\r", &header[..], &sum, b"\0\0\0\0IDAT", &data].concat()
}

/// PNG's checksum, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum: u32, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            if sum & 1 == 0 { sum >> 1 } else { sum >> 1 ^ 0xEDB8_8320 }
        })
    })
}

fn gif() -> Vec<u8> {
    let palette = [0, 0, 0, 255, 255, 255];
    let image = [0x2C, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 2, 0, 0x3B];
    [b"GIF89a\xFF\xFF\xFF\xFF\x80\0\0", &palette[..], &image].concat()
}

fn bmp() -> Vec<u8> {
    let side = 65_535_u32.to_le_bytes();
    let core = [&40_u32.to_le_bytes()[..], &side, &side, &[1, 0, 24, 0], &[0; 24]].concat();
    [b"BM\0\0\0\0\0\0\0\0", &54_u32.to_le_bytes()[..], &core].concat()
}

/// A lossless WebP of the largest size of the format.
fn webp() -> Vec<u8> {
    let data = [&[0x2F][..], &[0xFF, 0xFF, 0xFF, 0x0F], &[0; 5]].concat();
    let chunk = [b"VP8L", &10_u32.to_le_bytes()[..], &data].concat();
    // The length counts `WEBP` and the chunk of 8 + 10 bytes.
    [b"RIFF", &22_u32.to_le_bytes()[..], b"WEBP", &chunk].concat()
}
