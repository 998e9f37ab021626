//! Markers in and behind entropy-coded data: the next one, and the restart marker that is due.

/// Finds the next marker at or after `at`: its code, and the offset after it. Skips bytes that are
/// not a marker, as well as stuffed zeros and fill bytes.
pub(super) fn next_marker(file: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += file.get(at..)?.iter().position(|&byte| byte == 0xFF)?;
        at += file[at..].iter().position(|&byte| byte != 0xFF)?;
        if file[at] != 0 {
            return Some((file[at], at + 1));
        }
    }
}

/// The result of the search for a restart marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    /// The marker that is due, or one that counts as such: decoding resumes at this offset.
    Due(usize),
    /// A marker of a later interval, at this offset. It stays there, because the interval that is
    /// due was lost.
    Later(usize),
    /// A marker that is no restart marker, at this offset. It stays there for all later restarts.
    Other(usize),
}

/// Finds the restart marker number `due` (0 to 7) at or after `at`, as `jpeg_resync_to_restart` of
/// libjpeg does (T.81 leaves it open). The number of another restart marker tells whether data was
/// lost, so that the marker belongs to a later interval; or whether the marker is a late one, so
/// that the search continues; or nothing, so that it counts as the one that is due.
pub(super) fn find_restart(file: &[u8], mut at: usize, due: u32) -> Option<Restart> {
    loop {
        let (code, after) = next_marker(file, at)?;
        match code {
            0xD0..=0xD7 => match (u32::from(code & 7) + 8 - due) & 7 {
                1 | 2 => return Some(Restart::Later(after - 2)),
                6 | 7 => {}
                _ => return Some(Restart::Due(after)),
            },
            ..0xC0 => {}
            _ => return Some(Restart::Other(after - 2)),
        }
        at = after;
    }
}
