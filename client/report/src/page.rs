//! Pages and their parts.

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// A self-contained document. With `refresh_s` the browser loads it again after this many seconds.
pub fn page(title: &str, refresh_s: Option<u32>, body: &Markup) -> String {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                @if let Some(seconds) = refresh_s { meta http-equiv="refresh" content=(seconds); }
                title { (title) }
                style { (PreEscaped(include_str!("page.css"))) }
            }
            body { (body) }
        }
    };
    document.into_string()
}

/// A state or verdict beside the heading.
pub fn pill(good: bool, text: &str) -> Markup {
    html! { span.pill.bad[!good] { (text) } }
}

/// A card of `main`. Its class `third`, `half` or `wide` (two thirds) is its width on wide screens; without
/// one it takes the whole row.
pub fn section(class: &str, title: &str, body: &Markup) -> Markup {
    html! {
        section class=[(!class.is_empty()).then_some(class)] {
            @if !title.is_empty() { h2 { (title) } }
            (body)
        }
    }
}

/// A row of cards, each with a figure and what it is.
pub fn tiles(figures: &[(String, String)]) -> Markup {
    html! {
        div.tiles {
            @for (figure, what) in figures { div.tile { b { (figure) } span { (what) } } }
        }
    }
}

/// A table of names and values.
pub fn facts<N: AsRef<str>>(rows: &[(N, String)]) -> Markup {
    html! {
        table.facts { @for (name, value) in rows { tr { td { (name.as_ref()) } td { (value) } } } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_become_html() {
        let name = "<b>\"&'";
        let figures = [(name.to_owned(), name.to_owned())];
        let parts = [pill(true, name), section("", name, &facts(&figures)), tiles(&figures)];
        let shown = page(name, None, &html! { @for part in &parts { (part) } p title=(name) {} });
        assert!(!shown.contains("<b>\""), "{shown}");
        assert_eq!(shown.matches("&lt;b&gt;&quot;&amp;").count(), 8, "{shown}");
    }

    #[test]
    fn a_page_loads_nothing_and_runs_nothing() {
        let shown = page("t", Some(2), &section("half", "h", &facts::<&str>(&[])));
        assert!(shown.contains("<meta http-equiv=\"refresh\" content=\"2\">"), "{shown}");
        for foreign in ["<script", "src=", "href=", "@import", "url(", "://"] {
            assert!(!shown.contains(foreign), "{foreign}");
        }
    }
}
