//! `POST …/upload`, once its body has been read: see [`crate::http`] for that.

use super::answer::{Body, Refusal};
use super::call::Call;
use super::download::{checksum, file_name, known_content};
use crate::hex::sha256;
use crate::work::Work;
use crate::work::upload::Upload;
use crate::world::file::Digest;

/// Without a file: the parameters may be right, and it is refused all the same.
pub(super) fn without_file(_: &mut Call<'_>) -> Result<Body, Refusal> {
    Err(Refusal::error("missing temporary file name"))
}

/// Begins to check and copy what has arrived.
pub(crate) fn with_file(call: &mut Call<'_>, digest: Digest) -> Result<Body, Refusal> {
    let content = call.param("content").unwrap_or_default().to_owned();
    known_content(call, &content)?;
    let checksum = checksum(call)?;
    let name = file_name(call, &content)?;
    let storage = call.part("storage").to_owned();
    let found = call.storage_here(&storage)?;
    if !found.has_files() || !found.content.contains(&content) {
        let text = format!("storage '{storage}' does not support '{content}' content");
        return Err(Refusal::error(text));
    }
    let target = call.node().to_owned();
    call.world.serial += 1;
    let serial = call.world.serial;
    let temporary = format!("/var/tmp/pveupload-{}", &sha256(format!("{serial}").as_bytes())[..32]);
    let home = call.world.home(&storage, &target);
    let file = digest.into_file(&storage, home, &content, &name);
    let work = Work::Upload(Upload { file, temporary, checksum, target });
    // The node that took the file does the work, whatever node the path names; the task's name
    // does not tell which file it is.
    let entry = call.entry.to_owned();
    Ok(call.begin_on(&entry, "imgcopy", "", None, work))
}
