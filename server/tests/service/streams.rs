//! What is sent, in which order.

use forebay_proto::v1::{
    DType, DescribeRequest, ExplainRequest, FetchRequest, Layout, MixedBy, StreamRequest,
};
use forebay_server::{Limits, Name, Output};

use crate::support::{Make, drain, job, next, pixels, start, steps};

const fn name(epoch: u64, step: u64, index: u32) -> Name {
    Name { seed: 7, epoch, step, index }
}

#[tokio::test]
async fn a_stream_goes_on_over_the_end_of_an_epoch() {
    let server = start(Make::Now, Limits::default()).await;
    let request = StreamRequest { epoch: 5, step: 1, ..steps(3) };
    let mut stream = server.client().await.stream(request).await.unwrap().into_inner();
    let (names, end) = drain(&mut stream).await;
    end.unwrap();
    let step = |epoch, step, n| (0..n).map(move |index| name(epoch, step, index));
    // The last step of an epoch has three microbatches.
    let expected: Vec<_> = step(5, 1, 4).chain(step(5, 2, 3)).chain(step(6, 0, 4)).collect();
    assert_eq!(names, expected);
}

#[tokio::test]
async fn a_selection_is_sent_in_its_order_and_skip_leaves_out_what_was_received() {
    let server = start(Make::Now, Limits::default()).await;
    let request = StreamRequest { step: 1, microbatches: vec![3, 0, 2], skip: 1, ..steps(2) };
    let mut stream = server.client().await.stream(request).await.unwrap().into_inner();
    let (names, end) = drain(&mut stream).await;
    end.unwrap();
    assert_eq!(names, [name(0, 1, 0), name(0, 1, 2), name(0, 2, 0), name(0, 2, 2)]);
    assert_eq!(names, *server.fake.names.lock().unwrap());
}

#[tokio::test]
async fn skip_counts_what_a_short_step_has() {
    let server = start(Make::Now, Limits::default()).await;
    let request = StreamRequest { step: 2, microbatches: vec![3, 0, 2], skip: 1, ..steps(2) };
    let mut stream = server.client().await.stream(request).await.unwrap().into_inner();
    let (names, end) = drain(&mut stream).await;
    end.unwrap();
    // The last step of an epoch has no microbatch 3.
    assert_eq!(names, [name(0, 2, 2), name(1, 0, 3), name(1, 0, 0), name(1, 0, 2)]);

    let request = StreamRequest { step: 2, microbatches: vec![3], ..steps(2) };
    let mut stream = server.client().await.stream(request).await.unwrap().into_inner();
    let (names, end) = drain(&mut stream).await;
    end.unwrap();
    assert_eq!(names, [name(1, 0, 3)]);
}

#[tokio::test]
async fn fetch_gives_the_bytes_that_stream_gives() {
    let server = start(Make::Now, Limits::default()).await;
    let mut client = server.client().await;
    let mut stream = client.stream(steps(1)).await.unwrap().into_inner();
    for microbatch in 0..4 {
        let request = FetchRequest { job: Some(job()), microbatch, ..FetchRequest::default() };
        let mut fetched = client.fetch(request).await.unwrap().into_inner();
        let whole = next(&mut fetched).await.unwrap().unwrap();
        assert_eq!(whole.1, pixels(name(0, 0, microbatch)));
        assert_eq!(next(&mut stream).await.unwrap().unwrap(), whole);
        assert_eq!(next(&mut fetched).await.unwrap(), None);
    }
}

#[tokio::test]
async fn outputs_reach_the_maker_and_come_back_in_the_header() {
    let server = start(Make::Now, Limits::default()).await;
    let mut client = server.client().await;
    let mut stream = client.stream(steps(1)).await.unwrap().into_inner();
    let header = next(&mut stream).await.unwrap().unwrap().0;
    assert_eq!((header.dtype(), header.layout()), (DType::DtypeU8, Layout::Nhwc));
    drop(stream);
    let request = FetchRequest {
        job: Some(job()),
        layout: Layout::Nchw.into(),
        mixed_by: MixedBy::Trainer.into(),
        ..FetchRequest::default()
    };
    let mut stream = client.fetch(request).await.unwrap().into_inner();
    assert_eq!(next(&mut stream).await.unwrap().unwrap().0.layout(), Layout::Nchw);
    let outputs = server.fake.outputs.lock().unwrap();
    let dtype = DType::DtypeU8;
    assert_eq!(outputs[0], Output { dtype, layout: Layout::Nhwc, mixed: true });
    assert_eq!(outputs[outputs.len() - 1], Output { dtype, layout: Layout::Nchw, mixed: false });
}

#[tokio::test]
async fn describe_and_explain_answer() {
    let server = start(Make::Now, Limits::default()).await;
    let mut client = server.client().await;
    let facts = client.describe(DescribeRequest { job: Some(job()) }).await.unwrap().into_inner();
    assert_eq!(facts.datasets, ["pets"]);
    assert_eq!(facts.server_version, env!("CARGO_PKG_VERSION"));
    assert_eq!((facts.steps_per_epoch, facts.microbatches), (3, 4));
    let request = ExplainRequest { job: Some(job()), epoch: 9, step: 2, microbatch: 1 };
    let answer = client.explain(request).await.unwrap().into_inner();
    assert_eq!(answer.json, format!("{:?}", name(9, 2, 1)));
}
