//! The words of code, documents and messages: American spelling, and one word for one thing.
//!
//! Identifiers are split into their words, so that `NormaliseTable` and `set_colour` are found too.

use std::path::Path;

use super::{files, read, root};

/// Words that are spelled otherwise in American English. `*` stands for any ending.
const SPELLING: &[(&str, &str)] = &[
    ("acknowledgement*", "acknowledgment"),
    ("afterwards", "afterward"),
    ("ageing", "aging"),
    ("aluminium", "aluminum"),
    ("amongst", "among"),
    ("analyse*", "analyze"),
    ("analysing", "analyzing"),
    ("armour*", "armor"),
    ("artefact*", "artifact"),
    ("behaviour*", "behavior"),
    ("burnt", "burned"),
    ("calibre*", "caliber"),
    ("canceled", "cancelled"),
    ("canceling", "cancelling"),
    ("catalogue*", "catalog"),
    ("catalyse*", "catalyze"),
    ("centre*", "center"),
    ("channelled", "channeled"),
    ("cheque*", "check"),
    ("colour*", "color"),
    ("defence*", "defense"),
    ("dialled", "dialed"),
    ("endeavour*", "endeavor"),
    ("enrol", "enroll"),
    ("favour*", "favor"),
    ("fibre*", "fiber"),
    ("flavour*", "flavor"),
    ("fuelled", "fueled"),
    ("fulfil", "fulfill"),
    ("fulfilment", "fulfillment"),
    ("grey*", "gray"),
    ("harbour*", "harbor"),
    ("honour*", "honor"),
    ("humour*", "humor"),
    ("instalment*", "installment"),
    ("judgement*", "judgment"),
    ("labelled", "labeled"),
    ("labelling", "labeling"),
    ("labour*", "labor"),
    ("learnt", "learned"),
    ("levelled", "leveled"),
    ("licence*", "license"),
    ("litre*", "liter"),
    ("manoeuvre*", "maneuver"),
    ("marshalled", "marshaled"),
    ("maths", "math"),
    ("metre", "meter"),
    ("metres", "meters"),
    ("modelled", "modeled"),
    ("modelling", "modeling"),
    ("mould*", "mold"),
    ("neighbour*", "neighbor"),
    ("offence*", "offense"),
    ("paralyse*", "paralyze"),
    ("practise*", "practice"),
    ("pretence*", "pretense"),
    ("programme", "program"),
    ("programmes", "programs"),
    ("rumour*", "rumor"),
    ("sceptic*", "skeptic"),
    ("signalled", "signaled"),
    ("signalling", "signaling"),
    ("skilful*", "skillful"),
    ("spelt", "spelled"),
    ("theatre*", "theater"),
    ("totalled", "totaled"),
    ("towards", "toward"),
    ("travelled", "traveled"),
    ("travelling", "traveling"),
    ("tunnelled", "tunneled"),
    ("vapour*", "vapor"),
    ("vigour*", "vigor"),
    ("whilst", "while"),
];

/// Endings of verbs that have a z in American English, and of the nouns made from them.
const ISE: [&str; 8] = ["ise", "ised", "ises", "iser", "isers", "ising", "isation", "isable"];

/// Beginnings of words with such an ending that have an s everywhere.
const WITH_S: &[&str] = &[
    "advertis",
    "advis",
    "aris",
    "bruis",
    "chastis",
    "clockwis",
    "compris",
    "compromis",
    "concis",
    "cruis",
    "demis",
    "despis",
    "devis",
    "disguis",
    "enterpris",
    "excis",
    "exercis",
    "expertis",
    "franchis",
    "imprecis",
    "improvis",
    "incis",
    "likewis",
    "madvis",
    "merchandis",
    "nois",
    "otherwis",
    "paradis",
    "pois",
    "prais",
    "precis",
    "premis",
    "promis",
    "rais",
    "revis",
    "ris",
    "supervis",
    "surpris",
    "televis",
    "treatis",
    "uprais",
    "wis",
];

/// Words that forebay does not use, each with the word that it uses instead. They are translated from
/// another language, or a second word for a thing that has one.
const FOREIGN: &[(&str, &str)] = &[
    ("asker*", "SubmitOptions"),
    ("requester*", "client, or waiter"),
    ("credit", "window"),
    ("credits", "window"),
    ("mend", "fix"),
    ("mended", "fixed"),
    ("mends", "fixes"),
    ("mending", "fixing"),
    ("shall", "must"),
    ("uncopied", "zero-copy"),
    ("untold", "not reported"),
    ("wish", "request"),
    ("wished", "requested"),
    ("wishes", "requests"),
];

/// Phrases and names that forebay does not use, as they are written in any case.
const PHRASES: &[(&str, &str)] = &[
    ("ahead_bytes", "window_bytes"),
    ("ahead-bytes", "window-bytes"),
    ("alone of its kind", "singular"),
    ("forebay_making", "forebay_microbatches_pending"),
    ("forebay_queue_seconds", "forebay_queue_drain_estimate_seconds"),
    ("forebay_starved", "forebay_microbatches_waiting_for_buffer"),
    ("in vain", "wasted, or lost"),
    ("in_vain", "wasted, or lost"),
    ("is no one who", "an error that names the value, and what was expected"),
    ("is none that", "an error that names the value, and what was expected"),
    ("lost-after", "heartbeat-timeout"),
    ("made early", "precomputed"),
    ("most_ahead", "max_window"),
    ("so many bytes", "n bytes"),
    ("who goes away", "cancelling one waiter never cancels another's work"),
    ("worth to be", "worth doing"),
];

