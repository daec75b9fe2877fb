//! The image store in a folder and in a bucket, and the checks of images that `qemu-img` made.

mod bucket;
mod folder;
mod formats;
mod resumable;
mod server;
mod stores;
