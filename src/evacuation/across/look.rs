//! Looking: how far guests are that were sent to another cluster, and what the mover says about those that are to go.
//!
//! Changes nothing. Read next: `plan/evacuate/across.rs`, `plan/restore/abroad.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{Api, ApiError};
use crate::evacuation::{Evacuator, chain, observe};
use crate::moves::{resume, survey};
use crate::plan::evacuate::across::{self, Said};
use crate::plan::evacuate::facts::{Abroad, Inventory};
use crate::plan::evacuate::{Action, Evacuation, Request};
use crate::plan::facts::{Existing, ExistingMoves};
use crate::plan::mark::NameMark;
use crate::plan::{Severity, Verdict, show};
use crate::pve::destination::Destination;
use crate::pve::guest::Power;
use crate::pve::id::{ClusterAlias, Vmid};
use crate::units::Bytes;

/// `--map-bridge` of a guest that was sent to another cluster.
type Bridges = BTreeMap<String, String>;

impl Evacuator {
    /// Observes what an evacuation needs, other clusters included, and decides it.
    pub async fn plan(&self, request: &Request) -> Result<(Inventory, Evacuation), ApiError> {
        let mut inventory = observe::gather(&self.api, request).await?;
        self.look_abroad(&mut inventory, false).await;
        let mut plan = observe::decided(&self.api, &mut inventory, request).await?;
        let said = self.ask_across(&plan, &inventory).await;
        across::settle(&mut plan, &inventory, request, &said);
        Ok((inventory, plan))
    }

    /// Finds out what is true of the guests that were sent to other clusters; with `back`, whether they can come back.
    pub(in crate::evacuation) async fn look_abroad(&self, inventory: &mut Inventory, back: bool) {
        let sent: Vec<(Vmid, String, String, Destination, Bridges)> = inventory
            .guests
            .iter()
            .filter_map(|guest| {
                let to = guest.sent_abroad()?.clone();
                let (name, own) = (guest.name.clone(), guest.own_name().to_owned());
                let bridges = guest.seen.as_ref()?.away.as_ref()?.bridges.clone();
                Some((guest.place.vmid, name, own, to, bridges))
            })
            .collect();
        if sent.is_empty() {
            return;
        }
        let names: Vec<String> = sent.iter().map(|(_, _, own, _, _)| own.clone()).collect();
        let mut asked: BTreeMap<ClusterAlias, Result<Moves, String>> = BTreeMap::new();
        let here = moves_on(self.api.as_ref(), &names).await;
        for (vmid, name, own, to, bridges) in sent {
            let Some(api) = self.cluster(&to.cluster) else {
                set(inventory, vmid, Abroad::NoAlias);
                continue;
            };
            if !asked.contains_key(&to.cluster) {
                let moves = moves_on(api.as_ref(), &names).await;
                asked.insert(to.cluster.clone(), moves);
            }
            let there = asked.get(&to.cluster);
            let known = match (&here, there) {
                (Err(reason), _) | (_, Some(Err(reason))) => Abroad::Unknown(reason.clone()),
                (Ok(here), Some(Ok(there))) => {
                    // The list of the cluster may be some seconds old, and so may be the name in it.
                    let name = here.names.get(&vmid).unwrap_or(&name);
                    rename(inventory, vmid, name);
                    abroad(vmid, name, &own, api.as_ref(), here, there).await
                }
                (Ok(_), None) => Abroad::Unknown("it was not asked".to_owned()),
            };
            let known = match known {
                Abroad::There(_) if back => Abroad::There(self.way_back(&own, &to, &bridges).await),
                Abroad::Returning(_) if back => {
                    Abroad::Returning(self.way_back(&own, &to, &bridges).await)
                }
                other => other,
            };
            set(inventory, vmid, known);
        }
    }

    /// Plans a way back; says what it does, or why there is none.
    async fn way_back(
        &self,
        own: &str,
        from: &Destination,
        bridges: &Bridges,
    ) -> Result<String, String> {
        let way = self.find_back(own, from).await?;
        let request = self.back_request(own, &way, bridges)?;
        let reporter = Arc::clone(&self.reporter);
        let former = way.former(own);
        let decision = self
            .batch(&from.cluster, self.api.alias(), former, reporter)
            .ok_or("that cluster is not in proxmoverc")?
            .decide(&request)
            .await
            .map_err(|failure| failure.error.join(": "))?
            .decision;
        let said = |severity: Severity| -> Vec<String> {
            decision
                .all_verdicts()
                .filter(|verdict| verdict.severity == severity)
                // That it is overwritten is what a way back is.
                .filter(|verdict| verdict.code != "former-overwritten")
                .map(|verdict| {
                    format!("{} [{}] ({})", verdict.reason, verdict.code, verdict.remedy)
                })
                .collect()
        };
        let refusals = said(Severity::Refuse);
        if !refusals.is_empty() {
            return Err(refusals.join("; "));
        }
        let shown = show::shown(&request, &decision);
        let size = shown.guests.first().map_or(0, |guest| guest.bytes);
        let mut parts = vec![format!(
            "comes back from {from} to its former self, which is overwritten with what has changed; at most {} are looked at",
            Bytes(size)
        )];
        parts.extend(said(Severity::Warn));
        Ok(parts.join("; "))
    }