/// What is wrong with a line: the word, and the one to use.
fn mistakes(line: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = words(line).filter_map(correction).collect();
    let lower = line.to_lowercase();
    let phrases = PHRASES.iter().filter(|(phrase, _)| contains(&lower, phrase));
    found.extend(phrases.map(|(phrase, right)| ((*phrase).to_owned(), (*right).to_owned())));
    found
}

/// The words of a line in lower case. An identifier has several.
fn words(line: &str) -> impl Iterator<Item = String> {
    let (mut words, mut before) = (vec![String::new()], ' ');
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        let next_is_lower = letters.peek().is_some_and(char::is_ascii_lowercase);
        let is_hump = letter.is_ascii_uppercase() && (before.is_ascii_lowercase() || next_is_lower);
        if is_hump || !letter.is_ascii_alphabetic() {
            words.push(String::new());
        }
        if letter.is_ascii_alphabetic() {
            words.last_mut().unwrap().push(letter.to_ascii_lowercase());
        }
        before = letter;
    }
    words.into_iter().filter(|word| !word.is_empty())
}

/// A word that is wrong, with the right one.
fn correction(word: String) -> Option<(String, String)> {
    let is = |(wrong, _): &&(&str, &str)| match wrong.strip_suffix('*') {
        Some(beginning) => word.starts_with(beginning),
        None => word == *wrong,
    };
    let right = match SPELLING.iter().chain(FOREIGN).find(is) {
        Some((_, right)) => (*right).to_owned(),
        None if is_british_verb(&word) => "an ending with z".to_owned(),
        None => return None,
    };
    Some((word, right))
}

fn is_british_verb(word: &str) -> bool {
    let Some(stem) = ISE.iter().find_map(|ending| word.strip_suffix(ending)) else { return false };
    let with_s = format!("{stem}is");
    stem.len() > 2 && !with_s.ends_with("wis") && !WITH_S.contains(&with_s.as_str())
}

/// Whether a text contains a phrase that is not a part of longer words.
fn contains(text: &str, phrase: &str) -> bool {
    let is_letter = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphabetic);
    text.match_indices(phrase).any(|(at, _)| {
        let (before, after) = (&text.as_bytes()[..at], &text.as_bytes()[at + phrase.len()..]);
        !is_letter(before.last()) && !is_letter(after.first())
    })
}

/// Whether the words of a file are not forebay's own.
fn is_exempt(path: &Path) -> bool {
    let path = path.strip_prefix(root()).unwrap().to_str().unwrap();
    // Packages have the names that others gave them.
    let are_packages = path.ends_with("requirements.txt");
    are_packages || path == "tests/tidy/words.rs" || path.starts_with("proto/src/gen/")
}

#[test]
fn words_are_american_and_forebays_own() {
    let endings = [
        ".rs", ".md", ".proto", ".toml", ".py", ".sh", ".cu", ".cuh", ".h", ".yaml", ".yml",
        ".html", ".css", ".tpl", ".json", ".txt", ".ci/run",
    ];
    let mut wrong = Vec::new();
    for path in files(&root(), &endings).into_iter().filter(|path| !is_exempt(path)) {
        for (number, line) in read(&path).lines().enumerate() {
            // The changelog's table of changed names has the old ones.
            if path.ends_with("CHANGELOG.md") && line.starts_with('|') {
                continue;
            }
            for (word, right) in mistakes(line) {
                let number = number + 1;
                wrong.push(format!("{}:{number}: {word:?}: {right}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "words to replace:\n{}", wrong.join("\n"));
}

#[test]
fn planted_words_are_found() {
    for (line, word) in [
        ("    /// The behaviours of a grey pixel's neighbours.", "behaviours"),
        ("// grey", "grey"),
        ("fn set_colour(&self) {}", "colour"),
        ("struct NormaliseTable;", "normalise"),
        ("JSONSerialiser", "serialiser"),
        ("const CENTRE: u32 = 1;", "centre"),
        ("\"the licence\"", "licence"),
        ("it optimises, and analyses", "optimises"),
        ("quantisation", "quantisation"),
        ("the work was canceled", "canceled"),
        ("the Requester", "requester"),
        ("credit_bytes", "credit"),
        ("fix it, or mend it", "mend"),
        ("asked in vain", "in vain"),
        ("--lost-after 15", "lost-after"),
    ] {
        let found = mistakes(line);
        assert!(found.iter().any(|(wrong, _)| wrong == word), "{word} in {line:?}: {found:?}");
    }
    for (wrong, _) in SPELLING.iter().chain(FOREIGN).chain(PHRASES) {
        let planted = wrong.replace('*', "s");
        assert!(!mistakes(&format!("a {planted} b")).is_empty(), "{planted}");
    }
}

#[test]
fn american_words_and_names_that_contain_others_are_left_alone() {
    for line in [
        "behavior, color, gray, center, licensed, catalog, cancelled, meters, parameters, diameter",
        "noise, raised, otherwise, element-wise, Clockwise, precise, promises, exercise, rise, wise",
        "normalize, optimizer, analysis, analyzed, initialize, quantization, synthesis, basis",
        "creditor, recommended, amendment, accredited, marshaled, programmer, practical",
        "in vainly, precommitted, window_bytes, most_aheads",
    ] {
        assert_eq!(mistakes(line), [], "{line:?}");
    }
}
