//! The vocabulary of Proxmox VE: ids, guests, property strings, drives, volumes, storages.
//!
//! Pure: no clock, no network, no async. It never decides anything; `plan` does. Every part of proxmove speaks these
//! words, and the glossary (docs/GLOSSARY.rst) explains them. Read next: [`id`], [`guest`], [`property`], [`drive`],
//! [`destination`], [`inventory`], [`node`], [`migration`], [`ha`], [`guest_file`].

pub mod destination;
pub mod drive;
pub mod evacuation;
pub mod guest;
pub mod guest_file;
pub mod ha;
pub mod id;
pub mod inventory;
pub mod migration;
pub mod node;
pub mod property;
