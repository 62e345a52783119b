//! Runs the golden scripts of `scripts/`. After each command all invariants are checked, and a machine made from the
//! stored records must equal the one that lived through the script.
//!
//! `UPDATE_GOLDENFILES=1 cargo nextest run --release -p moso-queue scripts` writes the output anew: read the
//! difference before you commit it.

use crate::language::{Command, submission};
use crate::print;
use crate::store::{SHARD, Store};
use moso_queue::command::{self, EntryBuilder, Reply, Submit, Target};
use moso_queue::{Effects, Machine, check};
use std::error::Error;

/// Times in scripts count from here: far from zero, which means "never" in records.
pub const START_MS: u64 = 1_000_000_000;

struct Shard {
    machine: Machine,
    store: Store,
    now_ms: u64,
    submissions: u64,
}

impl Default for Shard {
    fn default() -> Self {
        let (machine, mut store) = (Machine::new(SHARD), Store::default());
        store.write(&machine, &Effects::default());
        Shard { machine, store, now_ms: START_MS, submissions: 0 }
    }
}

impl Shard {
    fn apply(&mut self, command: &command::Command) -> Result<(Reply, Effects), Box<dyn Error>> {
        let mut entry = EntryBuilder::default();
        entry.push_command(command);
        let (mut effects, mut replies) = (Effects::default(), Vec::new());
        self.machine.apply(entry.finish(self.now_ms), &mut effects, &mut replies)?;
        self.store.write(&self.machine, &effects);
        Ok((replies.remove(0), effects))
    }

    fn verify(&self) -> Result<(), Box<dyn Error>> {
        check::check(&self.machine)?;
        self.store.check_bodies(&self.machine);
        let loaded = self.store.load();
        check::check(&loaded)?;
        if loaded.digest() != self.machine.digest() {
            return Err("a machine loaded from the records differs".into());
        }
        Ok(())
    }

    /// Many submissions of one job each, killed at once, to overflow what is remembered.
    fn flood(&mut self, count: u64) -> Result<String, Box<dyn Error>> {
        for _ in 0..count {
            self.submissions += 1;
            let submit =
                Submit { submission: submission(self.now_ms, self.submissions), array: 1, ..Submit::default() };
            let (reply, _) = self.apply(&command::Command::Submit(Box::new(submit)))?;
            let Reply::Submitted { task, .. } = reply else { return Err(format!("{reply:?}").into()) };
            self.apply(&command::Command::Act {
                action: command::Action::Kill(9),
                targets: vec![Target::Rest(task)],
                actor: "flood".into(),
            })?;
        }
        Ok(format!("{count} submissions\n{}", print::window(&self.machine)))
    }
}

impl goldenscript::Runner for Shard {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &goldenscript::Context) -> Result<String, Box<dyn Error>> {
        let out = match command {
            Command::At { time } => {
                self.now_ms = time.0;
                String::new()
            }
            Command::Show => print::show(&self.machine),
            Command::Flood { count } => self.flood(*count)?,
            command => {
                self.submissions += 1;
                let command = command.build(&self.machine, self.now_ms, self.submissions)?;
                let (reply, effects) = self.apply(&command)?;
                print::reply(&reply) + &print::effects(&self.machine, &effects)
            }
        };
        self.verify().map_err(|error| format!("{error}\nafter:\n{out}"))?;
        Ok(out)
    }
}

#[test]
fn scripts() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "txt"));
    paths.sort();
    assert!(!paths.is_empty(), "no scripts in {folder}");
    for path in paths {
        println!("{}", path.display());
        goldenscript::run(&mut Shard::default(), &path).unwrap();
    }
}
