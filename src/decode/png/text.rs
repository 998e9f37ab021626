//! The compressed chunks of a PNG that hold no pixels. Pillow refuses a file for them, so their verdict
//! is needed; their content is not.

use flate2::{Decompress, FlushDecompress, Status};

/// The maximum length of a decompressed profile or text (`MAX_TEXT_CHUNK`).
const MAX: usize = 1 << 20;
/// The maximum number of characters in all texts (`MAX_TEXT_MEMORY`).
pub(super) const MAX_TOTAL: u64 = 64 << 20;

/// Checks `iCCP`.
pub(super) fn check_profile(data: &[u8]) -> Result<(), String> {
    // Without a zero, `find` returns -1, and the name is empty.
    let zero = data.iter().position(|&byte| byte == 0);
    let rest = zero.map_or(data, |zero| &data[zero + 1..]);
    match rest.split_first() {
        Some((0, profile)) => inflate(profile).map(drop),
        Some(_) => Err("the compression method of iCCP is unknown".into()),
        None => Err("chunk iCCP is too short".into()),
    }
}

/// The key of `tEXt`, `zTXt` or `iTXt`, and the number of its characters. `None` if Pillow ignores the
/// chunk.
///
/// # Errors
/// When Pillow refuses the chunk.
pub(super) fn read(name: [u8; 4], data: &[u8]) -> Result<Option<(&[u8], usize)>, String> {
    let (key, value) = split(data).unwrap_or((data, b""));
    let characters = match &name {
        b"zTXt" => {
            let (method, text) = value.split_first().unwrap_or((&0, b""));
            if *method != 0 {
                return Err("the compression method of zTXt is unknown".into());
            }
            Some(inflate(text)?.map_or(0, |text| text.len()))
        }
        b"iTXt" => return Ok(international(value)?.map(|characters| (key, characters))),
        _ => Some(value.len()),
    };
    Ok(characters.filter(|_| !key.is_empty()).map(|characters| (key, characters)))
}

/// The number of characters of an `iTXt` after its key. `None` if Pillow ignores the chunk.
fn international(value: &[u8]) -> Result<Option<usize>, String> {
    let [compressed, method, rest @ ..] = value else { return Ok(None) };
    let Some((language, rest)) = split(rest) else { return Ok(None) };
    let Some((translated, text)) = split(rest) else { return Ok(None) };
    let text = match (compressed, method) {
        (0, _) => Some(text.to_vec()),
        (_, 0) => inflate(text)?,
        _ => None,
    };
    let is_text = |bytes: &[u8]| str::from_utf8(bytes).is_ok();
    let text = text.filter(|_| is_text(language) && is_text(translated));
    Ok(text.and_then(|text| Some(str::from_utf8(&text).ok()?.chars().count())))
}

fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let zero = data.iter().position(|&byte| byte == 0)?;
    Some((&data[..zero], &data[zero + 1..]))
}

/// Decompresses as `_safe_zlib_decompress` does. `None` if the data is damaged, which Pillow ignores.
///
/// # Errors
/// When the result is too long, which Pillow refuses.
fn inflate(data: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let mut inflate = Decompress::new(true);
    let mut text = Vec::new();
    loop {
        let read = usize::try_from(inflate.total_in()).expect("within the data");
        if read == data.len() {
            return Ok(Some(text));
        }
        if text.len() >= MAX {
            return Err("a decompressed profile or text has more than 1 MiB".into());
        }
        text.reserve_exact(text.len().max(1024).min(MAX - text.len()));
        match inflate.decompress_vec(&data[read..], &mut text, FlushDecompress::Sync) {
            Ok(Status::StreamEnd) => return Ok(Some(text)),
            Ok(Status::Ok | Status::BufError) => {}
            Err(_) => return Ok(None),
        }
    }
}
