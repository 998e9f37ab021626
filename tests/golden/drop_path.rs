//! Suite 11: rates of stochastic depth, compared with timm's.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use forebay_trainer::Architecture;
use forebay_trainer::testing::drop_path_rates;
use libtest_mimic::Trial;

use crate::arrays::within;

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let path = folder.join("11_droppath/drop_path.json");
    if !path.is_file() {
        return Vec::new();
    }
    let cases = forebay_tests::json(&path);
    let rate = cases["drop_path_rate"].as_f64().unwrap();
    let models = cases["rates"].as_object().unwrap().clone();
    let trial = |(model, wanted): (String, serde_json::Value)| {
        Trial::test(format!("11_droppath/{model}"), move || {
            let blocks = Architecture::named(&model, 1000)?.blocks();
            let rates = drop_path_rates(rate, blocks);
            let wanted = wanted.as_array().unwrap();
            assert_eq!(rates.len(), wanted.len());
            for (rate, wanted) in rates.iter().zip(wanted) {
                within(
                    wanted[0].as_str().unwrap(),
                    (rate - wanted[1].as_f64().unwrap()).abs(),
                    1e-15,
                )?;
            }
            Ok(())
        })
    };
    models.into_iter().map(trial).collect()
}
