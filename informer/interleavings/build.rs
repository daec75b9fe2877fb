//! Exchanges the module `sync` of the informer for the one in `src/sync.rs` beside this file.

fn main() {
    println!("cargo::rustc-cfg=interleavings");
    println!("cargo::rerun-if-changed=build.rs");
}
