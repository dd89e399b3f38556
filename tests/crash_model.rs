//! The crash model: a small world, a proxmove that may die after any call, operators who give a move up half-way or take
//! it over from one another, colleagues who meddle, and the real functions `derive`, `next` and `back` deciding. Whatever
//! the schedule, no write is lost and never do two copies run.
//!
//! One tick is one call of proxmove (or one of the world's events), so that anything may happen between what was
//! observed and what is done. Taken as one, because the program does them right after one another: looking once more
//! (also who holds the claim) and starting the target, beginning a pass, writing the mark at the end, or taking a step
//! back; reading the source's name and renaming it (bound by a digest). A proxmove whose claim was taken makes the one call
//! it had decided on, and no more; while that is a pass over the volume, the volume is locked to others.
//!
//! A task that starts or stops a guest may go on after the proxmove that began it has died, and end at any time.
//!
//! A pass takes the proof of an earlier one with it: that of files when it begins, that of ZFS when it has ended. Both
//! are tried.

use proptest::prelude::*;
use proxmove::plan::abort::{Back, Before, Placeholder, StepBack, back};
use proxmove::plan::mark::NameMark;
use proxmove::plan::state::{Data, Facts, Rung, Seen, derive};
use proxmove::plan::step::{Step, Wishes, next};
use proxmove::pve::guest::Power;

/// Schedules tried of each property, others at each run; together with the length below some 2.5 million ticks, in seconds.
/// `PROPTEST_CASES=10000000` tries more.
const SCHEDULES: u32 = 40_000;
const LONGEST: usize = 120;

#[derive(Clone, Copy, Debug)]
enum Event {
    /// Proxmove makes its next call; `doubled` repeats it at once, as a lost answer would.
    Tick { doubled: bool },
    /// Proxmove dies; a new one starts at the next tick, and either moves or walks back.
    Crash { abort: bool },
    /// Proxmove dies right after its next call. When that begins a task that starts or stops a guest, the task goes on.
    DiesInTask { abort: bool },
    /// Tasks that start or stop guests come to their end.
    TasksEnd,
    /// Another operator takes the move over while proxmove is at it, and either moves or walks back.
    TakenOver { abort: bool },
    /// The proxmove that was taken over from makes the call it had decided on.
    StaleTick,
    /// Whatever runs writes.
    GuestWrites,
    /// A colleague starts the source, because the guest is down and the target does not run.
    SourceRevived,
    /// A colleague starts the former self that a way back is to go to, because the guest is down.
    FormerRevived,
    /// A colleague (or the guest itself) stops what runs.
    GuestStops,
    /// The source node reboots.
    SourceNodeReboots,
    /// The target node reboots.
    TargetNodeReboots,
}

#[derive(Clone, Debug)]
struct Guest {
    name: NameMark,
    running: bool,
    /// A task that is starting (`true`) or stopping it.
    task: Option<bool>,
    onboot: bool,
    /// Counts writes to its disk.
    writes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Seal {
    source_writes: u64,
    target_writes: u64,
}

#[derive(Clone, Debug)]
struct World {
    source: Guest,
    target: Option<Guest>,
    marked: bool,
    attached: bool,
    /// Whether the mark says that only tidying is left.
    finishing: bool,
    tidied: bool,
    /// The source's write counter whose content the target's volume holds, when a pass was completed.
    copied: Option<u64>,
    seal: Option<Seal>,
    ever_started: bool,
    /// Whether the former self runs because a colleague started it while it was retired.
    revived: bool,
    /// Counts the copies that were thrown away: a pass into one of them is a pass into nothing.
    generation: u32,
    /// How the source was before.
    before: (bool, bool),
    /// Whether the target is the guest's former self.
    back: bool,
    /// Whether the volumes are those of ZFS.
    zfs: bool,
}

/// How a schedule begins.
#[derive(Clone, Copy, Debug)]
struct Start {
    running: bool,
    onboot: bool,
    /// Whether the target is the guest's former self.
    back: bool,
    /// Whether the volumes are those of ZFS.
    zfs: bool,
}

impl World {
    /// Returns a world in which nothing has begun; on a way `back` the target is there already, retired, with its drives
    /// and what it held when it was.
    fn new(start: Start) -> World {
        let Start {
            running,
            onboot,
            back,
            zfs,
        } = start;
        let source = Guest {
            name: NameMark::Plain,
            running,
            task: None,
            onboot,
            writes: 0,
        };
        let (marked, attached, ever_started) = (false, back, false);
        let former = Guest {
            name: NameMark::Migrated,
            running: false,
            task: None,
            onboot: false,
            writes: 0,
        };
        World {
            source,
            target: back.then_some(former),
            marked,
            attached,
            finishing: false,
            tidied: false,
            // What it holds is nothing anybody may rely on.
            copied: back.then_some(u64::MAX),
            seal: None,
            ever_started,
            revived: false,
            generation: 0,
            before: (running, onboot),
            back,
            zfs,
        }
    }

