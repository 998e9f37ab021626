//! `forebay recipe`.

use clap::{Args, Subcommand};
use forebay::recipe::{PRESETS, RecipeSpec, difference};

use super::options::RecipeChanges;
use super::say;

#[derive(Debug, Args)]
pub(super) struct RecipeCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the presets.
    List,
    /// Print the canonical form of a recipe, and its digest.
    Show {
        /// a1, a2, a3, eval, or a TOML file.
        recipe: String,
        #[command(flatten)]
        changes: RecipeChanges,
    },
    /// Print the fields in which two recipes differ.
    Diff {
        /// a1, a2, a3, eval, or a TOML file.
        left: String,
        /// The other one.
        right: String,
    },
}

pub(super) fn run(command: &RecipeCommand) -> anyhow::Result<()> {
    match &command.action {
        Action::List => {
            for (name, text) in PRESETS {
                let about = text.lines().next().unwrap_or_default().trim_start_matches("# ");
                say(format!("{name:<5} {about}"))?;
            }
        }
        Action::Show { recipe, changes } => {
            let spec = RecipeSpec::from_argument(recipe)?.with(changes.assignments());
            let recipe = spec.resolve()?;
            say(format!("# digest {}\n{}", recipe.digest(), recipe.canonical().trim_end()))?;
        }
        Action::Diff { left, right } => {
            let resolve = |name: &str| RecipeSpec::from_argument(name)?.resolve();
            let differences = difference(&resolve(left)?, &resolve(right)?);
            if differences.is_empty() {
                say("the recipes are equal")?;
            }
            for (field, a, b) in differences {
                let shown = |value: String| if value.is_empty() { "(none)".into() } else { value };
                say(format!("{field:<22} {:<28} {}", shown(a), shown(b)))?;
            }
        }
    }
    Ok(())
}
