//! `POST …/template`.

use super::answer::{Body, Refusal};
use super::call::Call;
use super::guests::find;
use crate::work::Work;
use crate::work::template::Template;
use crate::world::{Kind, Status};

pub(super) fn template(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let vmid = call.vmid()?;
    let disk = call.param("disk").map(str::to_owned);
    let guest = find(call, Kind::Qemu)?;
    if let Some(lock) = &guest.lock {
        return Err(Refusal::error(format!("VM is locked ({lock})")));
    }
    if guest.template && disk.is_none() {
        return Err(Refusal::error("you can't convert a template to a template"));
    }
    if guest.status != Status::Stopped {
        return Err(Refusal::error("you can't convert a VM to template if VM is running"));
    }
    let work = Work::Template(Template { vmid, disk });
    Ok(call.begin("qmtemplate", &vmid.to_string(), Some(vmid), work))
}
