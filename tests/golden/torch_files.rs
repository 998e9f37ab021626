//! Suite 14: state dicts that `torch.save` wrote, and files that must be refused.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;

use forebay_trainer::read_model;
use libtest_mimic::Trial;

use crate::arrays::Arrays;

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let folder = folder.join("14_torch");
    if !folder.is_dir() {
        return Vec::new();
    }
    let cases = forebay_tests::json(&folder.join("cases.json"));
    let values = Arc::new(Arrays::read(&folder.join("values.safetensors")));
    let mut trials = Vec::new();
    for case in cases["good"].as_array().unwrap() {
        let (case, folder) = (case.as_str().unwrap().to_owned(), folder.clone());
        let values = Arc::clone(&values);
        trials.push(Trial::test(format!("14_torch/{case}"), move || {
            let model = read_model(&folder.join(format!("{case}.pth")))?;
            let prefix = format!("{case}/");
            let names = values.names().into_iter();
            let mut names: Vec<String> =
                names.filter_map(|name| Some(name.strip_prefix(&prefix)?.to_owned())).collect();
            names.sort();
            assert_eq!(model.keys().collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
            for (name, tensor) in &model {
                assert_eq!(*tensor, values.array(&format!("{prefix}{name}")), "{name}");
            }
            Ok(())
        }));
    }
    for (case, part) in cases["bad"].as_object().unwrap().clone() {
        let file = folder.join(format!("{case}.pth"));
        trials.push(Trial::test(format!("14_torch/refuses_{case}"), move || {
            let error = read_model(&file).unwrap_err().to_string();
            assert!(error.contains(part.as_str().unwrap()), "{error}");
            Ok(())
        }));
    }
    let file = folder.join("nested.pth");
    trials.push(Trial::test("14_torch/refuses_what_is_cut", move || {
        let whole = std::fs::read(file)?;
        let cut = tempfile::NamedTempFile::new()?;
        for len in (0..whole.len()).step_by(61) {
            std::fs::write(cut.path(), &whole[..len])?;
            assert!(read_model(cut.path()).is_err(), "{len} bytes");
        }
        Ok(())
    }));
    trials
}
