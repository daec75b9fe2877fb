//! Templates: from an image to a guest on every node, and away again.

mod ambiguous;
mod cancelling;
mod cloning;
mod deleting;
mod failing;
mod fetching;
mod guide;
mod killing;
mod logs;
mod making;
mod numbers;
mod privileges;
mod quorum;
mod trouble;
