//! A procedural set of pictures in ImageNet's form, so that no download is needed to try things.
//!
//! Every picture is a pure function of (seed, split, class, number): a `scene` is drawn, then
//! rendered, then written as a JPEG whose size, sampling and bytes are spread as ImageNet's are.
//! A class is a shape, a texture and a layout; colours, light, place, scale, turn, ground and grain
//! say nothing of it. So a small network learns it after crops, flips, colour ops and mixing, but
//! not from colour alone.

mod render;
mod scene;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use rayon::prelude::*;

use scene::{Chroma, Kind, Scene};

pub use scene::MAX_CLASSES;

/// What to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleData {
    /// How many classes, 1 to [`MAX_CLASSES`].
    pub classes: u32,
    /// Training pictures of each class.
    pub per_class: u32,
    /// Validation pictures of each class.
    pub val_per_class: u32,
    /// Another seed gives other pictures of the same classes.
    pub seed: u64,
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// How many pictures.
    pub images: u64,
    /// Their bytes together.
    pub bytes: u64,
}

/// Why nothing, or not all, was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SampleDataError {
    /// Ask for fewer.
    #[error("{got} classes: there are at least 1 and at most {MAX_CLASSES}")]
    Classes {
        /// The number asked for.
        got: u32,
    },
    /// Pictures of two runs must not mix: choose another folder, or remove this one.
    #[error("{} exists: choose another folder, or remove it first", .0.display())]
    Exists(PathBuf),
    /// The disk refuses.
    #[error("cannot write {}: {source}", .path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// One picture of the set, by name.
#[derive(Clone, Copy)]
struct Picture {
    split: Split,
    class: u32,
    number: u32,
}

#[derive(Clone, Copy)]
enum Split {
    Train,
    Val,
}

impl Split {
    const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
        }
    }
}

/// Writes `dir/train/<class>/*.JPEG` and `dir/val/<class>/*.JPEG`, on rayon's threads. `progress`
/// gets the number of pictures written so far, from any of them.
pub fn write(
    dir: &Path,
    what: &SampleData,
    progress: impl Fn(u64) + Sync,
) -> Result<Written, SampleDataError> {
    if !(1..=MAX_CLASSES).contains(&what.classes) {
        return Err(SampleDataError::Classes { got: what.classes });
    }
    let kinds: Vec<Kind> = (0..what.classes).map(|k| Kind::of(k, what.classes)).collect();
    let splits = [(Split::Train, what.per_class), (Split::Val, what.val_per_class)];
    for (split, count) in splits {
        if count > 0 {
            make_folders(&dir.join(split.name()), &kinds)?;
        }
    }
    // Number by number, so that an interrupted run leaves about as many of each class.
    let pictures: Vec<Picture> = splits
        .into_iter()
        .flat_map(|(split, count)| (0..count).map(move |number| (split, number)))
        .flat_map(|(split, number)| {
            (0..what.classes).map(move |class| Picture { split, class, number })
        })
        .collect();
    let done = AtomicU64::new(0);
    let bytes = pictures
        .par_iter()
        .map(|picture| {
            let kind = kinds[picture.class as usize];
            let data = jpeg(&draw(picture, kind, what.seed));
            let file = format!("{}_{:05}.JPEG", kind.name(), picture.number);
            let path = dir.join(picture.split.name()).join(kind.name()).join(file);
            put(&path, &data)?;
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            Ok(data.len() as u64)
        })
        .sum::<Result<u64, SampleDataError>>()?;
    Ok(Written { images: pictures.len() as u64, bytes })
}

fn make_folders(split: &Path, kinds: &[Kind]) -> Result<(), SampleDataError> {
    if split.exists() {
        return Err(SampleDataError::Exists(split.to_path_buf()));
    }
    for kind in kinds {
        let path = split.join(kind.name());
        fs::create_dir_all(&path).map_err(|source| SampleDataError::Io { path, source })?;
    }
    Ok(())
}

fn put(path: &Path, data: &[u8]) -> Result<(), SampleDataError> {
    fs::write(path, data).map_err(|source| SampleDataError::Io { path: path.to_path_buf(), source })
}

