//! `imgcopy`: an uploaded file is checked and copied to its storage.

use super::{End, Worker};
use crate::world::File;

/// A file that has arrived whole on a node.
#[derive(Debug)]
pub(crate) struct Upload {
    /// As it will lie there.
    pub(crate) file: File,
    /// `/var/tmp/pveupload-…`.
    pub(crate) temporary: String,
    /// Algorithm and sum.
    pub(crate) checksum: Option<(String, String)>,
    /// The node whose storage it goes to.
    pub(crate) target: String,
}

impl Upload {
    pub(crate) async fn run(self, worker: &Worker) -> Result<(), End> {
        let Self { mut file, temporary, checksum, target } = self;
        worker.log(&format!("starting file import from: {temporary}"));
        if let Some((algorithm, expected)) = &checksum {
            worker.log("calculating checksum...");
            super::download::verify(&file, algorithm, expected, "")?;
            worker.grow("OK, checksum verified");
        }
        if !file.image_fits() {
            worker.log(&format!(
                "command '/usr/bin/qemu-img info '--output=json' {temporary} -f {}' failed: exit \
                 code 1",
                file.format()
            ));
            return Err(End::Failed(format!(
                "qemu-img: Could not open '{temporary}': Image is not in {} format",
                file.format()
            )));
        }
        let path = {
            let world = worker.world()?;
            let found = world.storage(&file.storage);
            let gone = || End::Failed(format!("storage '{}' does not exist", file.storage));
            found.ok_or_else(gone)?.file_path(&file.content, &file.name)
        };
        worker.log(&format!("target node: {target}"));
        worker.log(&format!("target file: {path}"));
        worker.log(&format!("file size is: {}", file.size));
        let by = if target == worker.node {
            format!("cp -- {temporary} {path}")
        } else {
            format!(
                "/usr/bin/scp -o BatchMode=yes -o HostKeyAlias={target} -p -- {temporary} \
                 [{target}]:{path}"
            )
        };
        worker.log(&format!("command: {by}"));
        worker.half_way().await?;
        let mut world = worker.world()?;
        if world.free_space(&file.storage, &target) < file.size {
            return Err(End::Failed(format!(
                "import failed: cp: error writing '{path}': No space left on device"
            )));
        }
        file.ctime = worker.shared.clock.unix();
        world.put_file(file);
        drop(world);
        worker.log("finished file import successfully");
        Ok(())
    }
}
