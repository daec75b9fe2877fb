//! The example that follows a directory, on a directory.

use std::fs;
use std::path::{Path, PathBuf};

use futures::FutureExt;
use informer::testing::conformance;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

#[expect(dead_code, reason = "what it does is run from here, its `main` is not")]
#[path = "../../examples/directory.rs"]
mod example;

/// An empty directory of this test alone.
fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    fs::create_dir_all(&path).unwrap();
    path
}

#[tokio::test(start_paused = true)]
async fn files_are_printed_as_they_come_change_and_go() {
    let path = directory("follow");
    let (print, mut printed) = mpsc::channel(10);
    let (stop, stopped) = oneshot::channel::<()>();
    let mut tasks = JoinSet::new();
    let followed = path.clone();
    tasks.spawn(async move {
        let stopped = stopped.map(|_| ());
        example::follow(followed, stopped, |line| print.try_send(line).unwrap()).await;
    });

    fs::write(path.join("a"), "12345").unwrap();
    assert_eq!(printed.recv().await.unwrap(), "added a (5 bytes)");
    fs::write(path.join("a"), "123").unwrap();
    assert_eq!(printed.recv().await.unwrap(), "modified a (3 bytes)");
    fs::remove_file(path.join("a")).unwrap();
    assert_eq!(printed.recv().await.unwrap(), "deleted a (3 bytes)");

    drop(stop);
    tasks.join_next().await.unwrap().unwrap();
    assert!(printed.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_gone_is_a_failure_and_no_empty_one() {
    let path = directory("gone");
    fs::write(path.join("a"), "12345").unwrap();
    let source = example::Directory(path.clone());
    conformance(&source).await.unwrap();
    let informer = informer::SharedIndexInformer::builder(source).build();
    let store = informer.store().clone();
    let mut reflector = informer.into_reflector();
    assert_eq!(reflector.step().await, informer::Step::Listed);

    fs::remove_dir_all(path).unwrap();

    assert_eq!(reflector.step().await, informer::Step::Waited);
    assert_eq!(reflector.step().await, informer::Step::Failed);
    assert!(store.contains("a"));
}
