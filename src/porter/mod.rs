//! The porter: the half of proxmove that runs on storage hosts, as plain stateless commands over SSH.
//!
//! ```text
//!  proxmove porter send ...      reads a volume, sends what the other side lacks     (source host)
//!  proxmove porter receive ...   says what it has, writes what it lacks              (target host)
//!  proxmove porter pour ...      runs a command, sends its output                    (source host)
//!  proxmove porter catch ...     runs a command, feeds it what was sent              (target host)
//!  proxmove porter observe ...   what is there of a target                           (target host)
//!  proxmove porter state ...     size and times of a source                          (source host)
//!  proxmove porter scan ...      the digests of a volume                             (both)
//!  proxmove porter discard ...   removes a target volume that is ours                (target host)
//!  proxmove porter tidy ...      removes our own files of a pair                     (both)
//! ```
//! Data goes over standard input and output, JSON lines for the operator over standard error. Plain threads, no async:
//! every arrow in `send.rs` and `receive.rs` is a bounded queue, so that a volume of any size takes the same memory. A
//! porter never asks an API, never decides what to move, never writes to a source, and touches no target that a
//! manifest of ours does not name. It needs no state from an earlier run but the manifest on the target.
//!
//! Read next: `chunk.rs`, `pages.rs` and `wire.rs` (the values), `send.rs`, `peer.rs`, `question.rs`, `receive.rs`,
//! `have.rs`, `answer.rs`, `write.rs` and `prove.rs` (a pass), `content.rs`, `target.rs`, `device.rs` and `qcow2.rs`
//! (volumes), `manifest.rs` and `seal.rs` (memory), `evict.rs` (a receiver that is not wanted any more), `pour.rs` and
//! `catch.rs` (the stream of a command), `direct.rs` (connecting host to host).

mod answer;
mod catch;
mod chunk;
mod content;
mod device;
mod direct;
mod error;
mod evict;
mod have;
mod manifest;
mod pace;
mod pages;
mod peer;
mod places;
mod pour;
mod program;
mod prove;
mod qcow2;
mod question;
mod receive;
mod scan;
mod seal;
mod send;
mod target;
mod tell;
#[cfg(test)]
mod tests;
mod wire;
mod write;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::PathBuf;

pub(crate) use chunk::CHUNK;
pub(crate) use chunk::hex;
pub(crate) use direct::{LONGEST_MESSAGE, SETUP, message};
pub(crate) use error::Report;
pub(crate) use pace::Bucket;
pub(crate) use places::Target;
pub(crate) use scan::SPAN;
pub(crate) use seal::SourceState;
pub(crate) use tell::{Counts, Line};

use device::Device;
use error::PorterError;
use places::Places;
use send::Outcome;
use tell::Teller;
use wire::{Layout, Purpose};

/// The name by which the direct route's ssh knows the target host, whatever its address is.
pub(crate) const TARGET_ALIAS: &str = "proxmove-target";

/// Runs a porter command (the arguments after `porter`) and returns its exit code: 0 done, 1 failed, 2 usage.
///
/// Takes over standard input, output and error.
pub fn run(arguments: &[String]) -> i32 {
    let teller = Teller::new(Box::new(std::io::stderr()));
    match command(arguments, &teller) {
        Ok(()) => 0,
        Err(error) => {
            teller.tell(&Line::Error(error.report()));
            match error {
                PorterError::Usage(_) => 2,
                PorterError::File { .. }
                | PorterError::Place { .. }
                | PorterError::Foreign { .. }
                | PorterError::Differs { .. }
                | PorterError::Digest
                | PorterError::SourceChanged { .. }
                | PorterError::Unsupported(_)
                | PorterError::Busy { .. }
                | PorterError::Program { .. }
                | PorterError::Protocol(_)
                | PorterError::Gone
                | PorterError::NoAnswer
                | PorterError::Direct(_)
                | PorterError::Missing(_)
                | PorterError::Peer(_) => 1,
            }
        }
    }
}

fn command(arguments: &[String], teller: &Teller) -> Result<(), PorterError> {
    let Some((verb, rest)) = arguments.split_first() else {
        return Err(PorterError::Usage(String::from("which porter command?")));
    };
    let options = Options::parse(rest)?;
    match verb.as_str() {
        "version" => print(wire::PREFACE),
        "send" => send(&options, teller),
        "receive" => {
            let order = receive::Order {
                path: options.path()?,
                places: options.places()?,
                image: options.is_image()?,
                adopt: options.has("adopt"),
                kept: options.has("kept"),
                device: options.device()?,
            };
            receive::receive(&order, std::io::stdin(), std::io::stdout(), teller)
        }
        "pour" => pour(&options, teller),
        "catch" => {
            let order = catch::Order {
                run: options.get("run")?.to_owned(),
                flush: match options.number("every")? {
                    Some(every) => Some((options.get("flush")?.to_owned(), every)),
                    None => None,
                },
            };
            catch::catch(&order, std::io::stdin(), std::io::stdout(), teller)
        }
        "state" => print(&SourceState::of(&options.path()?)?.to_json()),
        "observe" => {
            let target = places::observe(&options.path()?, &options.places()?, options.device()?)?;
            print(&serde_json::to_vec(&target).unwrap_or_default())
        }
        "scan" => match options.number("span")? {
            None => scan::scan(&options.path()?, options.is_image()?, std::io::stdout()),
            Some(span) => scan::chunks(
                &options.path()?,
                options.is_image()?,
                span,
                std::io::BufWriter::new(std::io::stdout()),
            ),
        },
        "doubt" => places::doubt(&options.places()?),
        "discard" => places::discard(&options.path()?, &options.places()?),
        "tidy" => places::tidy(&options.places()?),
        other => Err(PorterError::Usage(format!("no porter command '{other}'"))),
    }
}

