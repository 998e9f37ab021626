//! A procedural dataset in the form of ImageNet, so that forebay can be tried without a download.
//!
//! Every image is a pure function of (seed, split, class, number): a scene is drawn, rendered, and
//! encoded as a JPEG. Image sizes, chroma subsampling and file sizes are distributed as in ImageNet.
//! A class is a shape, a texture and an arrangement of objects. Colors, light, position, scale,
//! rotation, background and noise are independent of the class. So a small network can learn the classes
//! from crops, flips, color operations and mixed images, but not from colors alone.

mod render;
mod scene;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use rayon::prelude::*;

use scene::{Chroma, ClassKind, Scene};

pub use scene::MAX_CLASSES;

/// The dataset to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleData {
    /// Number of classes, 1 to [`MAX_CLASSES`].
    pub classes: u32,
    /// Training images per class.
    pub per_class: u32,
    /// Validation images per class.
    pub val_per_class: u32,
    /// Another seed results in other images of the same classes.
    pub seed: u64,
}

/// The dataset that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Number of images.
    pub images: u64,
    /// Total bytes of the files.
    pub bytes: u64,
}

/// The reason why the dataset was not written, or not completely.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SampleDataError {
    /// The number of classes is out of range.
    #[error("invalid number of classes {classes}: expected 1 to {MAX_CLASSES}")]
    Classes {
        /// The number that was requested.
        classes: u32,
    },
    /// The folder exists, and images of two runs must not be mixed.
    #[error("{} exists; choose another folder, or remove it first", .0.display())]
    Exists(PathBuf),
    /// A file or folder cannot be written. The error of the operating system is part of the message and
    /// not the error's source, so that a report of the whole chain prints it once.
    #[error("cannot write {}: {error}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Error of the operating system.
        error: io::Error,
    },
}

/// The name of an image.
#[derive(Clone, Copy)]
struct ImageName {
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

/// Writes `dir/train/<class>/*.JPEG` and `dir/val/<class>/*.JPEG` on rayon's threads. They call
/// `progress` with the number of images written so far.
///
/// # Errors
/// [`SampleDataError::Classes`] if the number of classes is out of range, [`SampleDataError::Exists`] if
/// a folder exists already, and [`SampleDataError::Io`] if a file or folder cannot be written.
pub fn write(
    dir: &Path,
    what: &SampleData,
    progress: impl Fn(u64) + Sync,
) -> Result<Written, SampleDataError> {
    if !(1..=MAX_CLASSES).contains(&what.classes) {
        return Err(SampleDataError::Classes { classes: what.classes });
    }
    let kinds: Vec<ClassKind> = (0..what.classes).map(|k| ClassKind::of(k, what.classes)).collect();
    let splits = [(Split::Train, what.per_class), (Split::Val, what.val_per_class)];
    for (split, count) in splits {
        if count > 0 {
            create_folders(&dir.join(split.name()), &kinds)?;
        }
    }
    // The number varies slowest, so that an interrupted run leaves about as many images of each class.
    let images: Vec<ImageName> = splits
        .into_iter()
        .flat_map(|(split, count)| (0..count).map(move |number| (split, number)))
        .flat_map(|(split, number)| {
            (0..what.classes).map(move |class| ImageName { split, class, number })
        })
        .collect();
    let done = AtomicU64::new(0);
    let bytes = images
        .par_iter()
        .map(|image| {
            let kind = kinds[image.class as usize];
            let data = jpeg(&draw(image, kind, what.seed));
            let file = format!("{}_{:05}.JPEG", kind.name(), image.number);
            let path = dir.join(image.split.name()).join(kind.name()).join(file);
            write_file(&path, &data)?;
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            Ok(data.len() as u64)
        })
        .sum::<Result<u64, SampleDataError>>()?;
    Ok(Written { images: images.len() as u64, bytes })
}

fn create_folders(split: &Path, kinds: &[ClassKind]) -> Result<(), SampleDataError> {
    if split.exists() {
        return Err(SampleDataError::Exists(split.to_path_buf()));
    }
    for kind in kinds {
        let path = split.join(kind.name());
        fs::create_dir_all(&path).map_err(|error| SampleDataError::Io { path, error })?;
    }
    Ok(())
}

fn write_file(path: &Path, data: &[u8]) -> Result<(), SampleDataError> {
    fs::write(path, data).map_err(|error| SampleDataError::Io { path: path.to_path_buf(), error })
}

fn draw(image: &ImageName, kind: ClassKind, seed: u64) -> Scene {
    let split = image.split as u64;
    Scene::draw(kind, [seed, split, image.class.into(), image.number.into()])
}

fn jpeg(scene: &Scene) -> Vec<u8> {
    let pixels = render::rgb(scene);
    let (height, width) = (scene.size.height, scene.size.width);
    let side = |n: u32| u16::try_from(n).expect("scenes have at most 1600x1200 pixels");
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
    .expect("the pixels have the size, and writing to a Vec does not fail");
    out
}

/// Luma by ITU-R BT.601.
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
    fn the_number_of_threads_does_not_change_the_bytes() {
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
    fn another_seed_has_other_images() {
        let kind = ClassKind::of(0, 1);
        let image = ImageName { split: Split::Train, class: 0, number: 0 };
        assert_ne!(jpeg(&draw(&image, kind, 1)), jpeg(&draw(&image, kind, 2)));
        let val = ImageName { split: Split::Val, ..image };
        assert_ne!(jpeg(&draw(&image, kind, 1)), jpeg(&draw(&val, kind, 1)));
    }

    #[test]
    fn images_decode_to_the_size_of_their_scene() {
        for number in 0..20 {
            let image = ImageName { split: Split::Train, class: 1, number };
            let scene = draw(&image, ClassKind::of(1, 2), 3);
            let mut decoder = crate::decode::Decoder::default();
            let (header, _) = crate::decode::verify(&jpeg(&scene), &mut decoder).unwrap();
            assert_eq!(header.size, scene.size);
        }
    }

    #[test]
    fn an_existing_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &SMALL, |_| ()).unwrap();
        let again = write(dir.path(), &SMALL, |_| ());
        assert!(matches!(again, Err(SampleDataError::Exists(path)) if path.ends_with("train")));
    }

    #[test]
    fn invalid_numbers_of_classes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for classes in [0, MAX_CLASSES + 1] {
            let error = write(dir.path(), &SampleData { classes, ..SMALL }, |_| ()).unwrap_err();
            assert!(error.to_string().contains(&format!("classes {classes}: expected")), "{error}");
        }
    }
}
