//! `/access/permissions`: what a token may do, which any token may ask about itself.

use std::collections::BTreeMap;

use super::answer::{Body, Refusal};
use super::call::Call;

pub(super) fn permissions(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let one = call.param("path");
    let paths = match one {
        Some(path) => vec![path],
        None => call.token.shown_paths().into_iter().collect(),
    };
    let mut all: BTreeMap<&str, BTreeMap<&str, u8>> = BTreeMap::new();
    for path in paths {
        let held = call.token.on(path);
        all.insert(path, held.iter().map(|&privilege| (privilege, 1)).collect());
    }
    Ok(Body::of(&all))
}
