//! Contents and order of streams.

use forebay_proto::v1::{self, DescribeRequest, ExplainRequest, FetchRequest, StreamRequest};
use forebay_server::{MicrobatchName, PixelFormat};
use forebay_types::{Layout, MixedBy};

use crate::support::{Make, drain, job, next, patient, pixels, start, steps};

const fn name(epoch: u64, step: u64, index: u32) -> MicrobatchName {
    MicrobatchName { seed: 7, epoch, step, index }
}

#[tokio::test]
async fn a_stream_continues_with_the_next_epoch() {
    let server = start(Make::Now, patient()).await;
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
async fn a_selection_is_sent_in_its_order_without_the_skipped_ones() {
    let server = start(Make::Now, patient()).await;
    let request = StreamRequest { step: 1, microbatches: vec![3, 0, 2], skip: 1, ..steps(2) };
    let mut stream = server.client().await.stream(request).await.unwrap().into_inner();
    let (names, end) = drain(&mut stream).await;
    end.unwrap();
    assert_eq!(names, [name(0, 1, 0), name(0, 1, 2), name(0, 2, 0), name(0, 2, 2)]);
    assert_eq!(names, *server.fake.names.lock().unwrap());
}

#[tokio::test]
async fn skip_counts_the_microbatches_that_a_short_step_has() {
    let server = start(Make::Now, patient()).await;
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
async fn fetch_returns_the_same_bytes_as_stream() {
    let server = start(Make::Now, patient()).await;
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
async fn pixel_formats_reach_the_pipeline_and_return_in_the_header() {
    let server = start(Make::Now, patient()).await;
    let mut client = server.client().await;
    let mut stream = client.stream(steps(1)).await.unwrap().into_inner();
    let header = next(&mut stream).await.unwrap().unwrap().0;
    assert_eq!((header.dtype(), header.layout()), (v1::DType::DtypeU8, v1::Layout::Nhwc));
    drop(stream);
    let request = FetchRequest {
        job: Some(job()),
        layout: v1::Layout::Nchw.into(),
        mixed_by: v1::MixedBy::Trainer.into(),
        ..FetchRequest::default()
    };
    let mut stream = client.fetch(request).await.unwrap().into_inner();
    assert_eq!(next(&mut stream).await.unwrap().unwrap().0.layout(), v1::Layout::Nchw);
    let formats = server.fake.formats.lock().unwrap();
    let unmixed =
        PixelFormat { layout: Layout::Nchw, mixed_by: MixedBy::Trainer, ..PixelFormat::default() };
    assert_eq!(formats[0], PixelFormat::default());
    assert_eq!(formats[formats.len() - 1], unmixed);
}

#[tokio::test]
async fn describe_and_explain_are_served() {
    let server = start(Make::Now, patient()).await;
    let mut client = server.client().await;
    let facts = client
        .describe(DescribeRequest { job: Some(job()), first_class: 0 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(facts.datasets, ["pets"]);
    assert_eq!(facts.server_version, env!("CARGO_PKG_VERSION"));
    assert_eq!((facts.steps_per_epoch, facts.microbatches), (3, 4));
    let request =
        ExplainRequest { job: Some(job()), epoch: 9, step: 2, microbatch: 1, first_sample: 0 };
    let answer = client.explain(request).await.unwrap().into_inner();
    assert_eq!((answer.json, answer.next_sample), (format!("{:?} from 0", name(9, 2, 1)), 0));
}