    /// A former self keeps the mark of a way back that was given up, and its own name says that it was.
    fn is_under_way(&self) -> bool {
        let target = self.target.as_ref();
        self.marked && target.is_some_and(|target| target.name != NameMark::Migrated)
    }

    fn observe(&self) -> Facts {
        let seen = |guest: &Guest| Seen {
            name: guest.name,
            power: if guest.running {
                Power::Running
            } else {
                Power::Stopped
            },
            changing: guest.task.is_some(),
        };
        let target_writes = self.target.as_ref().map_or(0, |target| target.writes);
        let data = match (self.copied, self.seal) {
            // With its snapshots gone, a volume of ZFS that the move's notes name is one that was never complete.
            _ if self.tidied && self.zfs => Data::Partial,
            _ if self.tidied => Data::Unjudged,
            (None, _) => Data::Missing,
            (Some(_), None) => Data::Partial,
            (Some(_), Some(seal)) if seal.source_writes != self.source.writes => Data::SourceNewer,
            (Some(_), Some(seal)) if seal.target_writes != target_writes => Data::TargetNewer,
            (Some(_), Some(_)) => Data::Equal,
        };
        Facts {
            source: Some(seen(&self.source)),
            target: self
                .target
                .as_ref()
                .filter(|_| self.is_under_way())
                .map(seen),
            data: vec![data],
            attached: self.attached,
            finishing: self.finishing,
        }
    }
}

/// Proxmove between two calls.
#[derive(Clone, Debug)]
enum Running {
    Observing,
    Doing(Step),
    Undoing(StepBack),
    /// A pass began when the source's write counter was this.
    Passing {
        last: bool,
        began: u64,
        generation: u32,
    },
    /// The mark says that our own files go.
    Finishing,
    /// Our own files are gone, the mark is not.
    Tidying,
}

#[derive(Clone)]
struct Proxmove {
    at: Running,
    rounds: u32,
    wishes: Wishes,
    abort: bool,
    discarded: bool,
    /// Whether the claim is still its own.
    claimed: bool,
}

impl Proxmove {
    fn new(wishes: Wishes, abort: bool) -> Proxmove {
        Proxmove {
            at: Running::Observing,
            rounds: 0,
            wishes,
            abort,
            discarded: false,
            claimed: true,
        }
    }

    /// Makes one call that may begin a task, and does not see its end.
    fn die_in_task(&mut self, world: &mut World) {
        match self.at {
            Running::Doing(Step::StopSource) if world.source.running => {
                world.source.task = Some(false);
            }
            Running::Doing(Step::StartTarget) => {
                if self.claimed
                    && may_start_target(world)
                    && let Some(target) = world.target.as_mut()
                {
                    target.task = Some(true);
                }
            }
            Running::Undoing(StepBack::StartSource) if self.claimed && may_start_source(world) => {
                world.source.task = Some(true);
            }
            _ => self.tick(world),
        }
    }

