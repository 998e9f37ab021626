//! Models as ONNX files: opset 17, in f32, for any number of images of any size.
//!
//! The input `input` is of normalized images, `[batch, 3, height, width]`; the output `logits` is
//! `[batch, classes]`. Batch norms are nodes of their own, with running statistics.

mod proto;

use prost::Message as _;

use crate::model::{Conv, Graph, Op};
use crate::state::{StateDict, Tensor};
use proto::{Attribute, Dimension, Entry, Node};

/// Version of the operators, and of the format that has them.
const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;

/// The names of input and output.
const INPUT: &str = "input";
const OUTPUT: &str = "logits";

/// A network with its weights as an ONNX file. The weights must be those of the network.
pub(crate) fn encode(graph: &Graph, model: &StateDict, metadata: &[(&str, String)]) -> Vec<u8> {
    file(graph, model, metadata).encode_to_vec()
}

fn file(graph: &Graph, model: &StateDict, metadata: &[(&str, String)]) -> proto::Model {
    let mut builder = Builder { graph, model, nodes: Vec::new(), initializers: Vec::new() };
    for op in &graph.ops {
        builder.operation(op);
    }
    let classes = Dimension { dim_value: Some(int(graph.classes)), dim_param: None };
    let channels = Dimension { dim_value: Some(3), dim_param: None };
    let any = |name: &str| Dimension { dim_value: None, dim_param: Some(name.to_owned()) };
    let graph = proto::Graph {
        node: builder.nodes,
        name: "forebay".to_owned(),
        initializer: builder.initializers,
        input: vec![value(INPUT, vec![any("batch"), channels, any("height"), any("width")])],
        output: vec![value(OUTPUT, vec![any("batch"), classes])],
    };
    let entry =
        |(key, value): &(&str, String)| Entry { key: (*key).to_owned(), value: value.clone() };
    proto::Model {
        ir_version: IR_VERSION,
        producer_name: "forebay-trainer".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(graph),
        opset_import: vec![proto::Opset { version: OPSET }],
        metadata_props: metadata.iter().map(entry).collect(),
    }
}

fn value(name: &str, dim: Vec<Dimension>) -> proto::ValueInfo {
    let shape = Some(proto::Shape { dim });
    let tensor_type = Some(proto::TensorType { elem_type: proto::FLOAT, shape });
    proto::ValueInfo { name: name.to_owned(), r#type: Some(proto::Type { tensor_type }) }
}

struct Builder<'a> {
    graph: &'a Graph,
    model: &'a StateDict,
    nodes: Vec<Node>,
    initializers: Vec<proto::Tensor>,
}

impl Builder<'_> {
    fn operation(&mut self, op: &Op) {
        let (x, y) = op.tensors();
        let (input, output) = (self.tensor(x), self.tensor(y));
        match *op {
            Op::Conv { conv, weight, bias, .. } => {
                let name = self.graph.parameters[weight].name.clone();
                let mut inputs = vec![input, self.weights(&name)];
                if let Some(bias) = bias {
                    let name = self.graph.parameters[bias].name.clone();
                    inputs.push(self.weights(&name));
                }
                if weight == self.graph.classifier_parameters()[0] {
                    let flat = format!("{output}_flat");
                    self.node("Flatten", [inputs[0].clone()], &flat, vec![ints("axis", 1)]);
                    inputs[0] = flat;
                    self.node("Gemm", inputs, &output, vec![ints("transB", 1)]);
                } else {
                    self.node("Conv", inputs, &output, convolution(&conv));
                }
            }
            Op::BatchNorm { norm, residual, relu, .. } => {
                let norm = self.graph.norms[norm].name.clone();
                let parts = ["weight", "bias", "running_mean", "running_var"];
                let mut inputs = vec![input];
                inputs.extend(parts.map(|part| self.weights(&format!("{norm}.{part}"))));
                let residual = residual.map(|residual| self.tensor(residual));
                let normed = step(&output, "norm", residual.is_some() || relu);
                let epsilon = Attribute {
                    name: "epsilon".to_owned(),
                    f: Some(1e-5),
                    kind: proto::FLOAT_ATTRIBUTE,
                    ..Attribute::default()
                };
                self.node("BatchNormalization", inputs, &normed, vec![epsilon]);
                self.end(normed, residual, relu, &output);
            }
            Op::Gate { gate, residual, .. } => {
                let (gate, residual) = (self.tensor(gate), self.tensor(residual));
                let (open, gated) = (format!("{output}_open"), format!("{output}_gated"));
                self.node("Sigmoid", [gate], &open, Vec::new());
                self.node("Mul", [input, open], &gated, Vec::new());
                self.end(gated, Some(residual), true, &output);
            }
            Op::Relu { .. } => self.node("Relu", [input], &output, Vec::new()),
            Op::MaxPool { .. } => self.node("MaxPool", [input], &output, window(3, 2, 1)),
            Op::MeanPool { .. } => self.node("GlobalAveragePool", [input], &output, Vec::new()),
            Op::AveragePool { .. } => {
                let mut attributes = window(2, 2, 0);
                attributes.extend([ints("ceil_mode", 1), ints("count_include_pad", 0)]);
                self.node("AveragePool", [input], &output, attributes);
            }
            Op::Shortcut { .. } => {
                let [from, to] = [x, y].map(|tensor| int(self.graph.tensors[tensor].channels));
                let halved = step(&output, "halved", to > from);
                let bounds = [
                    ("starts", [0, 0]),
                    ("ends", [i64::MAX; 2]),
                    ("axes", [2, 3]),
                    ("steps", [2, 2]),
                ];
                let mut inputs = vec![input];
                inputs.extend(
                    bounds
                        .map(|(name, values)| self.constant(&format!("{output}_{name}"), &values)),
                );
                self.node("Slice", inputs, &halved, Vec::new());
                if to > from {
                    let pads =
                        self.constant(&format!("{output}_pads"), &[0, 0, 0, 0, 0, to - from, 0, 0]);
                    self.node("Pad", [halved, pads], &output, Vec::new());
                }
            }
        }
    }

    /// The residual sum and `ReLU` that end a block.
    fn end(&mut self, input: String, residual: Option<String>, relu: bool, output: &str) {
        let mut last = input;
        if let Some(residual) = residual {
            let sum = step(output, "sum", relu);
            self.node("Add", [last, residual], &sum, Vec::new());
            last = sum;
        }
        if relu {
            self.node("Relu", [last], output, Vec::new());
        }
    }

    fn tensor(&self, tensor: usize) -> String {
        match tensor {
            0 => INPUT.to_owned(),
            tensor if tensor == self.graph.logits() => OUTPUT.to_owned(),
            tensor => format!("t{tensor}"),
        }
    }

    fn node(
        &mut self,
        operator: &str,
        inputs: impl IntoIterator<Item = String>,
        output: &str,
        attribute: Vec<Attribute>,
    ) {
        self.nodes.push(Node {
            input: inputs.into_iter().collect(),
            output: vec![output.to_owned()],
            name: format!("{operator}_{}", self.nodes.len()),
            op_type: operator.to_owned(),
            attribute,
        });
    }

    fn weights(&mut self, name: &str) -> String {
        let Tensor { shape, values } = &self.model[name];
        self.initializers.push(proto::Tensor {
            dims: shape.iter().map(|n| int(*n)).collect(),
            data_type: proto::FLOAT,
            name: name.to_owned(),
            raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        });
        name.to_owned()
    }

    fn constant(&mut self, name: &str, values: &[i64]) -> String {
        self.initializers.push(proto::Tensor {
            dims: vec![int(values.len())],
            data_type: proto::INT64,
            name: name.to_owned(),
            raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        });
        name.to_owned()
    }
}

