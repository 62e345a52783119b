//! Recorded exchanges of PanDA's real programs, as the transcripts have them.

use serde_json::Value;
use std::path::PathBuf;

/// A request and the answer that it got.
#[derive(Debug)]
pub struct Exchange {
    /// Its number and time, to find it again.
    pub title: String,
    /// Verb.
    pub verb: String,
    /// Path and query.
    pub path: String,
    /// The body was gzip.
    pub gzip: bool,
    /// The body was a form.
    pub form: bool,
    /// Arguments; `None`: there was no body, or the transcript cut it.
    pub body: Option<Value>,
    /// The transcript has a part of the body only.
    pub cut: bool,
    /// Status of the answer.
    pub code: u16,
    /// The answer.
    pub answer: String,
}

/// The folder of the transcripts: named by `MOSO_PANDA_TRANSCRIPTS`, or beside the repository.
pub fn folder() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/reference/panda-transcripts");
    let beside_tree = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/reference/panda-transcripts");
    let named = std::env::var_os("MOSO_PANDA_TRANSCRIPTS").map(PathBuf::from);
    let places = named.into_iter().chain([beside.into(), beside_tree.into()]);
    let found = places.into_iter().find(|path| path.exists());
    if found.is_none() {
        println!("skipped: no transcripts; name their folder with MOSO_PANDA_TRANSCRIPTS");
    }
    found
}

/// What stands between the fences that open with this word.
fn fenced<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("```{word}\n"))?;
    rest.split_once("\n```").map(|(inside, _)| inside)
}

/// The exchanges of a transcript from the line that begins with `from`.
pub fn read(file: &str, from: &str) -> Option<Vec<Exchange>> {
    let text = std::fs::read_to_string(folder()?.join(file)).unwrap();
    let (_, text) = text.split_once(from).unwrap_or_else(|| panic!("{file} has no line {from:?}"));
    // What comes behind the next heading is of another server.
    let text = text.split("\n## ").next().unwrap();
    let mut exchanges = Vec::new();
    for part in text.split("\n### ").skip(1) {
        let (title, rest) = part.split_once('\n').unwrap();
        let Some((_, request)) = title.split_once('`') else { continue };
        let (request, code) = request.split_once("` -> ").unwrap();
        let (verb, path) = request.split_once(' ').unwrap();
        let (head, answer) = rest.split_once("\nresponse (").unwrap();
        let written = fenced(head, "json");
        let body = written.and_then(|body| serde_json::from_str(body).ok());
        let answer = fenced(answer, "json").or_else(|| fenced(answer, "text")).unwrap_or_default();
        exchanges.push(Exchange {
            title: title.to_owned(),
            verb: verb.to_owned(),
            path: path.to_owned(),
            gzip: head.contains("**gzip body"),
            form: head.contains("x-www-form-urlencoded"),
            cut: written.is_some_and(|body| body.contains("...\"")),
            body,
            code: code.trim().parse().unwrap(),
            answer: answer.to_owned(),
        });
    }
    Some(exchanges)
}
