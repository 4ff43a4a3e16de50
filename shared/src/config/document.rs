//! A TOML file taken apart table by table, collecting problems instead of stopping at the first.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::{FieldProblem, Places, Problem, Problems};

/// A parsed file. Take the tables out of it, report what is wrong with them, then [`Document::finish`].
pub struct Document<'t> {
    root: DeTable<'t>,
    places: Places,
    /// Where the text of a string begins that stands there as it is read, by its dotted path.
    texts: BTreeMap<String, Place>,
    problems: BTreeSet<Problem>,
    secret_files: BTreeSet<PathBuf>,
}

/// A place in the file, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    line: usize,
    column: usize,
}

/// Keys whose value is the path of a secret.
const SECRET_FILES: [&str; 5] = ["secret_file", "password_file", "key_file", "mask_secret_file", "token_file"];

/// One table of the file, not read yet.
pub struct Section<'d, 't> {
    document: &'d mut Document<'t>,
    path: String,
    value: Spanned<DeValue<'t>>,
}

/// A table whose `type` key says what the rest of it is.
pub trait Tagged: Sized {
    /// The accepted types.
    const TYPES: &'static [&'static str];

    /// Reads the rest of the table as the type says. `kind` is one of [`Tagged::TYPES`].
    fn read(kind: &str, section: Section<'_, '_>) -> Option<Self>;
}

impl<'t> Document<'t> {
    /// Parses a file's text and fills in `${NAME}` from the environment; `$${` stands for a plain `${`.
    ///
    /// Problems of the syntax and of missing variables are kept, not returned, like all others.
    #[must_use]
    pub fn parse(file: &str, text: &'t str, env: &dyn Fn(&str) -> Option<String>) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut root = root.into_inner();
        let mut document = Self {
            root: DeTable::new(),
            places: Places { file: file.to_owned(), lines: BTreeMap::new() },
            texts: BTreeMap::new(),
            problems: BTreeSet::new(),
            secret_files: BTreeSet::new(),
        };
        for error in errors {
            let line = error.span().map(|span| place_of(text, span.start).line);
            document.problems.insert(Problem { line, path: String::new(), text: error.message().to_owned() });
        }
        for (key, value) in &mut root {
            document.walk(key.get_ref(), key.span(), value, text, env);
        }
        document.root = root;
        document
    }

    fn walk(
        &mut self,
        path: &str,
        key: Range<usize>,
        value: &mut Spanned<DeValue<'t>>,
        whole: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) {
        self.places.lines.insert(path.to_owned(), place_of(whole, key.start).line);
        let span = value.span();
        match value.get_mut() {
            DeValue::String(text) => {
                match interpolate(text, env) {
                    Ok(Some(filled)) => *text = Cow::Owned(filled),
                    Ok(None) => self.texts.extend(text_at(whole, span).map(|place| (path.to_owned(), place))),
                    Err(problem) => self.problem(path, problem),
                }
                if path.rsplit('.').next().is_some_and(|name| SECRET_FILES.contains(&name)) {
                    self.secret_files.insert(PathBuf::from(&**text));
                }
            }
            DeValue::Array(items) => {
                for (place, item) in items.iter_mut().enumerate() {
                    let at = item.span();
                    // Tables of an array are counted from 1, and stand where they begin.
                    if let DeValue::Table(_) = item.get_ref() {
                        self.walk(&format!("{path}.{}", place + 1), at, item, whole, env);
                    } else {
                        self.walk(path, key.clone(), item, whole, env);
                    }
                }
            }
            DeValue::Table(table) => {
                for (name, value) in table {
                    self.walk(&format!("{path}.{}", name.get_ref()), name.span(), value, whole, env);
                }
            }
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
        }
    }

    /// Warns of each file of a secret that every user of the machine can read. A link is judged by what it leads to.
    pub fn warn_of_open_secrets(&self) {
        for path in self.secret_files.iter().filter(|path| is_open(path)) {
            tracing::warn!(file = %path.display(), "every user of this machine can read this secret; chmod o-r");
        }
    }

    /// Adds a problem at a dotted path; the line is that of the path or of the nearest key around it.
    pub fn problem(&mut self, path: &str, text: impl Into<String>) {
        let line = self.places.line(path);
        self.problems.insert(Problem { line, path: path.to_owned(), text: text.into() });
    }

