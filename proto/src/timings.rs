//! Timings on the wire, where times are whole microseconds.

use std::time::Duration;

use forebay_types::{StageTimes, Timings};

use crate::v1;

impl From<&Timings> for v1::ServerTimings {
    fn from(timings: &Timings) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let Timings { queue, make, stages } = *timings;
        let [read, decode, resize, augment, mix, digest] = stages.times().map(micros);
        Self {
            queue: micros(queue),
            make: micros(make),
            read,
            decode,
            resize,
            augment,
            mix,
            digest,
        }
    }
}

impl From<&v1::ServerTimings> for Timings {
    fn from(timings: &v1::ServerTimings) -> Self {
        let v1::ServerTimings { queue, make, read, decode, resize, augment, mix, digest } =
            *timings;
        let time = Duration::from_micros;
        let stages = StageTimes {
            read: time(read),
            decode: time(decode),
            resize: time(resize),
            augment: time(augment),
            mix: time(mix),
            digest: time(digest),
        };
        Self { queue: time(queue), make: time(make), stages }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_come_back_from_the_wire() {
        let wire = v1::ServerTimings {
            queue: 1,
            make: 2,
            read: 3,
            decode: 4,
            resize: 5,
            augment: 6,
            mix: 7,
            digest: 8,
        };
        let timings = Timings::from(&wire);
        assert_eq!(timings.stages.resize, Duration::from_micros(5));
        assert_eq!(v1::ServerTimings::from(&timings), wire);
    }
}
