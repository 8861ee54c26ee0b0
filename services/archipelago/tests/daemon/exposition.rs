//! Reads the text format of Prometheus, strictly: everything that its own linter would complain of stops the test.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

#[derive(Debug, Default)]
pub struct Page {
    pub types: BTreeMap<String, String>,
    pub samples: Vec<Sample>,
}

impl Page {
    /// The one sample with this name and these labels.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |s: &&Sample| {
            s.name == name && labels.iter().all(|(key, value)| s.labels.get(*key).is_some_and(|v| v == value))
        };
        let found: Vec<f64> = self.samples.iter().filter(fits).map(|s| s.value).collect();
        assert_eq!(found.len(), 1, "{name} {labels:?}");
        found[0]
    }
}

#[track_caller]
pub fn parse(text: &str) -> Page {
    assert!(text.ends_with('\n'));
    let mut page = Page::default();
    let (mut family, mut seen) = (String::new(), BTreeSet::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.trim().is_empty(), "{line}");
            let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap().to_string();
            assert!(is_name(name) && !page.types.contains_key(name), "{line}");
            match kind.as_str() {
                "counter" => assert!(name.ends_with("_total"), "{name}"),
                "gauge" => assert!(!name.ends_with("_total") && !name.ends_with("_count"), "{name}"),
                "histogram" => assert!(name.ends_with("_seconds"), "{name}"),
                other => panic!("{name}: {other}"),
            }
            for unit in ["milliseconds", "_ms", "kilobytes", "_kb", "percent", "minutes"] {
                assert!(!name.contains(unit), "{name} is not in a base unit");
            }
            family = name.to_string();
            page.types.insert(family.clone(), kind);
            continue;
        }
        let sample = sample(line);
        let of_family = match page.types[&family].as_str() {
            "histogram" => ["_bucket", "_sum", "_count"].iter().any(|s| sample.name == format!("{family}{s}")),
            _ => sample.name == family,
        };
        assert!(of_family, "{line} is among those of {family}");
        assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "twice: {line}");
        page.samples.push(sample);
    }
    check_histograms(&page);
    page
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn sample(line: &str) -> Sample {
    let (name, labels, value) = match line.split_once('{') {
        Some((name, rest)) => {
            let (labels, value) = rest.rsplit_once("} ").unwrap();
            (name, labels, value)
        }
        None => line.split_once(' ').map(|(name, value)| (name, "", value)).unwrap(),
    };
    assert!(is_name(name), "{line}");
    let mut found = BTreeMap::new();
    let mut rest = labels;
    while !rest.is_empty() {
        let (label, behind) = rest.split_once("=\"").unwrap();
        assert!(is_name(label), "{line}");
        // Names of volumes have neither quotes nor backslashes.
        let (value, behind) = behind.split_once('"').unwrap();
        assert!(!value.contains('\\'), "{line}");
        assert!(found.insert(label.to_string(), value.to_string()).is_none(), "{line}");
        rest = behind.strip_prefix(',').unwrap_or(behind);
    }
    Sample { name: name.into(), labels: found, value: value.parse().unwrap() }
}

/// Buckets grow with their bound, the last is for everything, and the count is that of the last.
fn check_histograms(page: &Page) {
    for family in page.types.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name) {
        let mut series: BTreeMap<_, Vec<(f64, f64)>> = BTreeMap::new();
        for sample in page.samples.iter().filter(|s| s.name == format!("{family}_bucket")) {
            let mut labels = sample.labels.clone();
            let bound = labels.remove("le").unwrap().replace("+Inf", "inf").parse().unwrap();
            series.entry(labels).or_default().push((bound, sample.value));
        }
        for (labels, buckets) in series {
            assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{family} {labels:?}: {buckets:?}");
            let last = buckets.last().unwrap();
            let pairs: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            assert_eq!((last.0, last.1), (f64::INFINITY, page.value(&format!("{family}_count"), &pairs)));
            assert!(page.value(&format!("{family}_sum"), &pairs) >= 0.0);
        }
    }
}
