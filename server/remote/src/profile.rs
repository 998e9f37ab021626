//! The files of the AWS command line: `~/.aws/credentials` and `~/.aws/config`. `object_store` does not read them, and
//! `aws configure` writes nothing else.

#![expect(
    clippy::disallowed_methods,
    reason = "these variables are those of the AWS tools, not settings of forebay"
)]

use std::collections::BTreeMap;
use std::env::{home_dir, var};
use std::io::ErrorKind;
use std::path::PathBuf;

use forebay_types::file;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key};

/// Largest file that is read.
const MAX_FILE: u64 = 1 << 20;

type Profiles = BTreeMap<String, BTreeMap<String, String>>;

/// Adds keys and region of the profile to what the environment lacks.
///
/// # Errors
/// When `AWS_PROFILE` names a profile that the files lack, or a file cannot be read.
pub(crate) fn complete(builder: AmazonS3Builder) -> Result<AmazonS3Builder, String> {
    let lacks = |key: Key| builder.get_config_value(&key).is_none();
    let (needs_keys, needs_region) = (lacks(Key::AccessKeyId), lacks(Key::Region));
    let named = var("AWS_PROFILE").ok().filter(|name| !name.is_empty());
    let name = named.as_deref().unwrap_or("default");
    let credentials = read("AWS_SHARED_CREDENTIALS_FILE", "credentials")?;
    let config = read("AWS_CONFIG_FILE", "config")?;
    let in_config = if name == "default" { name.to_owned() } else { format!("profile {name}") };
    let (keys, settings) = (credentials.get(name), config.get(&in_config));
    if named.is_some() && keys.is_none() && settings.is_none() && needs_keys {
        return Err(format!("AWS_PROFILE is {name}, and ~/.aws has no such profile"));
    }
    let find =
        |key: &str| [keys, settings].into_iter().flatten().find_map(|of| of.get(key).cloned());
    let mut builder = builder;
    if needs_keys
        && let (Some(id), Some(secret)) = (find("aws_access_key_id"), find("aws_secret_access_key"))
    {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        if let Some(token) = find("aws_session_token") {
            builder = builder.with_token(token);
        }
    }
    if let Some(region) = find("region").filter(|_| needs_region) {
        builder = builder.with_region(region);
    }
    Ok(builder)
}

/// Reads the file that a variable names, or else one in `~/.aws`. A file that does not exist is empty.
fn read(variable: &str, name: &str) -> Result<Profiles, String> {
    let path = match (var(variable), home_dir()) {
        (Ok(path), _) => PathBuf::from(path),
        (Err(_unset), Some(home)) => home.join(".aws").join(name),
        (Err(_unset), None) => return Ok(Profiles::new()),
    };
    match file::read_to_string(&path, MAX_FILE) {
        Ok(text) => Ok(parse(&text)),
        // A container's user may have a home that is not its own.
        Err(error)
            if [ErrorKind::NotFound, ErrorKind::PermissionDenied].contains(&error.kind()) =>
        {
            Ok(Profiles::new())
        }
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Sections of `key = value`. Lines of other forms, such as those of nested settings, are passed over.
fn parse(text: &str) -> Profiles {
    let mut profiles = Profiles::new();
    let mut section = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = Some(profiles.entry(name.trim().to_owned()).or_default());
        } else if let (Some(section), Some((key, value))) = (&mut section, trimmed.split_once('='))
            && !line.starts_with([' ', '\t'])
        {
            section.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    profiles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_sections_with_keys() {
        let text = "# c\nx = 1\n[default]\naws_access_key_id = AK\n[profile a]\nregion=eu\ns3 =\n  a = b\n";
        let profiles = parse(text);
        assert_eq!(profiles["default"]["aws_access_key_id"], "AK");
        assert_eq!(profiles["profile a"]["region"], "eu");
        assert!(!profiles["profile a"].contains_key("a"));
    }
}
