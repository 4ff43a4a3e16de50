//! `dead-letter reseal`: the same letters under another key, so that theirs can be retired.

use std::path::Path;

use syncline_shared::envelope::Envelope;
use syncline_shared::queue::{DeadLetter, Settlement};
use syncline_shared::seal::{Key, Seal, open, seal_as};

use super::choose::read;
use super::list::LIMITS;
use super::settle::settle;
use super::tell;
use crate::cli::Selection;
use crate::config::{Config, Env, Role};
use crate::failure::Failure;

/// Letters sealed at once: they are held in memory twice.
const CHUNK: usize = 100;

/// Opens letters and seals them again under a key; each takes the place of the old one once it is confirmed.
pub(super) async fn reseal(
    path: &Path,
    env: &Env,
    json: bool,
    selection: &Selection,
    key: Option<&str>,
) -> Result<(), Failure> {
    // Which key a share seals with, only a producer's configuration tells.
    let config = match key {
        Some(_) => Config::load(path, env, Role::Queue)?,
        None => Config::load_all(path, env)?,
    };
    let all = read(&config, selection.filter.queue.as_deref()).await?;
    let (mut resealed, mut failed) = (0, 0);
    for of in &all {
        let chosen: Vec<_> = of.letters.iter().filter(|letter| selection.takes(letter)).collect();
        for chunk in chosen.chunks(CHUNK) {
            let mut letters = Vec::new();
            for letter in chunk {
                match reseal_one(&config, letter, key) {
                    Ok(Some(letter)) => letters.push(letter),
                    Ok(None) => {}
                    Err(why) => {
                        failed += 1;
                        eprintln!("{} is not sealed again: {why}", letter.id());
                    }
                }
            }
            let ids: Vec<_> = letters.iter().map(|letter| letter.id().to_owned()).collect();
            if !ids.is_empty() {
                let steps = [(of.queue.as_str(), ids)];
                resealed += settle(&config, "resealed", &steps, Settlement::Replace(letters)).await?;
            }
        }
    }
    tell(json, "resealed", resealed);
    selection.missed(&all)?;
    if failed > 0 {
        return Err(Failure::Other(format!("{failed} of them were left as they are")));
    }
    Ok(())
}

/// The letter under the new key; `None` when it is sealed with that already. All but key, cipher and body stay the same.
fn reseal_one(config: &Config, letter: &DeadLetter, key: Option<&str>) -> Result<Option<DeadLetter>, String> {
    let envelope = Envelope::from_message(&letter.message).map_err(|error| error.to_string())?;
    let key = new_key(config, &envelope, key)?;
    if envelope.key() == key.id() {
        return Ok(None);
    }
    // One that is not sealed could be anyone's: a key would vouch for it.
    let limits = syncline_shared::seal::OpenLimits { accept_unsealed: false, ..LIMITS };
    let lines = open(&config.keyring, &envelope, limits).map_err(|error| error.to_string())?;
    let sealed = seal_as(&Seal::Key(key.clone()), envelope.route().clone(), &lines, envelope.message_id());
    let message = sealed.map_err(|error| error.to_string())?.to_message().in_place_of(&letter.message);
    Ok(Some(DeadLetter { message, ..letter.clone() }))
}

fn new_key<'a>(config: &'a Config, envelope: &Envelope, key: Option<&str>) -> Result<&'a Key, String> {
    let share = &envelope.route().share;
    let of_share = || config.shares.get(share).and_then(|share| share.key.as_deref());
    let Some(id) = key.or_else(of_share) else {
        return Err(format!("this configuration does not tell the key of share {share:?}; name one with --key"));
    };
    config.keyring.get(id).ok_or_else(|| format!("there is no [key.\"{id}\"] in the configuration"))
}
