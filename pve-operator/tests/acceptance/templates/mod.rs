//! Templates: from an image to a guest on every node, and away again.

mod making;