    /// Makes one call.
    fn tick(&mut self, world: &mut World) {
        self.at = match self.at.clone() {
            Running::Observing if self.abort => {
                let before = Before {
                    start: world.before.0,
                    discarded: self.discarded,
                    placeholder: match world.back {
                        true => Placeholder::Shelved,
                        false => Placeholder::Removed,
                    },
                };
                match back(&world.observe(), before) {
                    Back::Step(step) => Running::Undoing(step),
                    Back::Done | Back::Refuse { .. } => Running::Observing,
                }
            }
            Running::Observing => {
                let rung = derive(&world.observe());
                match next(&rung, self.wishes) {
                    Some(Step::StopSource) if self.rounds == 0 => Running::Doing(Step::Precopy),
                    Some(step) => Running::Doing(step),
                    None => Running::Observing,
                }
            }
            Running::Doing(step) => self.call(step, world),
            Running::Undoing(step) => {
                self.undo(step, world);
                Running::Observing
            }
            Running::Passing {
                last,
                began,
                generation,
            } => {
                if world.target.is_some() && generation == world.generation {
                    let torn = began != world.source.writes;
                    let target_writes = world.target.as_ref().map_or(0, |target| target.writes);
                    if !torn {
                        // Also a pre-copy that nothing was written under holds the source as it is, but seals nothing.
                        world.copied = Some(began);
                        world.seal = last.then_some(Seal {
                            source_writes: began,
                            target_writes,
                        });
                    } else {
                        // A torn copy holds nothing anybody may rely on.
                        world.copied = Some(u64::MAX);
                        world.seal = None;
                    }
                }
                self.rounds += 1;
                Running::Observing
            }
            Running::Finishing => {
                world.tidied = true;
                Running::Tidying
            }
            Running::Tidying => {
                // The mark and onboot go in one call, which is refused to whoever lost the claim.
                if self.claimed {
                    world.marked = false;
                    if let Some(target) = world.target.as_mut() {
                        target.onboot = true;
                    }
                }
                Running::Observing
            }
        };
    }

    fn pass(&self, last: bool, world: &mut World) -> Running {
        // Who holds the claim is looked at right before.
        if !self.claimed {
            return Running::Observing;
        }
        if !world.zfs {
            world.seal = None;
        }
        Running::Passing {
            last,
            began: world.source.writes,
            generation: world.generation,
        }
    }

    fn call(&mut self, step: Step, world: &mut World) -> Running {
        match step {
            Step::AwaitTask => end_tasks(world),
            Step::Place => {
                if world.target.is_none() {
                    let (name, running, onboot) = (NameMark::Creating, false, false);
                    world.target = Some(Guest {
                        name,
                        running,
                        task: None,
                        onboot,
                        writes: 0,
                    });
                    world.marked = true;
                } else if let Some(former) = world
                    .target
                    .as_mut()
                    .filter(|target| target.name == NameMark::Migrated && !target.running)
                    // Of files that a way back which was given up has written to, nothing tells whether they were used.
                    .filter(|target| target.writes == 0 || (world.marked && !world.zfs))
                {
                    // Name, mark and drives go in one call; one that somebody uses or used is left alone.
                    former.name = NameMark::Creating;
                    world.marked = true;
                    world.attached = false;
                    if !world.zfs {
                        // What proxmove's own files say of it is from before.
                        (world.copied, world.seal) = (Some(u64::MAX), None);
                    }
                }
            }
            Step::Precopy => return self.pass(false, world),
            Step::StopSource => world.source.running = false,
            Step::MarkSource => {
                if world.source.name == NameMark::Plain {
                    world.source.name = NameMark::Cloning;
                    world.source.onboot = false;
                }
            }
            Step::FinalDelta => return self.pass(true, world),
            Step::Attach => world.attached = world.target.is_some(),
            Step::NameTarget => rename(world.target.as_mut(), NameMark::Plain),
            Step::RetireSource => {
                if world.source.name == NameMark::Cloning {
                    world.source.name = NameMark::Migrated;
                    world.source.onboot = false;
                }
            }
            Step::StartTarget => {
                if self.claimed {
                    start_target(world);
                }
            }
            Step::Tidy => {
                // In one call with who holds the claim, as it is in the same notes.
                if !self.claimed {
                    return Running::Observing;
                }
                world.finishing = true;
                return Running::Finishing;
            }
        }
        Running::Observing
    }