/// The name of an intermediate result of an operation, or that of its output if nothing follows.
fn step(output: &str, name: &str, follows: bool) -> String {
    if follows { format!("{output}_{name}") } else { output.to_owned() }
}

fn convolution(conv: &Conv) -> Vec<Attribute> {
    let mut attributes = window(conv.kernel, conv.stride, conv.pad);
    attributes.push(ints("group", int(conv.groups)));
    attributes
}

/// The attributes of a square window.
fn window(kernel: usize, stride: usize, pad: usize) -> Vec<Attribute> {
    let list = |name: &str, values: Vec<i64>| Attribute {
        name: name.to_owned(),
        ints: values,
        kind: proto::INTS_ATTRIBUTE,
        ..Attribute::default()
    };
    vec![
        list("kernel_shape", vec![int(kernel); 2]),
        list("strides", vec![int(stride); 2]),
        list("pads", vec![int(pad); 4]),
    ]
}

/// An attribute that is one number.
fn ints(name: &str, value: i64) -> Attribute {
    Attribute {
        name: name.to_owned(),
        i: Some(value),
        kind: proto::INT_ATTRIBUTE,
        ..Attribute::default()
    }
}

fn int(size: usize) -> i64 {
    i64::try_from(size).expect("sizes of a network are far below 2^63")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::init::initial_state;
    use crate::model::{Architecture, NAMES};

    #[test]
    fn every_value_is_written_once_before_it_is_read() {
        for name in NAMES {
            let full = Architecture::named(name, 7).unwrap();
            let channels = full.channels.iter().map(|channels| channels / 4).collect();
            let graph = Graph::new(&Architecture { channels, ..full }, 33, 33);
            let model = initial_state(&graph, 0).model;
            let bytes = encode(&graph, &model, &[("model", name.to_owned())]);
            let file = proto::Model::decode(&*bytes).unwrap();
            assert_eq!(file, super::file(&graph, &model, &[("model", name.to_owned())]));
            let graph = file.graph.unwrap();
            let mut written = BTreeSet::from([INPUT.to_owned()]);
            for tensor in &graph.initializer {
                let numbers: i64 = tensor.dims.iter().product();
                let bytes = if tensor.data_type == proto::FLOAT { 4 } else { 8 };
                assert_eq!(int(tensor.raw_data.len()), numbers * bytes, "{name}: {}", tensor.name);
                assert!(written.insert(tensor.name.clone()), "{name}: {}", tensor.name);
            }
            let mut read = BTreeSet::new();
            for node in &graph.node {
                for input in &node.input {
                    assert!(written.contains(input), "{name}: {} reads {input}", node.name);
                    read.insert(input.clone());
                }
                for output in &node.output {
                    assert!(written.insert(output.clone()), "{name}: {output}");
                }
            }
            let unread: Vec<&String> = written.difference(&read).collect();
            assert_eq!(unread, [OUTPUT], "{name}");
            let weights = graph.initializer.iter().filter(|t| t.data_type == proto::FLOAT);
            let weights: BTreeSet<&String> = weights.map(|tensor| &tensor.name).collect();
            let names: BTreeSet<&String> = model.keys().collect();
            assert_eq!(weights, names, "{name}");
        }
    }
}
