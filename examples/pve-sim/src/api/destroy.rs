//! `DELETE …/qemu/{vmid}`.

use super::answer::{Body, Refusal};
use super::call::Call;
use super::guests::find;
use crate::work::Work;
use crate::work::destroy::Destroy;
use crate::world::{Kind, Status};

pub(super) fn destroy(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let vmid = call.vmid()?;
    // `root@pam` with a password is the only one, and no token is.
    if call.flag("skiplock") == Some(true) {
        return Err(Refusal::parameter("skiplock", "Only root may use this option."));
    }
    let guest = find(call, Kind::Qemu)?;
    if guest.config.get("protection").is_some_and(|value| value == 1) {
        let text = format!("can't remove VM {vmid} - protection mode enabled");
        return Err(Refusal::error(text));
    }
    if guest.status != Status::Stopped {
        return Err(Refusal::error(format!("VM {vmid} is running - destroy failed")));
    }
    let work = Destroy {
        vmid,
        purge: call.flag("purge") == Some(true),
        unreferenced: call.flag("destroy-unreferenced-disks") == Some(true),
        skip_lock: false,
    };
    Ok(call.begin("qmdestroy", &vmid.to_string(), Some(vmid), Work::Destroy(work)))
}
