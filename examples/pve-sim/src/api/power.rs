//! `…/status/start`, `stop` and `shutdown`.

use super::answer::{Body, Refusal};
use super::call::Call;
use crate::work::Work;
use crate::work::power::Power;

pub(super) fn start(call: &mut Call<'_>) -> Result<Body, Refusal> {
    begin(call, "qmstart", true)
}

pub(super) fn stop(call: &mut Call<'_>) -> Result<Body, Refusal> {
    begin(call, "qmstop", false)
}

pub(super) fn shutdown(call: &mut Call<'_>) -> Result<Body, Refusal> {
    begin(call, "qmshutdown", false)
}

fn begin(call: &mut Call<'_>, kind: &str, on: bool) -> Result<Body, Refusal> {
    let vmid = call.vmid()?;
    Ok(call.begin(kind, &vmid.to_string(), Some(vmid), Work::Power(Power { vmid, on })))
}
