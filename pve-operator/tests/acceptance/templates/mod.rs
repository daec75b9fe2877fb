//! Templates: from an image to a guest on every node, and away again.

mod cancelling;
mod cloning;
mod deleting;
mod fetching;
mod killing;
mod making;
mod numbers;
mod privileges;
