//! A few samples of the microbatch that was sent last, as a contact sheet: operators see what trainers
//! see.
//!
//! Samples are copied once per second, so that no buffer is kept for a picture. They are drawn when somebody
//! looks, and once for all who do.

use std::io::Cursor;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay::Size;
use forebay_proto::v1::{DType, DescribeResponse, Header, Layout};
use forebay_report::sheet::{Tile, sheet};
use half::{bf16, f16};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};

/// Samples on a sheet.
const TILES: usize = 12;
/// Samples that are wider are subsampled.
const MAX_WIDTH: u32 = 256;
/// Interval at which samples are copied.
const INTERVAL: Duration = Duration::from_secs(1);

/// The samples that were copied last.
#[derive(Debug)]
pub(crate) struct Picture {
    shown: bool,
    last: Mutex<Option<(Instant, Arc<Samples>)>>,
}

/// Samples with their captions.
#[derive(Debug)]
struct Samples {
    size: Size,
    tiles: Vec<(Vec<u8>, Vec<String>)>,
    /// The sheet, once it has been drawn.
    png: OnceLock<Option<Bytes>>,
}

impl Picture {
    pub(crate) const fn new(shown: bool) -> Self {
        Self { shown, last: Mutex::new(None) }
    }

    /// Whether the status page shows a picture.
    pub(crate) const fn shown(&self) -> bool {
        self.shown
    }

    /// Copies samples of a microbatch, at most once per interval.
    pub(crate) fn offer(
        &self,
        facts: &DescribeResponse,
        classes: &[String],
        header: &Header,
        payload: &[u8],
    ) {
        if !self.shown {
            return;
        }
        // If another stream is copying at the moment, its samples are shown.
        let Ok(mut last) = self.last.try_lock() else { return };
        if last.as_ref().is_none_or(|(at, _)| at.elapsed() >= INTERVAL)
            && let Some(samples) = Samples::of(facts, classes, header, payload)
        {
            *last = Some((Instant::now(), Arc::new(samples)));
        }
    }

    /// The contact sheet as PNG.
    pub(crate) fn png(&self) -> Option<Bytes> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let samples = last.as_ref().map(|(_, samples)| Arc::clone(samples))?;
        drop(last);
        samples.png.get_or_init(|| samples.draw()).clone()
    }
}

impl Samples {
    /// `None` if the header does not match the payload.
    fn of(
        facts: &DescribeResponse,
        classes: &[String],
        header: &Header,
        payload: &[u8],
    ) -> Option<Self> {
        let pixels = Pixels::new(facts, header, payload)?;
        let tiles = (0..pixels.samples.min(TILES))
            .map(|slot| Some((pixels.tile(slot), caption(classes, header, slot)?)));
        let (size, tiles) = (pixels.shown(), tiles.collect::<Option<_>>()?);
        Some(Self { size, tiles, png: OnceLock::new() })
    }

    fn draw(&self) -> Option<Bytes> {
        let tiles = self.tiles.iter().map(|(pixels, caption)| Tile {
            pixels,
            width: self.size.width,
            height: self.size.height,
            caption: caption.clone(),
        });
        let image = sheet(&tiles.collect::<Vec<_>>());
        let mut png = Cursor::new(Vec::new());
        let (quick, filter) = (CompressionType::Fast, FilterType::Up);
        image.write_with_encoder(PngEncoder::new_with_quality(&mut png, quick, filter)).ok()?;
        Some(png.into_inner().into())
    }
}

/// The classes with their weights, then the record.
fn caption(names: &[String], header: &Header, slot: usize) -> Option<Vec<String>> {
    let class =
        |label: u32| names.get(label as usize).cloned().unwrap_or_else(|| format!("class {label}"));
    let (a, b) = (*header.label_a.get(slot)?, *header.label_b.get(slot)?);
    let lambda = *header.lambda.get(slot)?;
    let classes = if a == b || lambda >= 1.0 {
        class(a)
    } else {
        format!("{:.0}% {} + {:.0}% {}", lambda * 100.0, class(a), (1.0 - lambda) * 100.0, class(b))
    };
    Some(vec![classes, format!("record {}", header.records.get(slot)?)])
}

/// A view of a payload of any dtype and layout as RGB.
struct Pixels<'a> {
    payload: &'a [u8],
    dtype: DType,
    layout: Layout,
    samples: usize,
    side: Size,
    /// Distance in the sample between two pixels that are shown.
    step: usize,
    mean: [f64; 3],
    std: [f64; 3],
}

impl<'a> Pixels<'a> {
    fn new(facts: &DescribeResponse, header: &Header, payload: &'a [u8]) -> Option<Self> {
        let shape = (header.layout(), &header.shape[..]);
        let ((Layout::Nchw, &[samples, 3, height, width]) | (_, &[samples, height, width, 3])) =
            shape
        else {
            return None;
        };
        let pixels = Self {
            payload,
            dtype: header.dtype(),
            layout: header.layout(),
            samples: samples as usize,
            side: Size { height, width },
            step: width.div_ceil(MAX_WIDTH).max(1) as usize,
            mean: facts.mean.as_slice().try_into().unwrap_or([0.0; 3]),
            std: facts.std.as_slice().try_into().unwrap_or([1.0; 3]),
        };
        let values = pixels.samples.checked_mul(pixels.side.rgb_bytes())?;
        (values.checked_mul(pixels.bytes())? == payload.len()).then_some(pixels)
    }

