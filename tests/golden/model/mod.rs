//! Suite 10: whole networks, compared with torch and timm: logits, losses, gradients, running statistics, five steps of
//! LAMB, stochastic depth.
#![expect(clippy::unwrap_used, reason = "a test")]

mod case;
mod full;
mod keys;
mod narrow;

use std::path::Path;

use libtest_mimic::Trial;

use crate::net::On;

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let folder = folder.join("10_model");
    if !folder.is_dir() {
        return Vec::new();
    }
    let mut trials = Vec::new();
    for on in On::all() {
        for model in ["r18n", "r50n"] {
            for part in ["forward", "gradients", "steps", "droppath"] {
                let folder = folder.clone();
                let name = on.name(&format!("10_model/{model}_NUMBER_{part}"));
                trials.push(Trial::test(name, move || narrow::run(&folder, model, on, part)));
            }
        }
    }
    for model in ["resnet18", "resnet50"] {
        for on in [On::Double, On::Single] {
            let folder = folder.clone();
            let name = on.name(&format!("10_model/{model}_full_NUMBER"));
            trials.push(Trial::test(name, move || full::run(&folder, model, on)));
        }
    }
    for model in ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] {
        let folder = folder.clone();
        trials
            .push(Trial::test(format!("10_model/{model}_keys"), move || keys::run(&folder, model)));
    }
    trials
}