    /// Adds a problem at a line and a column, both from 1, of the text that stands at a dotted path.
    pub fn problem_within(&mut self, path: &str, (line, column): (usize, usize), text: &str) {
        match self.texts.get(path).copied() {
            Some(start) => {
                let column = if line == 1 { start.column + column - 1 } else { column };
                let text = format!("column {column}: {text}");
                self.problems.insert(Problem { line: Some(start.line + line - 1), path: path.to_owned(), text });
            }
            None => self.problem(path, format!("line {line}, column {column} of the text: {text}")),
        }
    }

    /// Adds what the settings of the table at this path say is wrong with them.
    pub fn report(&mut self, path: &str, problems: impl IntoIterator<Item = FieldProblem>) {
        for (field, text) in problems {
            self.problem(&format!("{path}.{field}"), text);
        }
    }

    /// Takes the table `[name]`; `None` when it is absent or unfit.
    pub fn table<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        self.section(name)?.read()
    }

    /// Takes the table `[name]` by its `type`; `None` when it is absent or unfit.
    pub fn tagged<T: Tagged>(&mut self, name: &str) -> Option<T> {
        self.section(name)?.read_tagged()
    }

    /// Takes all tables `[name.x]`, by `x`.
    pub fn tables<T: DeserializeOwned>(&mut self, name: &str) -> BTreeMap<String, T> {
        self.each(name, |section| section.read())
    }

    /// The same; `explain` says of keys that mean something elsewhere why they have no meaning here.
    pub fn tables_explained<T: DeserializeOwned>(
        &mut self,
        name: &str,
        explain: fn(&str) -> Option<&'static str>,
    ) -> BTreeMap<String, T> {
        self.each(name, |mut section| {
            section.take_out(explain);
            section.read()
        })
    }

    /// Takes all tables `[name.x]` by their `type`, by `x`.
    pub fn tagged_tables<T: Tagged>(&mut self, name: &str) -> BTreeMap<String, T> {
        self.each(name, |section| section.read_tagged())
    }

    /// Leaves tables of these names unread, with their problems: they are another service's.
    pub fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.root.remove(*name);
            let within =
                |path: &str| path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            self.problems.retain(|problem| !within(&problem.path));
        }
    }

    /// Whether there is a table of this name that was not taken yet.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.root.get(name).is_some()
    }

    /// Where its keys stand.
    #[must_use]
    pub const fn places(&self) -> &Places {
        &self.places
    }

    /// Whether the file has a key at this dotted path, fit or not.
    #[must_use]
    pub fn writes(&self, path: &str) -> bool {
        self.places.lines.contains_key(path)
    }

    /// Ends reading: tables nobody took are problems too.
    ///
    /// # Errors
    /// All problems, in the order of their lines.
    pub fn finish(mut self, known: &[&str]) -> Result<(), Problems> {
        let left: Vec<String> = self.root.keys().map(|key| key.get_ref().to_string()).collect();
        for name in left {
            self.problem(&name, format!("unknown table; accepted: {}", known.join(", ")));
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        Err(Problems { file: self.places.file, list: self.problems.into_iter().collect() })
    }

    fn section(&mut self, name: &str) -> Option<Section<'_, 't>> {
        let value = self.root.remove(name)?;
        Some(Section { document: self, path: name.to_owned(), value })
    }

    fn each<T>(&mut self, name: &str, read: impl for<'d> Fn(Section<'d, 't>) -> Option<T>) -> BTreeMap<String, T> {
        let Some(group) = self.root.remove(name) else { return BTreeMap::new() };
        let DeValue::Table(entries) = group.into_inner() else {
            self.problem(name, format!("is not a table; write [{name}.NAME]"));
            return BTreeMap::new();
        };
        let mut all = BTreeMap::new();
        for (key, value) in entries {
            let key = key.into_inner().into_owned();
            let path = format!("{name}.{key}");
            if let Some(one) = read(Section { document: &mut *self, path, value }) {
                all.insert(key, one);
            }
        }
        all
    }
}

