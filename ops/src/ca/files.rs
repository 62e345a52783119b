//! Files of keys and certificates, each put in its place at once.

use super::{CaError, Result};
use std::fs::{DirBuilder, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> CaError + use<'_> {
    move |error| CaError::new(format!("{}: {error}", path.display()))
}

/// Makes a folder for its owner alone, if it is missing.
pub fn folder(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io(path))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(io(path))
}

/// Reads a text.
pub fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(io(path))
}

/// Writes a file that everybody may read.
pub fn public(path: &Path, text: &str) -> Result<()> {
    write(path, text, 0o644)
}

/// Writes a file that only its owner may read.
pub fn private(path: &Path, text: &str) -> Result<()> {
    write(path, text, 0o600)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let mut file = File::options().write(true).create_new(true).mode(mode).open(&new).map_err(io(&new))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io(&new))?;
    std::fs::rename(&new, path).map_err(io(path))
}