    fn undo(&mut self, step: StepBack, world: &mut World) {
        // Who holds the claim is looked at right before each step back; what remains is said in docs/GUARANTEES.rst.
        if !self.claimed {
            return;
        }
        match step {
            StepBack::AwaitTask => end_tasks(world),
            StepBack::UnretireSource => {
                if world.source.name == NameMark::Migrated {
                    world.source.name = NameMark::Cloning;
                }
            }
            StepBack::UnnameTarget => rename(world.target.as_mut(), NameMark::Creating),
            StepBack::RestoreSource => {
                if world.source.name == NameMark::Cloning {
                    world.source.name = NameMark::Plain;
                    world.source.onboot = world.before.1;
                }
            }
            StepBack::StartSource => world.source.running |= may_start_source(world),
            StepBack::Discard => {
                assert_ne!(
                    world.source.name,
                    NameMark::Migrated,
                    "removed what was left"
                );
                throw_away(world);
                self.discarded = true;
            }
            StepBack::Remove => {
                throw_away(world);
                world.target = None;
                (world.marked, world.attached) = (false, false);
                (world.finishing, world.tidied) = (false, false);
                world.ever_started = false;
            }
            // Name, onboot and notes in one call; the mark stays in them. Nothing of its volumes is touched.
            StepBack::Shelve => {
                let former = world.target.as_mut();
                let former = former.filter(|former| {
                    former.name == NameMark::Creating
                        && !former.running
                        && world.source.name == NameMark::Plain
                });
                if let Some(former) = former {
                    (former.name, former.onboot) = (NameMark::Migrated, false);
                    world.ever_started = false;
                }
            }
        }
    }
}

fn throw_away(world: &mut World) {
    if let Some(target) = &world.target {
        assert!(!target.running, "removed a running guest");
        assert_eq!(target.writes, 0, "a write was lost");
    }
    (world.copied, world.seal) = (None, None);
    world.generation += 1;
}

fn rename(guest: Option<&mut Guest>, name: NameMark) {
    if let Some(guest) = guest {
        guest.name = name;
    }
}

/// The target is looked at once more, together with the start of the source.
fn may_start_source(world: &World) -> bool {
    let rests = world.target.as_ref().is_some_and(|target| !target.running);
    rests && world.source.name == NameMark::Plain
}

fn may_start_target(world: &World) -> bool {
    // What the decision was made on is looked at once more, together with the start.
    derive(&world.observe()) == Rung::SwitchedOver
}

fn start_target(world: &mut World) {
    if may_start_target(world) {
        run_target(world);
    }
}

fn run_target(world: &mut World) {
    let Some(target) = world.target.as_mut() else {
        return;
    };
    assert!(world.attached, "started without its drives");
    if !world.ever_started {
        assert_eq!(world.copied, Some(world.source.writes), "a write was lost");
    }
    target.running = true;
    world.ever_started = true;
}

/// Lets the tasks that start or stop guests come to their end.
fn end_tasks(world: &mut World) {
    if let Some(runs) = world.source.task.take() {
        world.source.running = runs;
    }
    let of_target = world.target.as_mut().and_then(|target| target.task.take());
    if of_target == Some(true) {
        run_target(world);
    }
}

fn happen(event: Event, world: &mut World) {
    let target_runs = world.target.as_ref().is_some_and(|target| target.running);
    let target_starts = world
        .target
        .as_ref()
        .is_some_and(|target| target.task.is_some());
    match event {
        Event::Tick { .. }
        | Event::Crash { .. }
        | Event::DiesInTask { .. }
        | Event::TakenOver { .. }
        | Event::StaleTick => {}
        Event::TasksEnd => end_tasks(world),
        Event::GuestWrites => {
            world.source.writes += u64::from(world.source.running);
            if let Some(target) = world.target.as_mut() {
                target.writes += u64::from(target.running);
            }
        }
        Event::SourceRevived => {
            world.source.running |= !target_runs && !target_starts && !world.ever_started;
        }
        Event::FormerRevived => {
            let down = !world.source.running;
            if let Some(target) = world.target.as_mut()
                && down
                && target.name == NameMark::Migrated
            {
                (target.running, world.revived) = (true, true);
            }
        }
        Event::GuestStops => {
            world.source.running = false;
            if let Some(target) = world.target.as_mut() {
                target.running = false;
            }
        }
        Event::SourceNodeReboots => {
            world.source.running = world.source.onboot;
            world.source.task = None;
        }
        Event::TargetNodeReboots => {
            if let Some(target) = world.target.as_mut() {
                target.task = None;
                target.running = target.onboot && world.ever_started;
            }
        }
    }
}

fn check(schedule: &[Event], start: Start, wishes: Wishes) -> (World, Rung) {
    let mut world = World::new(start);
    let mut proxmove = Proxmove::new(wishes, false);
    let mut stale: Option<Proxmove> = None;
    for event in schedule {
        match event {
            Event::Tick { .. } if is_busy(stale.as_ref(), &world) && needs_volume(&proxmove) => {
                proxmove.at = Running::Observing;
            }
            Event::Tick { doubled } => {
                let before = proxmove.at.clone();
                proxmove.tick(&mut world);
                if *doubled && matches!(before, Running::Doing(_) | Running::Undoing(_)) {
                    let after = std::mem::replace(&mut proxmove.at, before);
                    proxmove.tick(&mut world);
                    proxmove.at = after;
                }
            }
            Event::Crash { abort } => proxmove = Proxmove::new(wishes, *abort),
            Event::DiesInTask { abort } => {
                proxmove.die_in_task(&mut world);
                proxmove = Proxmove::new(wishes, *abort);
            }
            Event::TakenOver { abort } => {
                let mut former = std::mem::replace(&mut proxmove, Proxmove::new(wishes, *abort));
                former.claimed = false;
                stale = Some(former);
            }
            Event::StaleTick => {
                if let Some(mut former) = stale.take()
                    && !matches!(former.at, Running::Observing)
                {
                    former.tick(&mut world);
                }
            }
            _ => happen(*event, &mut world),
        }
        let target_runs = world.target.as_ref().is_some_and(|target| target.running);
        world.revived &= target_runs;
        // What colleagues do with a former self while no move of ours is under way is not ours to prevent.
        assert!(
            !(world.source.running && target_runs) || world.revived,
            "two copies run, after {event:?}"
        );
    }
    let rung = derive(&world.observe());
    (world, rung)
}

/// A pass of somebody else holds the lock of the volume; it is refused to everybody else.
fn is_busy(stale: Option<&Proxmove>, world: &World) -> bool {
    stale.is_some_and(|former| match former.at {
        Running::Passing { generation, .. } => generation == world.generation,
        _ => false,
    })
}

fn needs_volume(proxmove: &Proxmove) -> bool {
    matches!(
        proxmove.at,
        Running::Doing(Step::Precopy | Step::FinalDelta) | Running::Undoing(StepBack::Discard)
    )
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => any::<bool>().prop_map(|doubled| Event::Tick { doubled }),
        2 => Just(Event::Crash { abort: false }),
        1 => Just(Event::Crash { abort: true }),
        1 => any::<bool>().prop_map(|abort| Event::DiesInTask { abort }),
        2 => Just(Event::TasksEnd),
        1 => any::<bool>().prop_map(|abort| Event::TakenOver { abort }),
        2 => Just(Event::StaleTick),
        3 => Just(Event::GuestWrites),
        1 => Just(Event::SourceRevived),
        1 => Just(Event::FormerRevived),
        1 => Just(Event::GuestStops),
        1 => Just(Event::SourceNodeReboots),
        1 => Just(Event::TargetNodeReboots),
    ]
}

