//! Suite 13: odd files of every format. Each has Pillow's verdict and pixels, except that a file of a documented
//! kind is refused although Pillow opens it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use flate2::read::GzDecoder;
use forebay::decode::{DecodeError, Decoder, Format, JpegError, verify};
use forebay_tests::fuzz::seeds::unpacked;
use forebay_tests::sha256;
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

/// A file, and what Pillow makes of it.
struct Case {
    name: String,
    bytes: Vec<u8>,
    pillow: Value,
}

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let folder = folder.join("13_odd");
    if !folder.is_dir() {
        return Vec::new();
    }
    let mut groups: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for case in cases(&folder) {
        let (group, _) = case.name.rsplit_once('/').expect("format, group and name");
        groups.entry(format!("13_odd/{group}")).or_default().push(case);
    }
    let trial = |(name, cases): (String, Vec<Case>)| Trial::test(name, move || check_all(&cases));
    groups.into_iter().map(trial).collect()
}

/// The cases of `cases.json.gz`, each with its file.
fn cases(folder: &Path) -> Vec<Case> {
    let list = File::open(folder.join("cases.json.gz")).expect("a list of the cases");
    let list: Value = serde_json::from_reader(BufReader::new(GzDecoder::new(list))).expect("JSON");
    let mut archives: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    let mut next = |format: &str| {
        let open = || {
            let path = folder.join(format).with_extension("gz");
            let mut files = unpacked(&std::fs::read(&path).expect("an archive of each format"));
            files.reverse();
            files
        };
        archives.entry(format.to_owned()).or_insert_with(open).pop().expect("a file for each case")
    };
    let case = |pillow: &Value| {
        let name = pillow["name"].as_str().expect("a name").to_owned();
        let bytes = next(name.split('/').next().expect("a format"));
        Case { name, bytes, pillow: pillow.clone() }
    };
    list["cases"].as_array().expect("cases").iter().map(case).collect()
}

/// Fails with all files of a group that are not as Pillow has them. They are written to the tests' temporary folder.
fn check_all(cases: &[Case]) -> Result<(), Failed> {
    let mut decoder = Decoder::default();
    let differences: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let difference = difference(case, &mut decoder)?;
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(case.name.replace('/', "."));
            std::fs::write(&path, &case.bytes).expect("the temporary folder");
            Some(format!("{}: {difference}", path.display()))
        })
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    let count = differences.len();
    Err(format!("{count} of {} files differ\n{}", cases.len(), differences.join("\n")).into())
}

/// The difference to Pillow that is not a documented one.
fn difference(case: &Case, decoder: &mut Decoder) -> Option<String> {
    let pillow = &case.pillow;
    let verdict = verify(&case.bytes, decoder);
    if let Err(error) = &verdict
        && error.to_string().contains("panicked")
    {
        return Some(error.to_string());
    }
    if let Some(refusal) = pillow["error"].as_str() {
        return verdict.ok().map(|_| format!("accepted, and Pillow refuses it: {refusal}"));
    }
    let (header, entries) = match verdict {
        Ok(accepted) => accepted,
        Err(error) if is_documented(&error, &pillow["format"]) => return None,
        Err(error) => return Some(format!("refused, and Pillow opens it: {error}")),
    };
    let size = header.size;
    if pillow["width"] != size.width || pillow["height"] != size.height {
        return Some(format!("{size:?}, and Pillow's is {}x{}", pillow["width"], pillow["height"]));
    }
    let pixels = match decoder.decode(&case.bytes, size.whole(), &entries) {
        Ok(region) => region.crop(size.whole()).data().to_vec(),
        Err(error) => return Some(format!("accepted and not decoded: {error}")),
    };
    (pillow["rgb_sha256"] != sha256(&pixels)).then(|| "other pixels than Pillow's".to_owned())
}

/// Whether the error says that forebay does not decode a kind of file that Pillow may open. `docs/formats.md` lists
/// these kinds. All other errors say that the file is damaged, so Pillow must refuse it too.
fn is_documented(error: &DecodeError, opened_as: &Value) -> bool {
    let ours = ["JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP", "TIFF"];
    match error {
        DecodeError::Unidentified => !ours.iter().any(|format| opened_as == format),
        DecodeError::OtherFormat(_) => true,
        DecodeError::Unsupported { format, .. } => {
            *format == Format::WebP || *format == Format::Tiff
        }
        // libtiff reads some damaged files in part.
        DecodeError::Malformed { format, .. } => *format == Format::Tiff,
        DecodeError::Jpeg(error) => matches!(error, JpegError::Unsupported { .. }),
        _ => false,
    }
}