    /// Bytes of one channel value.
    const fn bytes(&self) -> usize {
        match self.dtype {
            DType::DtypeU8 | DType::DtypeUnspecified => 1,
            DType::DtypeF16 | DType::DtypeBf16 => 2,
            DType::DtypeF32 => 4,
        }
    }

    /// The size of a tile.
    fn shown(&self) -> Size {
        let shown = |side: u32| side.div_ceil(u32::try_from(self.step).unwrap_or(1));
        Size { height: shown(self.side.height), width: shown(self.side.width) }
    }

    fn tile(&self, slot: usize) -> Vec<u8> {
        let (height, width) = (self.side.height as usize, self.side.width as usize);
        let mut rgb = Vec::with_capacity(self.shown().rgb_bytes());
        for y in (0..height).step_by(self.step) {
            for x in (0..width).step_by(self.step) {
                for channel in 0..3 {
                    let at = match self.layout {
                        Layout::Nchw => ((slot * 3 + channel) * height + y) * width + x,
                        _ => ((slot * height + y) * width + x) * 3 + channel,
                    };
                    rgb.push(self.value(at, channel));
                }
            }
        }
        rgb
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast from float saturates"
    )]
    fn value(&self, at: usize, channel: usize) -> u8 {
        let at = at * self.bytes();
        let two = || [self.payload[at], self.payload[at + 1]];
        let normalized = match self.dtype {
            DType::DtypeU8 | DType::DtypeUnspecified => return self.payload[at],
            DType::DtypeF16 => f16::from_le_bytes(two()).to_f32(),
            DType::DtypeBf16 => bf16::from_le_bytes(two()).to_f32(),
            DType::DtypeF32 => {
                let [a, b] = two();
                f32::from_le_bytes([a, b, self.payload[at + 2], self.payload[at + 3]])
            }
        };
        ((f64::from(normalized) * self.std[channel] + self.mean[channel]) * 255.0).round() as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> DescribeResponse {
        DescribeResponse { mean: vec![0.5; 3], std: vec![0.25; 3], ..DescribeResponse::default() }
    }

    fn classes() -> [String; 2] {
        ["cat".into(), "dog".into()]
    }

    /// One sample of 1 x 2 pixels.
    fn header(dtype: DType, layout: Layout) -> Header {
        let nchw = layout == Layout::Nchw;
        Header {
            dtype: dtype.into(),
            layout: layout.into(),
            shape: if nchw { vec![1, 3, 1, 2] } else { vec![1, 1, 2, 3] },
            records: vec![7],
            label_a: vec![0],
            label_b: vec![1],
            lambda: vec![0.75],
            ..Header::default()
        }
    }

    #[test]
    fn every_dtype_and_layout_shows_the_same_pixels() {
        let (nhwc, nchw) = ([0, 51, 102, 153, 204, 255_u8], [0, 153, 51, 204, 102, 255_u8]);
        for (layout, values) in [(Layout::Nhwc, nhwc), (Layout::Nchw, nchw)] {
            let normal = values.map(|value| (f32::from(value) / 255.0 - 0.5) / 0.25);
            for (dtype, payload) in [
                (DType::DtypeU8, values.to_vec()),
                (DType::DtypeF32, normal.iter().flat_map(|v| v.to_le_bytes()).collect()),
                (
                    DType::DtypeF16,
                    normal.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
                ),
            ] {
                let samples =
                    Samples::of(&facts(), &classes(), &header(dtype, layout), &payload).unwrap();
                assert_eq!(samples.tiles[0].0, nhwc, "{dtype:?} {layout:?}");
                assert_eq!(samples.tiles[0].1, ["75% cat + 25% dog", "record 7"]);
            }
        }
    }

    #[test]
    fn a_picture_is_drawn_once_for_all_who_look_at_it() {
        let picture = Picture::new(true);
        picture.offer(&facts(), &classes(), &header(DType::DtypeU8, Layout::Nhwc), &[9; 6]);
        let [first, second] = [picture.png().unwrap(), picture.png().unwrap()];
        assert_eq!(first.as_ptr(), second.as_ptr(), "the same bytes");
    }

    #[test]
    fn a_header_that_does_not_match_its_payload_makes_no_picture() {
        let picture = Picture::new(true);
        picture.offer(&facts(), &classes(), &header(DType::DtypeF32, Layout::Nhwc), &[0; 6]);
        assert!(picture.png().is_none());
    }

    #[test]
    fn a_picture_is_a_png_unless_pictures_are_off() {
        let header = header(DType::DtypeU8, Layout::Nhwc);
        for shown in [true, false] {
            let picture = Picture::new(shown);
            picture.offer(&facts(), &classes(), &header, &[9; 6]);
            let png = picture.png();
            assert_eq!(png.is_some(), shown);
            assert!(png.is_none_or(|png| image::load_from_memory(&png).is_ok()));
        }
    }
}
