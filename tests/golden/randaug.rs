//! Suite 03: each of the fifteen operations with explicit arguments, and the arguments of magnitudes.

use std::path::Path;

use forebay::testing::{Augmenter, Drawn, Hparams, TimmOp};
use forebay::{Interpolation, Simd};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::case::{self, Case};

/// The fill color of timm: the mean of ImageNet.
pub(crate) const FILL: [u8; 3] = [124, 116, 104];

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let Some(cases) = case::read(folder, "03_randaug") else { return Vec::new() };
    let mut trials = case::trials(folder, "03_randaug", &cases["cases"], operation);
    let levels = forebay_tests::json(&folder.join("03_randaug/level_to_arg.json"));
    for op in TimmOp::INCREASING {
        let table = levels["table"][op.name()].clone();
        let trial = format!("03_randaug/level_to_arg/{}", op.name());
        trials.push(Trial::test(trial, move || arguments(op, &table)));
    }
    trials
}

/// Compares the argument of each magnitude with timm's, for both signs.
fn arguments(op: TimmOp, table: &Value) -> Result<(), Failed> {
    let levels = table["levels"].as_array().expect("magnitudes");
    for (field, negative) in [("arg_positive", false), ("arg_negative", true)] {
        for (position, level) in levels.iter().enumerate() {
            let level = level.as_f64().expect("a magnitude");
            let drawn = Drawn { negative, radius: 0.0, filter: Interpolation::Bicubic };
            let hparams = Hparams { translate_const: 100.0, translate_pct: 0.45 };
            let arg = op.at(level, &hparams, &drawn).arg();
            // Operations without a sign have one table, those without an argument have none.
            let expected = match &table[field] {
                Value::Array(args) => args[position].as_f64(),
                _ if table["signed"] == true => panic!("a signed operation lists {field}"),
                _ => table["arg_positive"][position].as_f64(),
            };
            if arg != expected {
                return Err(format!("magnitude {level}: {arg:?}, expected {expected:?}").into());
            }
        }
    }
    Ok(())
}

fn operation(case: &Case) -> Result<(), Failed> {
    let (input, output) = (case.image("input"), case.image("output"));
    for simd in Simd::all() {
        let mut slot = input.pixels.clone();
        Augmenter::new(simd).apply(&[case.op()], &mut slot, input.size, FILL);
        case::same(simd, &output, &slot)?;
    }
    Ok(())
}