impl<'t> Section<'_, 't> {
    /// Reads the table; `None` after reporting what is wrong with it.
    ///
    /// A key that does not fit is reported, taken out and the rest read again, so that all of them are found.
    #[must_use]
    pub fn read<T: DeserializeOwned>(mut self) -> Option<T> {
        let mut removed = Vec::new();
        loop {
            let error = match T::deserialize(ValueDeserializer::from(self.value.clone())) {
                Ok(value) if removed.is_empty() => return Some(value),
                Ok(_) => return None,
                Err(error) => error,
            };
            let text = error.message().to_owned();
            let place = error.span().and_then(|span| remove_at(self.keys()?, span.start));
            match place {
                Some(place) => {
                    self.document.problem(&format!("{}.{place}", self.path), text);
                    removed.push(place);
                }
                None => {
                    let of_removed = removed.iter().any(|name| text == format!("missing field `{name}`"));
                    if !of_removed {
                        self.document.problem(&self.path, text);
                    }
                    return None;
                }
            }
        }
    }

    /// Reports the keys that have no meaning here, and takes them out.
    fn take_out(&mut self, explain: fn(&str) -> Option<&'static str>) {
        let Some(keys) = self.keys() else { return };
        let explained = |key: &Spanned<Cow<'_, str>>| Some((key.get_ref().to_string(), explain(key.get_ref())?));
        let found: Vec<_> = keys.keys().filter_map(explained).collect();
        for (key, text) in found {
            self.keys().and_then(|keys| keys.remove(key.as_str()));
            self.document.problem(&format!("{}.{key}", self.path), text);
        }
    }

    fn keys(&mut self) -> Option<&mut DeTable<'t>> {
        if let DeValue::Table(table) = self.value.get_mut() { Some(table) } else { None }
    }

    fn read_tagged<T: Tagged>(mut self) -> Option<T> {
        let accepted = || format!("accepted: {}", T::TYPES.join(", "));
        let Some(kind) = self.keys().and_then(|table| table.remove("type")) else {
            self.document.problem(&self.path, format!("missing key `type`; {}", accepted()));
            return None;
        };
        if let DeValue::String(kind) = kind.get_ref()
            && T::TYPES.contains(&kind.as_ref())
        {
            return T::read(kind, self);
        }
        self.document.problem(&format!("{}.type", self.path), format!("unknown type; {}", accepted()));
        None
    }
}

/// Takes out the innermost key whose name or value covers this place of the file; its dotted path.
fn remove_at(table: &mut DeTable<'_>, at: usize) -> Option<String> {
    // What stands under a header of its own is not covered by the tables around it.
    for (key, value) in table.iter_mut() {
        if let DeValue::Table(inner) = value.get_mut()
            && let Some(place) = remove_at(inner, at)
        {
            return Some(format!("{}.{place}", key.get_ref()));
        }
    }
    let name = table
        .iter()
        .find(|(key, value)| key.span().contains(&at) || value.span().contains(&at))
        .map(|(key, _)| key.get_ref().to_string())?;
    table.remove(name.as_str());
    Some(name)
}