/// Crashes, doubled calls and a guest that writes: what happens without anybody meddling.
fn quiet(abort: bool) -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => any::<bool>().prop_map(|doubled| Event::Tick { doubled }),
        1 => (0..2u8).prop_map(move |coin| Event::Crash { abort: abort && coin == 0 }),
        1 => (0..2u8).prop_map(move |coin| Event::DiesInTask { abort: abort && coin == 0 }),
        1 => Just(Event::GuestWrites)
    ]
}

fn schedules() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked
        .and_then(|asked| asked.parse().ok())
        .unwrap_or(SCHEDULES)
}

fn start() -> impl Strategy<Value = Start> {
    any::<(bool, bool, bool, bool)>().prop_map(|(running, onboot, back, zfs)| Start {
        running,
        onboot,
        back,
        zfs,
    })
}

/// A guest that runs, with its volumes in files.
const RUNNING: Start = Start {
    running: true,
    onboot: false,
    back: false,
    zfs: false,
};

proptest! {
    #![proptest_config(ProptestConfig {
        cases: schedules(),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_write_is_lost_and_never_two_copies_run(
        schedule in proptest::collection::vec(event(), 1..LONGEST),
        at in start(),
        start: bool,
    ) {
        check(&schedule, at, Wishes { start });
    }

    /// Without meddling colleagues every schedule of crashes, aborts half-way and doubled calls ends with the guest moved.
    #[test]
    fn crashes_alone_never_keep_a_move_from_ending(
        schedule in proptest::collection::vec(quiet(true), 1..LONGEST),
        at in start(),
    ) {
        let running = at.running;
        let mut schedule = schedule;
        schedule.push(Event::Crash { abort: false });
        schedule.extend([Event::Tick { doubled: false }; 60]);
        let (world, rung) = check(&schedule, at, Wishes { start: running });
        prop_assert_eq!(rung, Rung::Done);
        prop_assert_eq!(world.source.name, NameMark::Migrated);
        prop_assert!(!world.source.onboot && world.tidied);
        prop_assert_eq!(world.target.map(|target| (target.name, target.running)), Some((NameMark::Plain, running)));
    }

    /// Nor does anything keep an abort from bringing the source back, until the guest has run on the target: then nothing
    /// at all is changed by it.
    #[test]
    fn an_abort_brings_the_source_back_or_changes_nothing(
        schedule in proptest::collection::vec(quiet(true), 1..LONGEST),
        at in start(),
    ) {
        let Start { running, onboot, back, .. } = at;
        let wishes = Wishes { start: running };
        let (mut before, _) = check(&schedule, at, wishes);
        let under_way = before.target.as_ref().is_some_and(|target| target.task.is_some());
        if under_way {
            // A start that is under way is waited for, and is the end of all ways back.
            end_tasks(&mut before);
        }
        let moved = !before.is_under_way() && before.source.name == NameMark::Migrated;
        let mut schedule = schedule;
        schedule.push(Event::Crash { abort: true });
        schedule.extend([Event::Tick { doubled: false }; 30]);
        let (after, rung) = check(&schedule, at, wishes);
        if before.target.as_ref().is_some_and(|target| target.running) || before.finishing || moved {
            prop_assert_eq!(format!("{after:?}"), format!("{before:?}"));
        } else {
            prop_assert_eq!(after.source.name, NameMark::Plain);
            prop_assert_eq!((after.source.running, after.source.onboot), (running, onboot));
            if back {
                // A former self is never removed. It is retired again, as it was found, and may be gone back to.
                prop_assert!(!after.is_under_way());
                let former = after.target.map(|former| (former.name, former.running, former.onboot));
                prop_assert_eq!(former, Some((NameMark::Migrated, false, false)));
                prop_assert!(after.copied.is_some(), "its volumes were removed");
            } else {
                prop_assert_eq!(rung, Rung::Untouched);
                prop_assert!(after.target.is_none() && !after.marked);
            }
            prop_assert_eq!(after.source.writes, before.source.writes);
        }
    }
}

