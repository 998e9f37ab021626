//! TensorBoard event files: TFRecords of `tensorflow.Event` (tensorflow/core/util/event.proto). The few
//! fields that a scalar needs are encoded by hand.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// How the names of event files begin and end. Between is the time in seconds.
const PREFIX: &str = "events.out.tfevents.";
const SUFFIX: &str = ".forebay";

/// Writes an event file.
#[derive(Debug)]
pub(crate) struct EventWriter(BufWriter<File>);

impl EventWriter {
    /// Creates an event file in a folder, of a run that goes on after this many steps. What files of an earlier run say of
    /// later steps is void, because this run writes these again.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub(crate) fn create(folder: &Path, steps: u64) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        // TensorBoard reads the files in order of their names.
        let mut seconds = now().max(0.0).floor();
        for entry in std::fs::read_dir(folder)? {
            let earlier = entry?.file_name().to_str().and_then(seconds_of);
            seconds = earlier.map_or(seconds, |earlier| seconds.max(earlier + 1.0));
        }
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(folder.join(format!("{PREFIX}{seconds:010.0}{SUFFIX}")))?;
        let mut events = Self(BufWriter::new(file));
        // Event.file_version.
        events.event(0, 3, b"brain.Event:2")?;
        // Event.session_log { status: START }, at which TensorBoard drops the points from its step on.
        events.event(steps + 1, 7, &[1 << 3, 1])?;
        events.0.flush()?;
        Ok(events)
    }

    /// Writes scalars of a step.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> std::io::Result<()> {
        for (tag, value) in values {
            // Summary.value { tag, simple_value }.
            let mut scalar = Vec::new();
            field(&mut scalar, 1, tag.as_bytes());
            scalar.push(2 << 3 | 5);
            scalar.extend_from_slice(&single(*value).to_le_bytes());
            let mut summary = Vec::new();
            field(&mut summary, 1, &scalar);
            self.event(step, 5, &summary)?;
        }
        self.0.flush()
    }

    /// Writes one record: the length and its checksum, then `Event { wall_time, step, FIELD: bytes }` and its
    /// checksum.
    fn event(&mut self, step: u64, number: u8, bytes: &[u8]) -> std::io::Result<()> {
        let mut event = vec![1 << 3 | 1];
        event.extend_from_slice(&now().to_le_bytes());
        event.push(2 << 3);
        varint(&mut event, step);
        field(&mut event, number, bytes);
        let length = (event.len() as u64).to_le_bytes();
        for part in [&length[..], &event] {
            self.0.write_all(part)?;
            self.0.write_all(&masked(part).to_le_bytes())?;
        }
        Ok(())
    }
}

/// The time in the name of an event file of this trainer.
fn seconds_of(name: &str) -> Option<f64> {
    let seconds: u32 = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()?;
    Some(seconds.into())
}

/// Appends a length-delimited field.
fn field(to: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    to.push(number << 3 | 2);
    varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    to.push((value & 0x7f) as u8);
}

/// TFRecord's masked CRC-32C.
fn masked(bytes: &[u8]) -> u32 {
    let crc = !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    });
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[expect(clippy::cast_possible_truncation, reason = "TensorBoard's scalars are f32")]
const fn single(value: f64) -> f32 {
    value as f32
}

/// Seconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "TensorBoard shows wall time; no data depends on it")]
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc_32c() {
        // RFC 3720, B.4: 32 bytes of zeros.
        let crc = masked(&[0; 32]).wrapping_sub(0xa282_ead8).rotate_left(15);
        assert_eq!(crc, 0x8a91_36aa);
    }

    #[test]
    fn each_run_in_a_folder_has_a_file_whose_name_follows_those_of_earlier_ones() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("events.out.tfevents.4000000000.forebay"), "").unwrap();
        for _ in 0..2 {
            EventWriter::create(folder.path(), 3).unwrap();
        }
        for later in ["4000000001", "4000000002"] {
            let name = format!("events.out.tfevents.{later}.forebay");
            assert!(folder.path().join(name).exists(), "{later}");
        }
    }

    #[test]
    fn varints_match_protobuf() {
        let mut bytes = Vec::new();
        varint(&mut bytes, 300);
        assert_eq!(bytes, [0xac, 0x02]);
    }
}
