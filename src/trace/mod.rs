//! `syncline trace`: where a record is, by what each part knows of it. Changes nothing, makes nothing.
//!
//! The story: which record it is, what the journals of the services remember, what source, target and broker have now, and
//! what follows from all that. A part that cannot be asked is said so, and the others are shown.

mod known;
mod places;
mod record;
mod services;
mod tell;
mod verdict;

use std::path::Path;

use self::known::Known;
use self::record::Subject;
use crate::cli::TraceArgs;
use crate::config::{Config, Env};
use crate::failure::Failure;

/// Tells where a record is.
pub(crate) async fn run(path: &Path, env: &Env, json: bool, args: &TraceArgs) -> Result<(), Failure> {
    let config = Config::load_all(path, env)?;
    let subject = Subject::find(&config, &args.table, &args.key).await?;
    let mut known = Known::default();
    services::ask(&mut known, &config, &subject, args).await;
    places::at_source(&mut known, &config, &subject).await;
    places::at_targets(&mut known, &config, &subject).await;
    let broker_answers = places::among_dead_letters(&mut known, &config, &subject).await;
    let mut conclusion = verdict::conclude(&known);
    if broker_answers && conclusion.state.depends_on_what_waits() {
        places::in_partitions(&mut known, &config, &subject).await;
        // What waited nowhere had arrived before that was asked, and maybe after the first look.
        places::at_targets(&mut known, &config, &subject).await;
        places::among_dead_letters(&mut known, &config, &subject).await;
        conclusion = verdict::conclude(&known);
    }
    if json {
        println!("{}", tell::to_json(&subject, &known, &conclusion));
    } else {
        print!("{}", tell::to_text(&subject, &known, &conclusion));
    }
    match known.away.as_slice() {
        [] => Ok(()),
        [one] => Err(Failure::Unavailable(format!("1 system could not be asked: {one}"))),
        many => Err(Failure::Unavailable(format!("{} systems could not be asked: {}", many.len(), many.join("; ")))),
    }
}
