//! The input of the first convolution, with more channels than images have.
//!
//! Three channels in bf16 are 6 bytes, and cuDNN reads 16 bytes at once. For the gradient of the weights it
//! would first copy all images to 8 channels, which takes a workspace of 223 MB at batch 256 (docs/cudnn-
//! plans.md). So images are stored with 8 channels from the start, and so are the input channels of the
//! weights, in all ranges that hold parameters. The added channels are zeros and stay zeros: their gradient
//! is the sum of products with zeros, and optimizers leave them alone. In f32 nothing is gained, but the layout is
//! the same. Outside of this backend, images and weights have three channels.

use crate::model::{Graph, Op};

/// Channels of the first tensor, the same as in pool.cu.
pub(super) const IMAGE_CHANNELS: usize = 8;

/// Changes the shape of the images in a graph. The shapes of parameters remain those of timm.
pub(super) fn widen_images(mut graph: Graph) -> Graph {
    graph.tensors[0].channels = IMAGE_CHANNELS;
    for op in &mut graph.ops {
        if let Op::Conv { conv, x: 0, .. } = op {
            conv.input.channels = IMAGE_CHANNELS;
        }
    }
    graph
}

/// For each parameter, the number of input channels in timm's shape and as stored; 1 for those that are not of convolutions.
pub(super) fn input_channels(graph: &Graph) -> Vec<[usize; 2]> {
    let inputs = |shape: &[usize]| if let [_, inputs, _, _] = *shape { inputs } else { 1 };
    let mut channels: Vec<[usize; 2]> =
        graph.parameters.iter().map(|p| [inputs(&p.shape); 2]).collect();
    for op in &graph.ops {
        if let Op::Conv { conv, weight, bias: None, .. } = op {
            channels[*weight][1] = conv.input.channels;
        }
    }
    channels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Architecture;

    #[test]
    fn only_the_first_convolution_is_widened() {
        for name in ["resnet20", "resnet50"] {
            let graph = Graph::new(&Architecture::named(name, 10).unwrap(), 64, 64);
            assert!(input_channels(&graph).iter().all(|[timm, stored]| timm == stored));
            let wide = widen_images(graph.clone());
            let channels = input_channels(&wide);
            assert_eq!(channels[0], [3, 8], "{name}");
            assert!(channels[1..].iter().all(|[timm, stored]| timm == stored), "{name}");
            assert_eq!(wide.tensors[0].pixels(), graph.tensors[0].pixels());
            assert_eq!(wide.tensors[1..], graph.tensors[1..]);
        }
    }
}
