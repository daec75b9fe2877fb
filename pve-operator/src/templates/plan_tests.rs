//! Every pair of what a row can say and what PVE can show, played to its end in a small world.

use super::*;

/// PVE as far as one instance sees it.
#[derive(Clone, Copy, Debug)]
struct World {
    guest: Guest,
    file: File,
    running: Option<Act>,
    /// Guests that carry our marker, seen from above.
    made: u32,
}

fn booleans() -> [bool; 2] {
    [false, true]
}

fn guests() -> Vec<Guest> {
    let mut all = vec![Guest::Absent, Guest::Stranger, Guest::Husk];
    for at_home in booleans() {
        for template in booleans() {
            for disk in [Disk::None, Disk::Plain, Disk::Base] {
                for has_unused in booleans() {
                    let ours = Ours { at_home, locked: false, template, disk, has_unused };
                    all.push(Guest::Ours(ours));
                }
            }
        }
    }
    all
}

fn wishes() -> Vec<Wish> {
    let mut all = Vec::new();
    let acts = [None].into_iter().chain(Act::ALL.map(Some));
    for unanswered in acts {
        for &desired in Desired::ALL {
            for &status in InstanceStatus::ALL {
                for bits in 0..64_u8 {
                    let bit = |n: u8| bits & (1 << n) != 0;
                    all.push(Wish {
                        desired,
                        status,
                        fresh: bit(0),
                        cancelled: bit(1),
                        numbered: bit(2),
                        unanswered,
                        new_shell: bit(3),
                        wrong_file: bit(4),
                        has_base: bit(5),
                    });
                }
            }
        }
    }
    all
}

/// Why a row is not looked at again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Settled,
    Lost,
    Moved,
    Gone,
}

/// Does what `plan` says until it says that nothing is left to do.
fn play(mut wish: Wish, mut world: World) -> (End, Wish, World) {
    for _ in 0..40 {
        let task = world.running.map_or(Task::None, Task::Running);
        let seen = Seen { node: Node::Ready, task, guest: world.guest, file: world.file };
        match plan(&wish, &seen) {
            Step::Settle => return (End::Settled, wish, world),
            Step::Lost => return (End::Lost, wish, world),
            Step::Moved => return (End::Moved, wish, world),
            Step::Gone => return (End::Gone, wish, world),
            Step::Begin => {
                wish = Wish {
                    fresh: false,
                    cancelled: false,
                    new_shell: false,
                    wrong_file: false,
                    status: InstanceStatus::Pending,
                    ..wish
                };
            }
            Step::Wait(Why::Task) => end_task(&mut wish, &mut world),
            // The time for it runs out.
            Step::Wait(Why::Answer(_)) => wish.unanswered = None,
            Step::Wait(why) => panic!("nothing ends {why:?} here"),
            Step::Reserve => wish.numbered = true,
            Step::Renumber { .. } => {
                assert!(matches!(world.guest, Guest::Stranger | Guest::Husk));
                world.guest = Guest::Absent; // at the new number
            }
            Step::Stop => world.running = None,
            Step::Ask(act) => {
                assert_eq!(world.running, None, "one thing at a time: {wish:?}");
                check_ask(act, &world);
                wish.unanswered = None;
                world.running = Some(act);
            }
            Step::Publish => {
                let Guest::Ours(guest) = world.guest else { panic!("published without a guest") };
                assert!(guest.template && guest.disk != Disk::None && !guest.has_unused);
                wish.status = InstanceStatus::Available;
            }
            Step::Cancelled => {
                wish.status = InstanceStatus::Failed;
                wish.cancelled = true;
            }
        }
    }
    panic!("no end for {wish:?} in {world:?}");
}

/// PVE would refuse, or we would harm: neither may ever be asked.
fn check_ask(act: Act, world: &World) {
    match act {
        Act::Fetch => assert_eq!(world.file, File::Absent, "a file would be overwritten"),
        Act::Shell => assert_eq!(world.guest, Guest::Absent, "the number is taken"),
        Act::RemoveFile => assert_ne!(world.file, File::Absent),
        Act::Import | Act::Convert | Act::Destroy => {
            assert!(matches!(world.guest, Guest::Ours(_)), "{act:?} of a guest that is not ours");
        }
    }
}

fn end_task(wish: &mut Wish, world: &mut World) {
    let Some(act) = world.running.take() else { panic!("nothing runs") };
    wish.unanswered = None;
    let new =
        Ours { at_home: true, locked: false, template: false, disk: Disk::None, has_unused: false };
    match act {
        Act::Fetch => {
            world.file = File::Whole;
            wish.wrong_file = false;
        }
        Act::Shell => {
            world.guest = Guest::Ours(new);
            world.made += 1;
            wish.new_shell = true;
        }
        Act::Import => {
            if let Guest::Ours(guest) = &mut world.guest {
                guest.has_unused |= guest.disk != Disk::None;
                guest.disk = Disk::Plain;
            }
        }
        Act::Convert => {
            if let Guest::Ours(guest) = &mut world.guest {
                guest.template = true;
                if wish.has_base && guest.disk == Disk::Plain {
                    guest.disk = Disk::Base;
                }
            }
        }
        Act::Destroy => {
            if let Guest::Ours(_) = world.guest {
                world.made -= 1;
                world.guest = Guest::Absent;
            }
            wish.new_shell = false;
        }
        Act::RemoveFile => {
            world.file = File::Absent;
            wish.wrong_file = false;
        }
    }
}

