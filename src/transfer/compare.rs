//! Comparing two volumes that nobody writes to, without writing anything: each host reads its own, and only digests
//! travel.
//!
//! Never decides whether they should be equal. Read next: `porter/scan.rs`.

use std::collections::BTreeMap;

use super::image::ImageEngine;
use super::image::arguments::format_name;
use super::lines::Side;
use super::{End, Pair, TransferError};
use crate::porter::{CHUNK, SPAN};
use crate::units::Bytes;

const OPERATION: &str = "comparison";

/// What one side's digests are.
struct Digests {
    spans: BTreeMap<u64, String>,
    size: u64,
    whole: String,
}

/// Two volumes that are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Equal {
    /// Their size.
    pub size: Bytes,
    /// BLAKE3 over the content, in hexadecimal: what a final pass says as well.
    pub digest: String,
}

impl ImageEngine {
    /// Compares what a guest sees of both volumes of a pair; fails with [`TransferError::Differs`] at the first chunk
    /// that is not the same.
    pub async fn compare(&self, pair: &Pair) -> Result<Equal, TransferError> {
        let (source, target) = tokio::try_join!(
            self.digests(pair, Side::Source),
            self.digests(pair, Side::Target)
        )?;
        if source.whole == target.whole && source.size == target.size {
            return Ok(Equal {
                size: Bytes(source.size),
                digest: source.whole,
            });
        }
        let differs = |offset: u64| TransferError::Differs {
            drive: pair.drive,
            offset,
        };
        let first = source
            .spans
            .iter()
            .find(|(span, digest)| target.spans.get(*span) != Some(*digest));
        let Some((span, _)) = first else {
            // All that both have is the same: one is longer.
            return Err(differs(source.size.min(target.size)));
        };
        let (here, there) = tokio::try_join!(
            self.chunks(pair, Side::Source, *span),
            self.chunks(pair, Side::Target, *span)
        )?;
        let chunk = here
            .iter()
            .find(|(chunk, print)| there.get(*chunk) != Some(*print))
            .map_or(span * SPAN, |(chunk, _)| *chunk);
        Err(differs(chunk * CHUNK as u64))
    }

    async fn digests(&self, pair: &Pair, side: Side) -> Result<Digests, TransferError> {
        let end = end(pair, side);
        let words = [
            "scan",
            "--path",
            &end.path,
            "--format",
            format_name(end.format),
        ];
        let output = self.porter_reads(pair, side, OPERATION, &words).await?;
        let mut digests = Digests {
            spans: BTreeMap::new(),
            size: 0,
            whole: String::new(),
        };
        for line in String::from_utf8_lossy(&output).lines() {
            match line.split(' ').collect::<Vec<_>>().as_slice() {
                ["span", number, digest] => {
                    if let Ok(number) = number.parse() {
                        digests.spans.insert(number, (*digest).to_owned());
                    }
                }
                ["whole", size, digest] => {
                    digests.size = size.parse().unwrap_or(0);
                    digests.whole = (*digest).to_owned();
                }
                _ => {}
            }
        }
        if digests.whole.is_empty() {
            // Without this line nothing was compared, whatever came before.
            return Err(TransferError::Porter {
                operation: OPERATION,
                drive: pair.drive,
                address: end.shell.address().to_owned(),
                reason: "its answer has no end".to_owned(),
            });
        }
        Ok(digests)
    }

    async fn chunks(
        &self,
        pair: &Pair,
        side: Side,
        span: u64,
    ) -> Result<BTreeMap<u64, String>, TransferError> {
        let end = end(pair, side);
        let (format, span) = (format_name(end.format), span.to_string());
        let words = [
            "scan", "--path", &end.path, "--format", format, "--span", &span,
        ];
        let output = self.porter_reads(pair, side, OPERATION, &words).await?;
        let text = String::from_utf8_lossy(&output);
        let chunks = text.lines().filter_map(|line| {
            let (number, print) = line.strip_prefix("chunk ")?.split_once(' ')?;
            Some((number.parse().ok()?, print.to_owned()))
        });
        Ok(chunks.collect())
    }
}

fn end(pair: &Pair, side: Side) -> &End {
    super::image::end_of(pair, side)
}