    /// Asks the mover and the other cluster about the guests that are to go there.
    async fn ask_across(
        &self,
        plan: &Evacuation,
        inventory: &Inventory,
    ) -> BTreeMap<Destination, Said> {
        let mut places: BTreeMap<Destination, (Vec<String>, Bridges)> = BTreeMap::new();
        for guest in &plan.guests {
            if let Action::Across { to, .. } = &guest.action {
                let facts = inventory.guest(guest.place.vmid);
                let own = facts.map_or(guest.name.as_str(), |facts| facts.own_name());
                let (names, bridges) = places.entry(to.clone()).or_default();
                names.push(own.to_owned());
                let seen = facts.and_then(|facts| facts.seen.as_ref());
                if let Some(away) = seen.and_then(|seen| seen.away.as_ref()) {
                    bridges.extend(away.bridges.clone());
                }
            }
        }
        let mut answers = BTreeMap::new();
        for (place, (names, bridges)) in places {
            let said = self.ask_place(&place, names, bridges).await;
            answers.insert(place, said);
        }
        answers
    }

    async fn ask_place(&self, place: &Destination, names: Vec<String>, bridges: Bridges) -> Said {
        let refused = |code, reason: String, remedy: &str| Said {
            verdicts: vec![Verdict {
                guest: None,
                severity: Severity::Refuse,
                code,
                reason,
                remedy: remedy.to_owned(),
            }],
            ..Said::default()
        };
        let reporter = Arc::clone(&self.reporter);
        let none = ExistingMoves::new();
        let batch = self.batch(self.api.alias(), &place.cluster, none, reporter);
        let (Some(batch), Some(api)) = (batch, self.cluster(&place.cluster)) else {
            return refused(
                "cluster-unknown",
                format!("proxmoverc has no [pve:{}]", place.cluster),
                "add that section",
            );
        };
        let mut other = match observe::listing(api.as_ref()).await {
            Ok(other) => other,
            Err(error) => {
                let remedy = "mend that; 'proxmove check' looks at everything a move needs";
                return refused("cluster-silent", chain(&error), remedy);
            }
        };
        observe::look_at(&api, &mut other, &[place.node.clone()].into()).await;
        let mut request = self.move_request(self.api.alias(), place, names);
        request.bridges.extend(bridges);
        let decision = match batch.decide(&request).await {
            Ok(decided) => decided.decision,
            Err(failure) => {
                let remedy = failure.next.unwrap_or_default();
                return refused("cluster-silent", failure.error.join(": "), &remedy);
            }
        };
        let shown = show::shown(&request, &decision);
        let remarks = decision
            .plans
            .iter()
            .zip(&shown.guests)
            .map(|(plan, shown)| {
                let copy = Bytes(shown.bytes);
                let down = shown.downtime_seconds.map_or(String::new(), |seconds| {
                    let down = Duration::from_secs(seconds.max(1));
                    format!(", downtime about {}", humantime::format_duration(down))
                });
                (plan.name.clone(), format!("copies about {copy}{down}"))
            });
        Said {
            inventory: Some(other),
            remarks: remarks.collect(),
            verdicts: decision.all_verdicts().cloned().collect(),
        }
    }
}

/// What a cluster shows of moves to it.
struct Moves {
    begun: ExistingMoves,
    /// The names that its nodes themselves say.
    names: BTreeMap<Vmid, String>,
    /// Why some of it was not told, when that is so.
    silent: Option<String>,
}

/// Finds the moves to a cluster that began earlier.
async fn moves_on(api: &dyn Api, names: &[String]) -> Result<Moves, String> {
    let nodes = api.nodes().await.map_err(|error| chain(&error))?;
    let guests = survey::guests(api, &nodes).await;
    let (guests, unanswered) = guests.map_err(|error| chain(&error))?;
    let begun = resume::find(names, &guests, api).await;
    Ok(Moves {
        begun: begun.map_err(|error| chain(&error))?,
        names: guests
            .into_iter()
            .filter_map(|guest| Some((guest.place.vmid, guest.name?)))
            .collect(),
        silent: unanswered.first().map(|first| {
            format!(
                "{} does not tell {} ({})",
                api.alias(),
                first.what,
                first.why
            )
        }),
    })
}

/// Finds out what is true of one guest.
async fn abroad(
    vmid: Vmid,
    name: &str,
    own: &str,
    api: &dyn Api,
    here: &Moves,
    there: &Moves,
) -> Abroad {
    let returning = here
        .begun
        .get(own)
        .filter(|begun| begun.target.vmid == vmid && begun.mark.kept.is_some());
    if returning.is_some() {
        return Abroad::Returning(Ok(String::new()));
    }
    let begun: Option<&Existing> = there
        .begun
        .get(own)
        .filter(|begun| begun.mark.source.vmid == vmid);
    if let Some(begun) = begun {
        return match api.guest(&begun.target).await {
            Ok(detail) => Abroad::Begun {
                by: begun.mark.by.clone(),
                runs: detail.power == Power::Running,
            },
            Err(error) => Abroad::Unknown(chain(&error)),
        };
    }
    if let Some(silent) = here.silent.as_ref().or(there.silent.as_ref()) {
        return Abroad::Unknown(silent.clone());
    }
    match NameMark::split(name).1 {
        NameMark::Plain => Abroad::Home,
        NameMark::Migrated => Abroad::There(Ok(String::new())),
        NameMark::Cloning | NameMark::Creating => Abroad::Unknown(format!(
            "it is called {name}, and no move of it was found there (see proxmove status)"
        )),
    }
}

fn rename(inventory: &mut Inventory, vmid: Vmid, name: &str) {
    let found = inventory
        .guests
        .binary_search_by_key(&vmid, |guest| guest.place.vmid);
    if let Ok(at) = found {
        name.clone_into(&mut inventory.guests[at].name);
    }
}

fn set(inventory: &mut Inventory, vmid: Vmid, known: Abroad) {
    let found = inventory
        .guests
        .binary_search_by_key(&vmid, |guest| guest.place.vmid);
    if let Ok(at) = found
        && let Some(seen) = &mut inventory.guests[at].seen
    {
        seen.abroad = Some(known);
    }
}
