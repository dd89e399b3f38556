//! Texts for parsers: true ones with damage done to them, and noise.
//!
//! A damaged sample comes far deeper into a parser than noise does. Each is a pure function of the generator's seed.
#![allow(dead_code, unreachable_pub)]

use proptest::prelude::*;

/// What is done to a text at one place.
#[derive(Clone, Debug)]
enum Damage {
    Delete(usize, usize),
    Repeat(usize, usize),
    Flip(usize, u8),
    Insert(usize, Vec<u8>),
    /// Takes a part of another sample in.
    Splice(usize, usize, usize),
    Cut(usize),
}

/// What parsers trip over, if they do.
const STUMBLING: [&str; 18] = [
    "\0",
    "\n",
    "\t",
    ",",
    "=",
    ":",
    "--",
    "%",
    "\"",
    "\\",
    "ü",
    "18446744073709551616",
    "-1",
    "1e999",
    "\u{202e}",
    " ",
    "[",
    "}",
];

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<usize>;
    let length = || prop_oneof![1usize..4, 1usize..64];
    let insert = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..6),
        proptest::sample::select(STUMBLING.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
    ];
    prop_oneof![
        (at(), length()).prop_map(|(at, length)| Damage::Delete(at, length)),
        (at(), length()).prop_map(|(at, length)| Damage::Repeat(at, length)),
        (at(), 0u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        (at(), insert).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (at(), at(), length()).prop_map(|(at, from, length)| Damage::Splice(at, from, length)),
        at().prop_map(Damage::Cut),
    ]
}

fn apply(bytes: &mut Vec<u8>, other: &[u8], damage: &Damage) {
    let place = |at: usize, length: usize| if length == 0 { 0 } else { at % length };
    let length = bytes.len();
    match damage {
        Damage::Delete(at, count) => {
            let from = place(*at, length);
            bytes.drain(from..(from + count).min(length));
        }
        Damage::Repeat(at, count) => {
            let from = place(*at, length);
            let part = bytes[from..(from + count).min(length)].to_vec();
            bytes.splice(from..from, part);
        }
        Damage::Flip(at, bit) => {
            let at = place(*at, length);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        Damage::Insert(at, new) => {
            let at = place(*at, length + 1);
            bytes.splice(at..at, new.iter().copied());
        }
        Damage::Splice(at, from, count) => {
            let (at, from) = (place(*at, length + 1), place(*from, other.len()));
            let part = other[from..(from + count).min(other.len())].to_vec();
            bytes.splice(at..at, part);
        }
        Damage::Cut(at) => bytes.truncate(place(*at, length + 1)),
    }
}

/// Returns samples with up to six damages each, now and then a whole one, and noise.
pub fn bytes(samples: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let one = proptest::sample::select(samples.clone());
    let another = proptest::sample::select(samples);
    let damaged = (one, another, proptest::collection::vec(damage(), 0..6)).prop_map(
        |(mut bytes, other, damages)| {
            for damage in &damages {
                apply(&mut bytes, &other, damage);
            }
            bytes
        },
    );
    prop_oneof![
        9 => damaged,
        1 => proptest::collection::vec(any::<u8>(), 0..300),
    ]
}

/// Returns the same as text, as every reader of a host's answer makes it.
pub fn text(samples: &[&str]) -> impl Strategy<Value = String> + use<> {
    let samples = samples
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect();
    prop_oneof![
        9 => bytes(samples).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        1 => "\\PC{0,200}",
    ]
}