/// Tasks that can be found running in a world, as PVE would have let them begin.
fn running_in(guest: Guest) -> Vec<Option<Act>> {
    let mut acts = vec![None, Some(Act::RemoveFile), Some(Act::Fetch)];
    match guest {
        Guest::Ours(_) => acts.extend([Act::Import, Act::Convert, Act::Destroy].map(Some)),
        Guest::Absent => acts.push(Some(Act::Shell)),
        Guest::Stranger | Guest::Husk => {}
    }
    acts
}

fn every_pair(mut check: impl FnMut(Wish, World)) {
    for wish in wishes() {
        for guest in guests() {
            for file in [File::Absent, File::Whole, File::Damaged] {
                for running in running_in(guest) {
                    let made = u32::from(matches!(guest, Guest::Ours(_)));
                    check(wish, World { guest, file, running, made });
                }
            }
        }
    }
}

/// B04, B19: from wherever a crash leaves things, the end is one template, or an explained stop.
#[test]
fn every_pair_of_row_and_pve_comes_to_an_end() {
    let mut pairs = 0_u32;
    every_pair(|wish, world| {
        pairs += 1;
        let (end, last, at_last) = play(wish, world);
        let told = format!("{wish:?} in {world:?}: {end:?}, {at_last:?}");
        assert!(at_last.made <= 1, "a second guest: {told}");
        if world.guest == Guest::Stranger && wish.desired != Desired::Available {
            assert_eq!(at_last.guest, Guest::Stranger, "a stranger's guest: {told}");
        }
        match (wish.desired, end) {
            (Desired::Available, End::Settled) if last.status == InstanceStatus::Available => {}
            (Desired::Available, End::Lost | End::Moved) | (Desired::Absent, End::Gone) => {}
            // It had failed, or is on its way out, and nobody wants it again.
            (Desired::Available, End::Settled) => {
                assert_eq!(last.status, wish.status, "{told}");
                assert!(!wish.fresh, "{told}");
                if wish.status == InstanceStatus::Failed && wish.numbered {
                    let template =
                        matches!(at_last.guest, Guest::Ours(Ours { template: true, .. }));
                    assert!(at_last.made == 0 || template, "half a guest: {told}");
                    assert_eq!(at_last.file, File::Absent, "{told}");
                }
            }
            (Desired::Cancelled, End::Settled) => {
                let left = wish.status == InstanceStatus::Available || wish.cancelled;
                assert!(left || last.cancelled, "{told}");
            }
            (Desired::Absent, End::Settled) => assert_eq!(wish.status, InstanceStatus::Deleted),
            (_, end) => panic!("{told} ends as {end:?}"),
        }
    });
    assert!(pairs > 1_000_000, "{pairs} pairs");
}

/// What was cancelled or deleted leaves nothing of ours, if it ever got as far as a number.
#[test]
fn what_is_taken_away_leaves_nothing() {
    every_pair(|wish, world| {
        let taken = match wish.desired {
            Desired::Available => false,
            Desired::Cancelled => !wish.cancelled && wish.status != InstanceStatus::Available,
            Desired::Absent => wish.status != InstanceStatus::Deleted,
        };
        if taken && wish.numbered {
            let (_, _, at_last) = play(wish, world);
            assert_eq!(at_last.made, 0, "{wish:?} in {world:?}");
            assert_eq!(at_last.file, File::Absent, "{wish:?} in {world:?}");
        }
    });
}

fn making() -> Wish {
    Wish {
        desired: Desired::Available,
        status: InstanceStatus::Syncing,
        fresh: false,
        cancelled: false,
        numbered: true,
        unanswered: None,
        new_shell: false,
        wrong_file: false,
        has_base: true,
    }
}

fn empty() -> Seen {
    Seen { node: Node::Ready, task: Task::None, guest: Guest::Absent, file: File::Absent }
}

/// B17: without quorum, or without the node, nothing is begun and nothing deleted.
#[test]
fn nothing_is_begun_while_the_node_is_away_or_without_quorum() {
    for (node, why) in [(Node::Away, Why::Node), (Node::NoQuorum, Why::Quorum)] {
        for wish in wishes().into_iter().filter(|wish| wish.numbered) {
            for guest in guests() {
                let step = plan(&wish, &Seen { node, guest, ..empty() });
                assert!(
                    matches!(step, Step::Settle | Step::Begin) || step == Step::Wait(why),
                    "{step:?}"
                );
            }
        }
    }
}

/// B19: the answer to a create was lost and nothing is seen yet: it may still begin.
#[test]
fn a_lost_answer_is_waited_for_before_anything_is_asked_again() {
    for act in [Act::Shell, Act::Fetch] {
        let wish = Wish { unanswered: Some(act), ..making() };
        assert_eq!(plan(&wish, &empty()), Step::Wait(Why::Answer(act)));
    }
    let wish = Wish { unanswered: Some(Act::Fetch), ..making() };
    let there = Seen { file: File::Whole, ..empty() };
    assert_eq!(plan(&wish, &there), Step::Ask(Act::Shell), "seen, so it was begun");
}

/// B09: the number of a template that is to go has become somebody else's.
#[test]
fn a_stranger_under_our_number_is_left_alone() {
    let wish = Wish { desired: Desired::Absent, status: InstanceStatus::Available, ..making() };
    let seen = Seen { guest: Guest::Stranger, ..empty() };
    assert_eq!(plan(&wish, &seen), Step::Gone);
}

#[test]
fn a_half_made_template_is_finished_and_not_made_again() {
    let guest =
        Ours { at_home: true, locked: false, template: true, disk: Disk::Plain, has_unused: false };
    let seen = Seen { guest: Guest::Ours(guest), ..empty() };
    assert_eq!(plan(&making(), &seen), Step::Ask(Act::Convert));
    let thick = Wish { has_base: false, ..making() };
    assert_eq!(plan(&thick, &seen), Step::Publish, "LVM has no base images");
}
