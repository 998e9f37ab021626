//! An evaluation as a page: its accuracy, a picture of which class was taken for which, the classes and the most frequent
//! mistakes.

use forebay_report::number::count;
use forebay_report::page::{page, section, tiles};
use maud::{Markup, html};

use crate::accuracy::Accuracy;
use crate::confusion::Confusion;

/// Most classes of which a picture is drawn: a cell is then three pixels wide.
const DRAWN: usize = 256;

/// Rows of each table.
const LISTED: usize = 50;

/// Side of the picture.
const SIDE: usize = 768;

/// The page of an evaluation. `names` are those of the classes, as far as they are known.
pub(crate) fn confusion_page(title: &str, confusion: &Confusion, names: &[String]) -> String {
    let total = confusion.total();
    let figures = [
        (rate(total.top1_rate()), "top-1 accuracy"),
        (rate(total.top5_rate()), "top-5 accuracy"),
        (count(total.samples as f64), "images"),
        (count(confusion.classes.len() as f64), "classes"),
    ];
    let name = |class: usize| names.get(class).cloned().unwrap_or_else(|| class.to_string());
    let body = html! {
        header { h1 { "forebay evaluation" } small { (title) } }
        main {
            (tiles(&figures.map(|(figure, what)| (figure, what.to_owned()))))
            @if confusion.classes.len() <= DRAWN {
                (section("", "Classes by predicted classes", &picture(confusion, &name)))
            }
            (section("half", "Classes, the least accurate first", &classes(confusion, &name)))
            (section("half", "Most frequent mistakes", &mistakes(confusion, &name)))
        }
    };
    page("forebay evaluation", None, &body)
}

fn rate(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// A cell for each pair of classes, whose opacity is the share of the class. Rows are classes, columns predictions.
fn picture(confusion: &Confusion, name: &dyn Fn(usize) -> String) -> Markup {
    let cell = SIDE as f64 / confusion.classes.len().max(1) as f64;
    let share =
        |class: usize, count: u64| count as f64 / confusion.classes[class].samples.max(1) as f64;
    html! {
        svg viewBox=(format!("0 0 {SIDE} {SIDE}")) width=(SIDE) role="img" {
            rect width=(SIDE) height=(SIDE) fill="var(--paper)" {}
            @for (&(class, predicted), &count) in &confusion.pairs {
                rect x=(predicted as f64 * cell) y=(class as f64 * cell) width=(cell) height=(cell)
                    fill=(if class == predicted { "var(--good)" } else { "var(--bad)" })
                    fill-opacity=(format!("{:.3}", share(class, count).sqrt())) {
                    title { (name(class)) " as " (name(predicted)) ": " (count) " of " (confusion.classes[class].samples) }
                }
            }
        }
        p.faint { "Rows are classes, columns what they were taken for." }
    }
}

fn classes(confusion: &Confusion, name: &dyn Fn(usize) -> String) -> Markup {
    let mut classes: Vec<(usize, &Accuracy)> =
        confusion.classes.iter().enumerate().filter(|(_, accuracy)| accuracy.samples > 0).collect();
    classes.sort_by(|(_, a), (_, b)| a.top1_rate().total_cmp(&b.top1_rate()));
    html! {
        table.facts {
            @for (class, accuracy) in classes.into_iter().take(LISTED) {
                tr { td { (name(class)) } td { (rate(accuracy.top1_rate())) " of " (count(accuracy.samples as f64)) } }
            }
        }
    }
}

fn mistakes(confusion: &Confusion, name: &dyn Fn(usize) -> String) -> Markup {
    html! {
        table.facts {
            @for ((class, predicted), times) in confusion.mistakes().into_iter().take(LISTED) {
                tr { td { (name(class)) " as " (name(predicted)) } td { (count(times as f64)) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_cell_for_each_pair_and_names_that_are_no_markup() {
        let classes = vec![Accuracy { samples: 3, top1: 2, top5: 3 }; 2];
        let pairs = [((0, 0), 2), ((0, 1), 1), ((1, 1), 3)].into();
        let page = confusion_page("t", &Confusion { classes, pairs }, &["<b>".to_owned()]);
        for part in ["66.67 %", "&lt;b&gt; as 1: 1 of 3", "&lt;b&gt; as 1</td>"] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert_eq!(page.matches("fill-opacity").count(), 3);
    }

    #[test]
    fn many_classes_are_listed_and_not_drawn() {
        let classes = vec![Accuracy { samples: 1, top1: 1, top5: 1 }; DRAWN + 1];
        let page = confusion_page("t", &Confusion { classes, pairs: [((3, 3), 1)].into() }, &[]);
        assert!(!page.contains("<svg") && page.matches("<tr>").count() == LISTED, "{page}");
    }
}
