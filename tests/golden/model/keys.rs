//! Names and shapes of parameters, so that checkpoints load by name in timm and here.

use std::path::Path;

use forebay_trainer::{Architecture, Graph, ParamKind};
use libtest_mimic::Failed;
use serde_json::Value;

/// Compares names, shapes, counts, weight decay and zero initialization with timm's.
pub(super) fn run(folder: &Path, model: &str) -> Result<(), Failed> {
    let about = forebay_tests::json(&folder.join("timm_resnet_keys.json"))[model].take();
    let graph = Graph::new(&Architecture::named(model, 1000)?, 224, 224);
    let count: usize = graph.parameters.iter().map(|p| p.shape.iter().product::<usize>()).sum();
    assert_eq!(Some(count as u64), about["param_count"].as_u64());
    assert_eq!(Some(graph.parameters.len() as u64), about["n_param_tensors"].as_u64());
    let still = graph.parameters.iter().filter(|p| !p.kind.decays());
    assert_eq!(Some(still.count() as u64), about["n_no_weight_decay"].as_u64());
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    if about["parameters_order"].is_array() {
        let names: Vec<String> = graph.parameters.iter().map(|p| p.name.clone()).collect();
        assert_eq!(names, strings(&about["parameters_order"]));
        let zero = graph
            .parameters
            .iter()
            .filter(|p| p.kind == ParamKind::Gamma(true))
            .map(|p| p.name.clone());
        assert_eq!(zero.collect::<Vec<_>>(), strings(&about["zero_init"]));
        let decays = graph.parameters.iter().filter(|p| !p.kind.decays()).map(|p| p.name.clone());
        assert_eq!(decays.collect::<Vec<_>>(), strings(&about["no_weight_decay"]));
    }
    Ok(())
}