fn draw(picture: &Picture, kind: Kind, seed: u64) -> Scene {
    let split = picture.split as u64;
    Scene::draw(kind, [seed, split, picture.class.into(), picture.number.into()])
}

fn jpeg(scene: &Scene) -> Vec<u8> {
    let pixels = render::rgb(scene);
    let (height, width) = (scene.size.height, scene.size.width);
    let side = |n: u32| u16::try_from(n).expect("scenes are at most 1600 pixels wide and high");
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&mut out, scene.quality);
    let sampling = match scene.chroma {
        Chroma::Gray | Chroma::C444 => SamplingFactor::R_4_4_4,
        Chroma::C420 => SamplingFactor::R_4_2_0,
        Chroma::C422 => SamplingFactor::R_4_2_2,
        Chroma::C440 => SamplingFactor::R_4_4_0,
    };
    encoder.set_sampling_factor(sampling);
    if matches!(scene.chroma, Chroma::Gray) {
        encoder.encode(&gray(&pixels), side(width), side(height), ColorType::Luma)
    } else {
        encoder.encode(&pixels, side(width), side(height), ColorType::Rgb)
    }
    .expect("the pixels are of the size given, and a Vec takes all bytes");
    out
}

/// ITU-R 601 luma.
fn gray(rgb: &[u8]) -> Vec<u8> {
    let luma =
        |p: &[u8]| (u32::from(p[0]) * 299 + u32::from(p[1]) * 587 + u32::from(p[2]) * 114) / 1000;
    rgb.chunks_exact(3).map(|p| u8::try_from(luma(p)).expect("a weighted mean")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const SMALL: SampleData = SampleData { classes: 3, per_class: 4, val_per_class: 2, seed: 7 };

    fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![dir.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(dir).unwrap().to_path_buf();
                    found.insert(name, fs::read(path).unwrap());
                }
            }
        }
        found
    }

    #[test]
    fn same_seed_same_bytes_whatever_the_number_of_threads() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let made = write(a.path(), &SMALL, |_| ()).unwrap();
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        one.install(|| write(b.path(), &SMALL, |_| ())).unwrap();
        let (a, b) = (files(a.path()), files(b.path()));
        assert_eq!(a, b);
        assert_eq!((made.images, a.len()), (18, 18));
        assert_eq!(made.bytes, a.values().map(|f| f.len() as u64).sum::<u64>());
    }

    #[test]
    fn another_seed_another_picture() {
        let kind = Kind::of(0, 1);
        let picture = Picture { split: Split::Train, class: 0, number: 0 };
        assert_ne!(jpeg(&draw(&picture, kind, 1)), jpeg(&draw(&picture, kind, 2)));
        let val = Picture { split: Split::Val, ..picture };
        assert_ne!(jpeg(&draw(&picture, kind, 1)), jpeg(&draw(&val, kind, 1)));
    }

    #[test]
    fn pictures_decode_at_the_size_drawn() {
        for number in 0..20 {
            let picture = Picture { split: Split::Train, class: 1, number };
            let scene = draw(&picture, Kind::of(1, 2), 3);
            let mut decoder =
                zune_jpeg::JpegDecoder::new(zune_core::bytestream::ZCursor::new(jpeg(&scene)));
            decoder.decode().unwrap();
            let info = decoder.info().unwrap();
            let size = (u32::from(info.height), u32::from(info.width));
            assert_eq!(size, (scene.size.height, scene.size.width));
        }
    }

    #[test]
    fn a_folder_in_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &SMALL, |_| ()).unwrap();
        let again = write(dir.path(), &SMALL, |_| ());
        assert!(matches!(again, Err(SampleDataError::Exists(path)) if path.ends_with("train")));
    }

    #[test]
    fn impossible_numbers_of_classes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for classes in [0, MAX_CLASSES + 1] {
            let error = write(dir.path(), &SampleData { classes, ..SMALL }, |_| ()).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{classes} classes")), "{error}");
        }
    }
}
