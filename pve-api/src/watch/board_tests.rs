//! The board, with all that may become of it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::*;

fn a_task(revision: i64, id: i64, shown: &str) -> Change {
    let shown = RawValue::from_string(format!("\"{shown}\"")).unwrap();
    let news = News::Task { template: TemplateId(id % 2), shown };
    Change { revision: Revision(revision), id, cluster: ClusterId(1), news }
}

fn a_delete(revision: i64, id: i64) -> Change {
    Change { revision: Revision(revision), id, cluster: ClusterId(1), news: News::Deleted }
}

fn a_board(revision: i64, changes: Vec<Change>) -> Board {
    let mut board = Board::empty();
    board.load(Revision(0), Revision(revision), changes);
    board
}

fn since(revision: i64) -> Start {
    Start { since: Some(Revision(revision)), ..Start::default() }
}

/// As in `2:task a`: the revision, the type, and the task or its id.
fn brief(told: &Told) -> String {
    let message: Value = serde_json::from_str(told.text.as_str()).unwrap();
    assert_eq!(message["revision"], told.revision.0);
    let what = match message["type"].as_str().unwrap() {
        "task" => format!(" {}", message["task"].as_str().unwrap()),
        "deleted" => format!(" {}", message["task_id"]),
        _ => String::new(),
    };
    format!("{}:{}{what}", told.revision, message["type"].as_str().unwrap())
}

fn all(board: &Board, cursor: &mut Cursor) -> Vec<String> {
    board.take(cursor, usize::MAX).iter().map(brief).collect()
}

#[test]
fn what_is_there_is_told_first_then_what_changes() {
    let mut board = a_board(3, vec![a_task(1, 10, "a"), a_delete(2, 11), a_task(3, 12, "c")]);
    let mut cursor = board.start(Start::default());

    assert_eq!(all(&board, &mut cursor), ["1:task a", "3:task c", "3:synced"]);
    assert!(all(&board, &mut cursor).is_empty());
    board.apply(Revision(5), vec![a_task(4, 10, "b"), a_delete(5, 12)]);
    assert_eq!(all(&board, &mut cursor), ["4:task b", "5:deleted 12"]);
}

#[test]
fn whoever_was_here_is_told_what_changed_since() {
    let board = a_board(3, vec![a_task(1, 10, "a"), a_delete(2, 11), a_task(3, 12, "c")]);

    assert_eq!(all(&board, &mut board.start(since(1))), ["2:deleted 11", "3:task c", "3:synced"]);
    assert_eq!(all(&board, &mut board.start(since(3))), ["3:synced"]);
}

#[test]
fn who_knows_too_little_or_too_much_starts_over() {
    let mut board = Board::empty();
    board.load(Revision(2), Revision(3), vec![a_task(1, 10, "a"), a_task(3, 12, "c")]);

    for revision in [0, 1, 4] {
        let told = all(&board, &mut board.start(since(revision)));
        assert_eq!(told, ["0:reset", "1:task a", "3:task c", "3:synced"], "{revision}");
    }
    assert_eq!(all(&board, &mut board.start(since(2))), ["3:task c", "3:synced"]);
}

#[test]
fn a_break_within_a_transaction_loses_none_of_it() {
    let board = a_board(5, vec![a_task(5, 10, "a"), a_task(5, 11, "b"), a_task(5, 12, "c")]);
    let mut cursor = board.start(Start::default());

    let first = board.take(&mut cursor, 1);

    assert_eq!(first.iter().map(brief).collect::<Vec<_>>(), ["4:task a"]);
    assert_eq!(cursor.revision(), Revision(4));
    let again = all(&board, &mut board.start(since(4)));
    assert_eq!(again, ["4:task a", "4:task b", "5:task c", "5:synced"]);
}

#[test]
fn who_is_behind_gets_the_newest_state_once() {
    let mut board = a_board(1, vec![a_task(1, 10, "a")]);
    let mut cursor = board.start(Start::default());
    all(&board, &mut cursor);

    for revision in 2..1000 {
        board.apply(Revision(revision), vec![a_task(revision, 10, &format!("{revision}"))]);
    }

    assert_eq!(all(&board, &mut cursor), ["999:task 999"]);
    assert_eq!(board.entries.len(), 1);
}

#[test]
fn only_what_was_asked_for_is_told_and_deletes_of_what_nobody_knew() {
    let mut board = a_board(2, vec![a_task(1, 10, "even"), a_task(2, 11, "odd")]);
    let filter = Filter { template_id: Some(TemplateId(1)), cluster_id: None };
    let mut cursor = board.start(Start { filter, since: None });

    assert_eq!(all(&board, &mut cursor), ["2:task odd", "2:synced"]);
    board.apply(Revision(5), vec![a_delete(3, 10), a_delete(4, 11), a_delete(5, 99)]);
    assert_eq!(all(&board, &mut cursor), ["4:deleted 11", "5:deleted 99"]);
    let filter = Filter { template_id: None, cluster_id: Some(ClusterId(2)) };
    assert_eq!(all(&board, &mut board.start(Start { filter, since: None })), ["5:synced"]);
}