/// The model can fail: a ladder that retires the source before the final delta, and says that it is finishing, loses a
/// write, and this shows.
#[test]
#[should_panic(expected = "a write was lost")]
fn the_model_notices_a_lost_write() {
    let mut world = World::new(RUNNING);
    let mut proxmove = Proxmove::new(Wishes { start: true }, false);
    for step in [Step::Place, Step::Precopy] {
        proxmove.at = Running::Doing(step);
        proxmove.tick(&mut world);
    }
    proxmove.tick(&mut world);
    happen(Event::GuestWrites, &mut world);
    for step in [
        Step::StopSource,
        Step::MarkSource,
        Step::Attach,
        Step::NameTarget,
        Step::RetireSource,
        Step::StartTarget,
    ] {
        world.finishing = step == Step::StartTarget;
        proxmove.at = Running::Doing(step);
        proxmove.tick(&mut world);
    }
}

/// And a way back that throws away what the guest wrote on the target is noticed as well.
#[test]
#[should_panic(expected = "a write was lost")]
fn the_model_notices_a_write_that_is_thrown_away() {
    let wishes = Wishes { start: true };
    let (mut world, _) = check(&[Event::Tick { doubled: false }; 40], RUNNING, wishes);
    happen(Event::GuestWrites, &mut world);
    happen(Event::GuestStops, &mut world);
    let mut proxmove = Proxmove::new(wishes, true);
    proxmove.at = Running::Undoing(StepBack::Remove);
    proxmove.tick(&mut world);
}
