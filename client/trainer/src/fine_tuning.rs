//! Fine-tuning: layers that stay as they are, and learning rates that fall from the classifier to the stem.

use crate::Error;
use crate::model::Graph;

/// What of a network is trained, and how fast.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct FineTuning {
    /// Layers and parameters that stay as they are, by timm's names. Batch norms among them use their running statistics in
    /// training, and keep them, as after `timm.utils.freeze`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<String>,
    /// Factor of the learning rate from one layer to the one before it: timm's `layer_decay`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_decay: Option<f64>,
}

impl FineTuning {
    /// Whether all layers are trained at one rate.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Marks the parameters and norms of a network.
    ///
    /// # Errors
    /// [`Error::Setting`] if a name is of no layer, or nothing is left to train.
    pub fn apply(&self, graph: &mut Graph) -> Result<(), Error> {
        let refuse = |problem| Err(Error::Setting { setting: "--freeze", problem });
        for name in &self.freeze {
            let is_of = |layer: &str| {
                layer
                    .strip_prefix(&**name)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            let mut found = false;
            for parameter in graph.parameters.iter_mut().filter(|p| is_of(&p.name)) {
                (parameter.frozen, found) = (true, true);
            }
            for norm in graph.norms.iter_mut().filter(|norm| is_of(&norm.name)) {
                norm.frozen = true;
            }
            if !found {
                return refuse(format!(
                    "the model has no layer {name:?}: expected names such as conv1, bn1, layer1, layer2.0 or fc"
                ));
            }
        }
        if graph.parameters.iter().all(|parameter| parameter.frozen) {
            return refuse("no layer is left to train: freeze fewer".to_owned());
        }
        if let Some(decay) = self.layer_decay {
            let layers = layers(graph);
            let last = layers.iter().max().copied().unwrap_or(0);
            for (parameter, layer) in graph.parameters.iter_mut().zip(layers) {
                parameter.lr_scale = libm::pow(decay, (last - layer) as f64);
            }
        }
        Ok(())
    }
}

/// The layer of each parameter, from 0, as timm's `group_matcher` of a `ResNet` groups them: the stem, each block, the
/// classifier.
fn layers(graph: &Graph) -> Vec<usize> {
    let mut names: Vec<&str> = Vec::new();
    let mut layers = Vec::new();
    for parameter in &graph.parameters {
        let name = group(&parameter.name);
        if names.last() != Some(&name) {
            names.push(name);
        }
        layers.push(names.len() - 1);
    }
    layers
}

fn group(name: &str) -> &str {
    if name.starts_with("conv1.") || name.starts_with("bn1.") {
        return "stem";
    }
    if !name.starts_with("layer") {
        return "classifier";
    }
    let end = name.match_indices('.').nth(1).map_or(name.len(), |(at, _)| at);
    &name[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Architecture;

    fn graph(model: &str) -> Graph {
        Graph::new(&Architecture::named(model, 10).unwrap(), 32, 32)
    }

    #[test]
    fn layers_are_frozen_by_whole_names_with_their_norms() {
        let mut graph = graph("resnet18d");
        let freeze = ["conv1", "bn1", "layer1", "layer4.1.bn2.weight"].map(str::to_owned).to_vec();
        FineTuning { freeze, layer_decay: None }.apply(&mut graph).unwrap();
        for parameter in &graph.parameters {
            let name = &parameter.name;
            let of = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
            let expected = of(&["conv1.", "bn1.", "layer1.", "layer4.1.bn2.weight"]);
            assert_eq!(parameter.frozen, expected, "{name}");
        }
        for norm in &graph.norms {
            let frozen =
                ["conv1.", "bn1", "layer1."].iter().any(|part| norm.name.starts_with(part));
            assert_eq!(norm.frozen, frozen, "{}", norm.name);
        }
    }

    #[test]
    fn a_name_of_no_layer_and_freezing_everything_are_refused() {
        let error = |freeze: &[&str]| {
            let freeze = freeze.iter().map(|name| (*name).to_owned()).collect();
            let tuning = FineTuning { freeze, layer_decay: None };
            tuning.apply(&mut graph("resnet20")).unwrap_err().to_string()
        };
        assert!(error(&["layer"]).contains("no layer \"layer\""), "{}", error(&["layer"]));
        let all = ["conv1", "bn1", "layer1", "layer2", "layer3", "fc"];
        assert!(error(&all).contains("left to train"), "{}", error(&all));
    }
}
