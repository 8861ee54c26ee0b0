//! The syntax of the original's configuration file: sections of keys, as Python's ConfigParser reads them.

use std::collections::BTreeMap;

/// Section whose keys count in every other one.
const DEFAULT: &str = "DEFAULT";

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Number of the line, from 1.
    pub line: usize,
    /// What, for people.
    pub reason: String,
}

impl Wrong {
    /// At a line.
    pub fn at(line: usize, reason: impl Into<String>) -> Wrong {
        Wrong { line, reason: reason.into() }
    }
}

/// A value, and the line of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key as it is written.
    pub key: String,
    /// Its text, without blanks around it; the lines of a long one are joined with `\n`.
    pub value: String,
    /// Number of the line, from 1.
    pub line: usize,
}

/// A section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// Line of its head, from 1.
    pub line: usize,
    /// By key in lower case: keys are the same in either.
    pub entries: BTreeMap<String, Entry>,
}

impl Section {
    /// The value of a key, given in lower case.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }
}

/// Reads a file. Of a key that is there twice the last counts.
pub fn parse(text: &str) -> Result<BTreeMap<String, Section>, Wrong> {
    let mut sections: BTreeMap<String, Section> = BTreeMap::new();
    let mut section: Option<String> = None;
    let mut last: Option<String> = None;
    for (line, text) in (1..).zip(text.lines()) {
        let trimmed = text.trim();
        if trimmed.is_empty() || text.starts_with(['#', ';']) || is_remark(text) {
            continue;
        }
        let mut current = section.as_ref().and_then(|name| sections.get_mut(name));
        if text.starts_with(char::is_whitespace)
            && let (Some(current), Some(key)) = (&mut current, &last)
            && let Some(entry) = current.entries.get_mut(key)
        {
            // A comment may stand between the lines of a value.
            if !trimmed.starts_with(['#', ';']) {
                entry.value.push('\n');
                entry.value.push_str(trimmed);
            }
            continue;
        }
        if let Some(rest) = trimmed.strip_prefix('[') {
            let Some((name, _)) = rest.split_once(']').filter(|(name, _)| !name.is_empty()) else {
                return Err(Wrong::at(line, "a section is written [NAME]"));
            };
            sections.entry(name.to_string()).or_insert_with(|| Section { line, ..Section::default() });
            section = Some(name.to_string());
            last = None;
            continue;
        }
        let Some(current) = current else {
            return Err(Wrong::at(line, "a key stands before the first [SECTION]"));
        };
        let Some((key, value)) = trimmed.split_once(['=', ':']).filter(|(key, _)| !key.trim().is_empty()) else {
            return Err(Wrong::at(line, format!("{trimmed:?} is neither KEY = VALUE nor [SECTION]")));
        };
        let (key, value) = (key.trim(), without_comment(value).trim());
        if value.contains("%(") {
            return Err(Wrong::at(line, format!("`{key}`: %(NAME)s is not replaced here; write the value itself")));
        }
        let value = if value == "\"\"" { "" } else { value };
        let entry = Entry { key: key.to_string(), value: value.to_string(), line };
        current.entries.insert(key.to_lowercase(), entry);
        last = Some(key.to_lowercase());
    }
    inherit(&mut sections);
    Ok(sections)
}

/// Whether a line begins with the word `rem`, in any case, which is a comment too.
fn is_remark(line: &str) -> bool {
    line.split(char::is_whitespace).next().is_some_and(|word| word.eq_ignore_ascii_case("rem"))
}

/// A value up to a semicolon behind a blank.
fn without_comment(value: &str) -> &str {
    let mut blank = false;
    for (at, c) in value.char_indices() {
        if c == ';' && blank {
            return &value[..at];
        }
        blank = c.is_whitespace();
    }
    value
}

/// Gives every section what the section of defaults has and it has not.
fn inherit(sections: &mut BTreeMap<String, Section>) {
    let Some(defaults) = sections.remove(DEFAULT) else { return };
    // A file is a page; but whoever writes thousands of sections and defaults is given none of them rather than their product.
    const MOST: usize = 1 << 16;
    if defaults.entries.len().saturating_mul(sections.len()) > MOST {
        return;
    }
    for section in sections.values_mut() {
        for (key, entry) in &defaults.entries {
            section.entries.entry(key.clone()).or_insert_with(|| entry.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, section: &str, key: &str) -> Option<String> {
        Some(parse(text).unwrap().get(section)?.get(key)?.value.clone())
    }

    #[test]
    fn files_are_read_as_python_reads_them() {
        let text = "# comment\n; comment\nREM comment\n\n[A b]\nKey = one two ; comment\nother: x;y\nempty =\nquoted = \"\"\n\
            long = a\n   b\n  # not in it\n\tc\n[DEFAULT]\nshared = 1\nkey = 2\n[C]\nshared=3\nshared = 4\n";
        for (section, key, expected) in [
            ("A b", "key", "one two"),
            ("A b", "other", "x;y"),
            ("A b", "empty", ""),
            ("A b", "quoted", ""),
            ("A b", "long", "a\nb\nc"),
            ("A b", "shared", "1"),
            ("C", "shared", "4"),
            ("C", "key", "2"),
        ] {
            assert_eq!(value(text, section, key).as_deref(), Some(expected), "[{section}] {key}");
        }
        assert_eq!(parse(text).unwrap()["A b"].entries["other"].line, 7);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_line() {
        for (text, line) in [
            ("key = 1\n", 1),
            ("[A]\nkey\n", 2),
            ("[A]\n= 1\n", 2),
            ("[A\n", 1),
            ("[]\n", 1),
            ("[A]\n\nkey = %(home)s/x\n", 3),
            ("  key = 1\n", 1),
        ] {
            assert_eq!(parse(text).unwrap_err().line, line, "{text:?}");
        }
    }
}
