//! All engines of a run as one: each pair is handed to the engine that the plan chose for it.
//!
//! Decides nothing itself; the choice is made in `plan/route.rs`. Read next: `image.rs`.

use async_trait::async_trait;

use super::image::ImageEngine;
use super::zfs::ZfsEngine;
use super::{Engine, EngineKind, Kept, Pair, Pass, PassReport, Tell, TransferError, VolumeState};

/// The engines of a run.
pub struct Engines {
    image: ImageEngine,
    zfs: ZfsEngine,
}

impl Engines {
    /// Puts the engine for images together with those that share its porters.
    pub fn new(image: ImageEngine) -> Engines {
        Engines {
            zfs: ZfsEngine::beside(&image),
            image,
        }
    }

    fn of(&self, pair: &Pair) -> &dyn Engine {
        match pair.engine {
            EngineKind::Image => &self.image,
            EngineKind::Zfs => &self.zfs,
        }
    }

    /// Returns each engine with its pairs, in their order.
    fn each(&self, pairs: &[Pair]) -> Vec<(&dyn Engine, Vec<Pair>)> {
        let kinds = [EngineKind::Image, EngineKind::Zfs];
        kinds
            .into_iter()
            .filter_map(|kind| {
                let own: Vec<Pair> = pairs
                    .iter()
                    .filter(|pair| pair.engine == kind)
                    .cloned()
                    .collect();
                let engine = self.of(own.first()?);
                Some((engine, own))
            })
            .collect()
    }
}

#[async_trait]
impl Engine for Engines {
    async fn prepare(&self, pairs: &[Pair]) -> Result<(), TransferError> {
        for (engine, own) in self.each(pairs) {
            engine.prepare(&own).await?;
        }
        Ok(())
    }

    async fn begin(&self, pairs: &[Pair], pass: Pass) -> Result<(), TransferError> {
        for (engine, own) in self.each(pairs) {
            engine.begin(&own, pass).await?;
        }
        Ok(())
    }

    async fn observe(&self, pair: &Pair) -> Result<VolumeState, TransferError> {
        self.of(pair).observe(pair).await
    }

    async fn look_back(&self, pair: &Pair) -> Result<Kept, TransferError> {
        self.of(pair).look_back(pair).await
    }

    async fn carry(
        &self,
        pair: &Pair,
        pass: Pass,
        tell: Tell<'_>,
    ) -> Result<PassReport, TransferError> {
        self.of(pair).carry(pair, pass, tell).await
    }

    async fn take_back(&self, pair: &Pair) -> Result<(), TransferError> {
        self.of(pair).take_back(pair).await
    }

    async fn tidy(&self, pair: &Pair) -> Result<(), TransferError> {
        self.of(pair).tidy(pair).await
    }

    async fn discard(&self, pair: &Pair) -> Result<(), TransferError> {
        self.of(pair).discard(pair).await
    }
}