fn send(options: &Options<'_>, teller: &Teller) -> Result<(), PorterError> {
    let order = send::Order {
        path: options.path()?,
        layout: match options.get("layout")? {
            "file" => Layout::File,
            "guest" => Layout::Guest,
            other => return Err(PorterError::Usage(format!("no layout '{other}'"))),
        },
        image: options.is_image()? && options.get("layout")? == "guest",
        purpose: match options.get("purpose")? {
            "precopy" => Purpose::Precopy,
            "final-transfer" => Purpose::FinalTransfer,
            "final-full" => Purpose::FinalFull,
            other => return Err(PorterError::Usage(format!("no purpose '{other}'"))),
        },
        limit: options.number("limit")?,
        snapshot: options.number("snapshot")?,
    };
    through(options, teller, |input, output| {
        send::send(&order, input, output, teller)
    })
}

fn pour(options: &Options<'_>, teller: &Teller) -> Result<(), PorterError> {
    let order = pour::Order {
        run: options.get("run")?.to_owned(),
        total: options.number("total")?.unwrap_or(0),
        limit: options.number("limit")?,
    };
    through(options, teller, |input, output| {
        pour::pour(&order, input, output, teller)
    })
}

type Input = Box<dyn Read + Send>;
type Output = Box<dyn Write + Send>;

/// Runs `work` with the streams from and to the other porter, wherever it is, and tells what came of it.
fn through(
    options: &Options<'_>,
    teller: &Teller,
    work: impl FnOnce(Input, Output) -> Result<Outcome, PorterError>,
) -> Result<(), PorterError> {
    let outcome = if options.has("host") {
        let door = direct::Door {
            host: options.get("host")?.to_owned(),
            user: options.find("user").map(str::to_owned),
            port: options.number("port")?,
            ciphers: options.find("ciphers").map(str::to_owned),
            receive: options.get("receive")?.to_owned(),
            places: options.places()?,
        };
        direct::through(&door, |input, output| {
            work(Box::new(input), Box::new(output))
        })?
    } else {
        work(Box::new(std::io::stdin()), Box::new(std::io::stdout()))?
    };
    teller.tell(&Line::Done {
        counts: outcome.counts,
        digest: outcome.digest,
        repaired: outcome.repaired,
    });
    Ok(())
}

fn print(bytes: &[u8]) -> Result<(), PorterError> {
    std::io::stdout()
        .write_all(bytes)
        .map_err(|_| PorterError::Gone)
}

/// `--key value` pairs; there is nothing else on a porter's command line.
struct Options<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Options<'a> {
    fn parse(arguments: &'a [String]) -> Result<Options<'a>, PorterError> {
        let mut found = BTreeMap::new();
        for pair in arguments.chunks(2) {
            match pair {
                [key, value] if key.starts_with("--") => {
                    found.insert(&key[2..], value.as_str());
                }
                _ => return Err(PorterError::Usage(format!("unexpected '{}'", pair[0]))),
            }
        }
        Ok(Options(found))
    }

    fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    fn find(&self, key: &str) -> Option<&'a str> {
        self.0.get(key).copied()
    }

    fn get(&self, key: &str) -> Result<&'a str, PorterError> {
        self.find(key)
            .ok_or_else(|| PorterError::Usage(format!("--{key} is missing")))
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, PorterError> {
        self.find(key)
            .map(|text| {
                text.parse()
                    .map_err(|_| PorterError::Usage(format!("--{key} {text} is no number")))
            })
            .transpose()
    }

    fn path(&self) -> Result<PathBuf, PorterError> {
        self.get("path").map(PathBuf::from)
    }

    fn places(&self) -> Result<Places, PorterError> {
        Places::new(self.get("temp")?, self.get("name")?)
    }

    fn device(&self) -> Result<Option<Device>, PorterError> {
        let fresh = self.has("fresh");
        let device = |guid| Device { guid, fresh };
        Ok(self.number("guid")?.map(device))
    }

    fn is_image(&self) -> Result<bool, PorterError> {
        match self.get("format")? {
            "raw" => Ok(false),
            "qcow2" => Ok(true),
            other => Err(PorterError::Usage(format!("no format '{other}'"))),
        }
    }
}
