//! What people look at: the server's status page, the load test's report, the trainer's curves, contact
//! sheets.
//!
//! Pages are one self-contained HTML document each, without scripts and without anything from elsewhere.
//! They share one style sheet, which has colors for light and dark screens. Markup is written with
//! [`maud::html!`], which escapes every value, so that a name of a client cannot become markup.
//!
//! ```
//! use forebay_report::chart::{COLORS, Chart, Line};
//! use forebay_report::{number, page};
//! use maud::html;
//!
//! let points = [(1.0, Some(7.2)), (2.0, None), (3.0, Some(6.9))];
//! let loss = Line { name: "loss".into(), color: COLORS[0], points: points.into() };
//! let chart = Chart { title: "Loss", unit: "by step", lines: vec![loss], end: 3.0, ..Chart::default() };
//! let body = html! {
//!     header { h1 { "a run" } small { (number::count(3.0)) " steps" } }
//!     main { (page::section("", "", &chart.draw())) }
//! };
//! assert!(page::page("a run", None, &body).starts_with("<!DOCTYPE html>"));
//! ```

pub mod chart;
pub mod number;
pub mod page;
mod scale;
#[cfg(feature = "sheet")]
pub mod sheet;
