//! Fine-tuning: a model that was trained for other classes keeps everything but its classifier.

use crate::init::initial_parameter;
use crate::model::Graph;
use crate::state::StateDict;

/// Replaces a classifier for another number of classes, or a missing one, by an untrained one, if all else of it fits
/// the network. Returns the number of classes that the model had.
pub(super) fn reset_classifier(model: &mut StateDict, graph: &Graph, seed: u64) -> Option<usize> {
    let classifier = graph.classifier_parameters();
    // The first dimension of matrix and bias is that of the classes. `None` if another one differs.
    let classes = |index: &usize| {
        let parameter = &graph.parameters[*index];
        let Some(found) = model.get(&parameter.name) else { return Some(0) };
        let (classes, features) = found.shape.split_first()?;
        (*features == parameter.shape[1..]).then_some(*classes)
    };
    let [found, other] = classifier.each_ref().map(classes);
    let found = found.filter(|found| *found != graph.classes && other == Some(*found))?;
    for index in classifier {
        let tensor = initial_parameter(graph, seed, index);
        model.insert(graph.parameters[index].name.clone(), tensor);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::initial_state;
    use crate::model::Architecture;

    #[test]
    fn only_a_classifier_of_other_classes_and_the_same_features_is_replaced() {
        let graph = |name, classes| Graph::new(&Architecture::named(name, classes).unwrap(), 8, 8);
        let model = |name, classes| initial_state(&graph(name, classes), 1).model;
        let ours = graph("resnet20", 10);
        for (mut other, classes) in [(model("resnet20", 7), Some(7)), (model("resnet20", 10), None)]
        {
            let before = other.clone();
            assert_eq!(reset_classifier(&mut other, &ours, 2), classes);
            let untrained = initial_state(&ours, 2).model;
            for (name, tensor) in &other {
                let replaced = classes.is_some() && name.starts_with("fc.");
                let expected = if replaced { &untrained[name] } else { &before[name] };
                assert_eq!(tensor, expected, "{name}");
            }
        }
        let mut headless = model("resnet20", 7);
        headless.retain(|name, _| !name.starts_with("fc."));
        assert_eq!(reset_classifier(&mut headless, &ours, 2), Some(0));
        let mut halved = model("resnet20", 7);
        halved.remove("fc.bias");
        assert_eq!(reset_classifier(&mut halved, &ours, 2), None);
        assert_eq!(reset_classifier(&mut model("resnet18", 7), &ours, 2), None);
    }
}