#[cfg(unix)]
fn is_open(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
const fn is_open(_: &Path) -> bool {
    false
}

fn place_of(whole: &str, at: usize) -> Place {
    let before = whole.get(..at).unwrap_or(whole);
    let line = before.rsplit('\n').next().unwrap_or_default();
    Place { line: before.matches('\n').count() + 1, column: line.chars().count() + 1 }
}

/// Where the text of a string begins; `None` when it has escapes, and places in it are others than in the file.
fn text_at(whole: &str, span: Range<usize>) -> Option<Place> {
    let raw = whole.get(span.clone())?;
    let quotes = ["'''", "\"\"\"", "'", "\""].into_iter().find(|quotes| raw.starts_with(quotes))?;
    if quotes.starts_with('"') && raw.contains('\\') {
        return None;
    }
    let text = raw.get(quotes.len()..)?;
    let newline = ["\r\n", "\n"].into_iter().find(|newline| quotes.len() == 3 && text.starts_with(newline));
    Some(place_of(whole, span.start + quotes.len() + newline.map_or(0, str::len)))
}

/// Fills in `${NAME}`; `None` when there is nothing to fill in.
fn interpolate(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(plain) = before.strip_suffix('$') {
            filled.push_str(plain);
            filled.push_str("${");
            rest = after;
            continue;
        }
        let (name, tail) = after.split_once('}').ok_or("a `${` has no closing `}`; write `$${` for a plain `${`")?;
        let value = env(name).ok_or_else(|| format!("environment variable {name:?} is not set"))?;
        filled.push_str(before);
        filled.push_str(&value);
        rest = tail;
    }
    filled.push_str(rest);
    Ok(Some(filled))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Share {
        table: String,
        #[serde(default)]
        on: Vec<String>,
        #[serde(default)]
        limits: BTreeMap<String, u32>,
    }

    fn document(text: &str) -> Document<'_> {
        Document::parse("syncline.toml", text, &|name| (name == "TABLE").then(|| "incident".to_owned()))
    }

    #[test]
    fn every_problem_is_reported_with_its_line() {
        let mut document = document(
            "[share.a]\ntable = 5\non = [\"insert\", 7]\ncolour = \"red\"\n\n[share.b]\nlimits = { deep = \"x\" }\n\n[shar.c]\nx = 1\n[share.d]\ntable = \"${NOPE}\"\n",
        );
        assert_eq!(document.tables::<Share>("share").len(), 1);
        let problems = document.finish(&["share"]).expect_err("problems").to_string();
        let lines: Vec<_> = problems.lines().collect();
        assert_eq!(lines.len(), 7, "{problems}");
        assert!(lines[0].starts_with("syncline.toml:2: share.a.table: invalid type: integer `5`"), "{problems}");
        assert!(lines[1].starts_with("syncline.toml:3: share.a.on: "), "{problems}");
        assert!(lines[2].starts_with("syncline.toml:4: share.a.colour: unknown field"), "{problems}");
        assert!(lines[3].starts_with("syncline.toml:6: share.b: missing field `table`"), "{problems}");
        assert!(lines[4].starts_with("syncline.toml:7: share.b.limits.deep: "), "{problems}");
        assert!(lines[5].starts_with("syncline.toml:9: shar: unknown table; accepted: share"), "{problems}");
        assert!(lines[6].contains("share.d.table: environment variable \"NOPE\" is not set"), "{problems}");
    }

    #[test]
    fn the_environment_fills_strings_in() {
        let mut document = document("[share.a]\ntable = \"x_${TABLE}_$${TABLE}\"\n");
        let shares = document.tables::<Share>("share");
        assert_eq!(shares["a"].table, "x_incident_${TABLE}");
        document.finish(&[]).expect("no problems");
    }

    #[test]
    fn what_another_service_reads_is_no_problem_here() {
        let mut document = document("[target.crm]\npassword = \"${NOPE}\"\n[targets.x]\ny = 1\n");
        document.ignore(&["target"]);
        assert_eq!(document.finish(&["target"]).expect_err("one problem").list.len(), 1);
    }

    #[test]
    fn a_place_within_a_text_is_told_as_one_of_the_file() {
        let text = "[a]\nx = '''\none\ntwo\n'''\ny = 'one'\nz = \"o\\tne\"\nv = \"\"\"one\n${TABLE}\"\"\"\n";
        let mut document = document(text);
        for (path, place) in [("a.x", (2, 3)), ("a.y", (1, 2)), ("a.z", (1, 2)), ("a.v", (1, 3))] {
            document.problem_within(path, place, "no");
        }
        let problems = document.finish(&["a"]).expect_err("problems").to_string();
        let told: Vec<_> = problems.lines().skip(1).map(|line| line.trim_start_matches("syncline.toml:")).collect();
        assert_eq!(
            told,
            [
                "4: a.x: column 3: no",
                "6: a.y: column 7: no",
                "7: a.z: line 1, column 2 of the text: no",
                "8: a.v: line 1, column 3 of the text: no",
            ]
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_secret_that_everybody_can_read_is_found_through_a_link() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().expect("a folder");
        let (file, link) = (folder.path().join("secret"), folder.path().join("link"));
        std::fs::write(&file, "x").expect("written");
        symlink(&file, &link).expect("linked");
        for (mode, open) in [(0o644, true), (0o640, false), (0o600, false)] {
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).expect("changed");
            assert_eq!(is_open(&link), open, "{mode:o}");
        }
        let text = "[key.a]\nsecret_file = \"x\"\n[target.b]\npassword_file = \"y\"\ntls.key_file = \"z\"\ntls.ca_file = \"n\"\n";
        assert_eq!(document(text).secret_files, ["x", "y", "z"].map(PathBuf::from).into());
    }

    #[test]
    fn broken_syntax_is_a_problem_with_a_line() {
        let problems = document("[share.a\ntable = \n").finish(&["share"]).expect_err("problems");
        assert!(problems.list.iter().any(|problem| problem.line.is_some() && problem.path.is_empty()), "{problems}");
    }
}
