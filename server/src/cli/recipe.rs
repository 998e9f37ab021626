//! `forebay recipe`: lists presets, and prints recipes and their differences.

use clap::{Args, Subcommand};
use forebay::recipe::{PRESETS, difference};

use super::options::{RecipeBook, RecipeChanges};
use super::output::{say, say_lines};

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
        /// Recipe: a preset (a1, a2, a3, eval), a name from the file of --config, or a TOML file.
        #[arg(default_value = "a2")]
        recipe: String,
        #[command(flatten)]
        book: RecipeBook,
        #[command(flatten)]
        changes: RecipeChanges,
    },
    /// Print the fields in which two recipes differ.
    Diff {
        /// Recipe: a preset (a1, a2, a3, eval), a name from the file of --config, or a TOML file.
        left: String,
        /// Recipe to compare with, in the same form.
        right: String,
        #[command(flatten)]
        book: RecipeBook,
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
        Action::Show { recipe, book, changes } => {
            let recipe = book.open()?.resolve(recipe, changes.assignments())?;
            say_lines(format!("# digest {}\n{}", recipe.digest(), recipe.canonical().trim_end()))?;
        }
        Action::Diff { left, right, book } => {
            let book = book.open()?;
            let differences = difference(&book.resolve(left, [])?, &book.resolve(right, [])?);
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