#[test]
fn what_is_missing_from_a_new_look_is_told_as_deleted() {
    let mut board = a_board(2, vec![a_task(1, 10, "a"), a_task(2, 11, "b")]);
    let mut cursor = board.start(Start::default());
    all(&board, &mut cursor);

    board.load(Revision(4), Revision(4), vec![a_task(1, 10, "a"), a_task(3, 12, "c")]);

    assert_eq!(all(&board, &mut cursor), ["3:task c", "4:deleted 11"]);
    let told = all(&board, &mut board.start(Start::default()));
    assert_eq!(told, ["1:task a", "3:task c", "4:synced"]);
}

#[test]
fn tables_from_before_make_everybody_start_over() {
    let mut board = a_board(9, vec![a_task(8, 10, "a"), a_task(9, 11, "b")]);
    let mut cursor = board.start(Start::default());
    all(&board, &mut cursor);

    board.load(Revision(0), Revision(5), vec![a_task(5, 10, "old")]);

    assert_eq!(all(&board, &mut cursor), ["0:reset", "5:task old", "5:synced"]);
}

#[test]
fn deletes_are_remembered_in_proportion_and_who_missed_some_starts_over() {
    let tasks = (1..=10).map(|id| a_task(id, id, "a")).collect();
    let mut board = a_board(10, tasks);
    let mut slow = board.start(Start::default());
    let mut quick = board.start(Start::default());
    all(&board, &mut slow);
    all(&board, &mut quick);

    let mut deletes = 0;
    for revision in 11..5011 {
        board.apply(Revision(revision), vec![a_delete(revision, revision)]);
        if revision % 100 == 10 {
            deletes += all(&board, &mut quick).len();
        }
    }

    assert!(board.entries.len() <= 2 * DELETES, "{}", board.entries.len());
    assert_eq!(board.entries.len(), board.places.len());
    assert_eq!(deletes, 5000);
    let told = all(&board, &mut slow);
    assert_eq!((told[0].as_str(), told.len()), ("0:reset", 12));
}

/// Whatever happens, and however slowly and with whatever breaks one reads: who was told everything
/// knows exactly what there is.
#[test]
fn every_watcher_ends_up_knowing_what_there_is() {
    for seed in 0..100 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut there: BTreeMap<i64, String> = BTreeMap::new();
        let mut revision = 0;
        let mut board = a_board(0, Vec::new());
        let mut watchers: Vec<(Cursor, BTreeMap<i64, String>, i64)> =
            (0..4).map(|_| (board.start(Start::default()), BTreeMap::new(), 0)).collect();
        let mut steps = 0;
        loop {
            let ending = steps > 200;
            steps += 1;
            if !ending {
                revision += 1;
                let mut changes = BTreeMap::new();
                for _ in 0..random.random_range(1..5) {
                    let id = random.random_range(1..12);
                    if random.random_bool(0.3) && there.remove(&id).is_some() {
                        changes.insert(id, a_delete(revision, id));
                    } else if let Entry::Vacant(change) = changes.entry(id) {
                        let state = format!("{id}/{revision}");
                        change.insert(a_task(revision, id, &state));
                        there.insert(id, state);
                    }
                }
                board.apply(Revision(revision), changes.into_values().collect());
            }
            let mut behind = false;
            for (cursor, known, last) in &mut watchers {
                if !ending && random.random_bool(0.1) {
                    *cursor = board.start(since(*last));
                }
                let limit = random.random_range(1..4);
                for told in board.take(cursor, limit) {
                    behind = true;
                    *last = told.revision.0;
                    let message: Value = serde_json::from_str(told.text.as_str()).unwrap();
                    match message["type"].as_str().unwrap() {
                        "task" => {
                            let state = message["task"].as_str().unwrap().to_owned();
                            let id = state.split('/').next().unwrap().parse().unwrap();
                            known.insert(id, state);
                        }
                        "deleted" => drop(known.remove(&message["task_id"].as_i64().unwrap())),
                        "reset" => known.clear(),
                        _ => {}
                    }
                }
            }
            if ending && !behind {
                break;
            }
        }
        for (_, known, last) in watchers {
            assert_eq!(known, there, "seed {seed}");
            assert_eq!(last, revision, "seed {seed}");
        }
    }
}
