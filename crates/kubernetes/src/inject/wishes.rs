//! The annotations: what a namespace and a pod wish of the sidecar.
//!
//! It decides what each may say. The pod's word goes before the namespace's, annotation by annotation: setting one never
//! erases another. What cannot be read is refused, and what is not known is a warning with the nearest name.

use super::quantity::{self, Quantity};
use crate::PREFIX;
use fusewire_model::yaml::parse_duration;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What people may write.
pub(super) const WISHES: [&str; 16] = [
    "inject",
    "skip-inbound-ports",
    "skip-outbound-ports",
    "opaque-ports",
    "proxy-cpu-request",
    "proxy-cpu-limit",
    "proxy-memory-request",
    "proxy-memory-limit",
    "proxy-log-level",
    "access-log",
    "trace-sample",
    "native-sidecar",
    "drain-deadline",
    "unknown-destinations",
    "app-address",
    "redirect",
];
/// What we write ourselves.
const OURS: [&str; 3] = ["version", "injected", super::others::SUM];

const MAX_DRAIN: Duration = Duration::from_secs(3_600);

/// Read and checked; what was not said is the default.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wishes {
    pub(super) skip_inbound: Option<String>,
    pub(super) skip_outbound: Option<String>,
    pub(super) cpu: Bounds,
    pub(super) memory: Bounds,
    /// Names that the pod itself says, and not its namespace.
    pub(super) own: BTreeSet<String>,
    pub(super) log_level: Option<String>,
    pub(super) access_log: Option<String>,
    pub(super) sample: Option<String>,
    pub(super) native: bool,
    pub(super) drain: Option<Duration>,
    pub(super) refuse_unknown: bool,
    /// What was said of it; else the namespace decides.
    pub(super) redirect: Option<bool>,
    /// The application listens on the pod's address and not on loopback.
    pub(super) app_at_pod: bool,
}

/// Of one resource, as they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) request: String,
    pub(super) limit: Option<String>,
}

impl Wishes {
    /// # Errors
    /// The first annotation that cannot be read, and what it may say.
    pub(super) fn read(
        namespace: &BTreeMap<String, String>,
        pod: &BTreeMap<String, String>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, String> {
        let mut said: BTreeMap<&str, &str> = BTreeMap::new();
        for (key, value) in namespace.iter().chain(pod) {
            if let Some(name) = key.strip_prefix(PREFIX) {
                said.insert(name, value.trim());
            }
        }
        let unknown = said.keys().filter(|name| !WISHES.contains(name) && !OURS.contains(name));
        warnings.extend(unknown.map(|name| unknown_warning(name)));
        let choice = |name, words: &[&str]| choice(&said, name, words);
        let native = choice("native-sidecar", &["enabled", "disabled"])?;
        ports(&said, "opaque-ports")?; // the control plane reads it; a fault is told here
        Ok(Self {
            skip_inbound: ports(&said, "skip-inbound-ports")?,
            skip_outbound: ports(&said, "skip-outbound-ports")?,
            cpu: bounds(&said, ["proxy-cpu-request", "proxy-cpu-limit"], ("10m", None))?,
            memory: bounds(&said, ["proxy-memory-request", "proxy-memory-limit"], ("32Mi", Some("256Mi")))?,
            own: pod.keys().filter_map(|key| key.strip_prefix(PREFIX)).map(str::to_owned).collect(),
            log_level: choice("proxy-log-level", &["off", "error", "warn", "info", "debug"])?,
            access_log: choice("access-log", &["off", "errors", "text", "json"])?,
            sample: said.get("trace-sample").map(|text| sample(text)).transpose()?,
            native: native.is_none_or(|word| word == "enabled"),
            drain: said.get("drain-deadline").map(|text| drain(text)).transpose()?,
            refuse_unknown: choice("unknown-destinations", &["allow", "refuse"])?.is_some_and(|word| word == "refuse"),
            redirect: choice("redirect", &["enabled", "disabled"])?.map(|word| word == "enabled"),
            app_at_pod: choice("app-address", &["loopback", "pod"])?.is_some_and(|word| word == "pod"),
        })
    }
}

fn wrong(name: &str, wanted: &str, got: &str) -> String {
    let got: String = got.chars().take(100).collect();
    format!("the annotation {PREFIX}{name} must be {wanted}, got {got:?}")
}

fn choice(said: &BTreeMap<&str, &str>, name: &str, words: &[&str]) -> Result<Option<String>, String> {
    match said.get(name) {
        None => Ok(None),
        Some(word) if words.contains(word) => Ok(Some((*word).to_owned())),
        Some(other) => Err(wrong(name, &format!("one of {}", words.join(", ")), other)),
    }
}

/// As `fusewire intercept up` takes them, without spaces.
fn ports(said: &BTreeMap<&str, &str>, name: &str) -> Result<Option<String>, String> {
    let Some(text) = said.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    let written: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    let valid = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(a), Ok(b)) if 0 < a && a <= b)
    };
    if written.len() > 64 || !written.iter().all(|part| valid(part)) {
        return Err(wrong(name, "at most 64 ports or ranges with commas between them, such as 3306,8000-8010", text));
    }
    Ok(Some(written.join(",")))
}

fn bounds(
    said: &BTreeMap<&str, &str>,
    [request, limit]: [&str; 2],
    defaults: (&str, Option<&str>),
) -> Result<Bounds, String> {
    let read = |name: &str| -> Result<Option<(&str, Quantity)>, String> {
        let Some(text) = said.get(name) else { return Ok(None) };
        let parsed = quantity::parse(text).filter(|quantity| quantity.is_positive());
        parsed.map(|q| Some((*text, q))).ok_or_else(|| wrong(name, "a quantity such as 100m or 64Mi", text))
    };
    let (wished_request, wished_limit) = (read(request)?, read(limit)?);
    let by_default = (defaults.0.to_owned(), defaults.1.map(str::to_owned));
    match (wished_request, wished_limit) {
        (Some((r, a)), Some((_, b))) if a > b => {
            Err(format!("the annotation {PREFIX}{request} is {r}, which is more than {PREFIX}{limit}"))
        }
        (Some((r, _)), Some((l, _))) => Ok(Bounds { request: r.into(), limit: Some(l.into()) }),
        // a default gives way to what was written
        (Some((r, a)), None) => {
            let limit = by_default.1.filter(|l| quantity::parse(l).is_some_and(|l| a <= l));
            let raised = defaults.1.is_some() && limit.is_none();
            Ok(Bounds { request: r.into(), limit: limit.or_else(|| raised.then(|| r.to_owned())) })
        }
        (None, Some((l, b))) => {
            let fits = quantity::parse(&by_default.0).is_some_and(|request| request <= b);
            Ok(Bounds { request: if fits { by_default.0 } else { l.into() }, limit: Some(l.into()) })
        }
        (None, None) => Ok(Bounds { request: by_default.0, limit: by_default.1 }),
    }
}

/// As `trace.sample` of a policy.
fn sample(text: &str) -> Result<String, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let most = if text.ends_with('%') { 100.0 } else { 1.0 };
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match number.parse::<f64>() {
        Ok(value)
            if digits && number.len() <= 8 && !number.starts_with('.') && !number.ends_with('.') && value <= most =>
        {
            Ok(text.to_owned())
        }
        _ => Err(wrong("trace-sample", "a share such as 1% or 0.01", text)),
    }
}

fn drain(text: &str) -> Result<Duration, String> {
    let parsed = parse_duration(text).filter(|duration| *duration <= MAX_DRAIN);
    parsed.ok_or_else(|| wrong("drain-deadline", "a duration of at most 1h, such as 25s", text))
}

fn unknown_warning(name: &str) -> String {
    let shown: String = name.chars().take(100).collect();
    let near = WISHES.iter().map(|known| (distance(&shown, known), known)).min();
    let near = near.filter(|(distance, known)| *distance <= known.len() / 2).map(|(_, known)| known);
    let remedy = near.map(|known| format!(": did you mean {PREFIX}{known}?")).unwrap_or_default();
    format!("the annotation {PREFIX}{shown} is not known and does nothing{remedy}")
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(namespace: &[(&str, &str)], pod: &[(&str, &str)]) -> (Result<Wishes, String>, Vec<String>) {
        let texts = |all: &[(&str, &str)]| all.iter().map(|(k, v)| (format!("{PREFIX}{k}"), (*v).to_owned())).collect();
        let mut warnings = Vec::new();
        let wishes = Wishes::read(&texts(namespace), &texts(pod), &mut warnings);
        (wishes, warnings)
    }

    #[test]
    fn the_pods_word_goes_before_the_namespaces_and_erases_no_other() {
        let (wishes, warnings) = read(
            &[("proxy-memory-limit", "128Mi"), ("access-log", "json"), ("proxy-cpu-limit", "1")],
            &[("proxy-memory-limit", "64Mi")],
        );
        let wishes = wishes.unwrap();
        assert_eq!(wishes.memory, Bounds { request: "32Mi".into(), limit: Some("64Mi".into()) });
        assert_eq!(wishes.cpu, Bounds { request: "10m".into(), limit: Some("1".into()) });
        assert_eq!(wishes.access_log.as_deref(), Some("json"));
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn a_default_gives_way_to_what_is_written() {
        let of = |all: &[(&str, &str)]| read(&[], all).0.unwrap().memory;
        let bounds = |request: &str, limit: &str| Bounds { request: request.into(), limit: Some(limit.into()) };
        assert_eq!(of(&[("proxy-memory-limit", "16Mi")]), bounds("16Mi", "16Mi"));
        assert_eq!(of(&[("proxy-memory-request", "1Gi")]), bounds("1Gi", "1Gi"));
        assert_eq!(of(&[("proxy-memory-request", "64Mi")]), bounds("64Mi", "256Mi"));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_what_it_may_be() {
        for (name, value, wanted) in [
            ("skip-inbound-ports", "80,http", "ports or ranges"),
            ("opaque-ports", "0", "ports or ranges"),
            ("proxy-cpu-request", "lots", "a quantity"),
            ("proxy-cpu-request", "-1", "a quantity"),
            ("proxy-log-level", "loud", "off, error, warn, info, debug"),
            ("access-log", "yes", "off, errors, text, json"),
            ("trace-sample", "200%", "a share"),
            ("native-sidecar", "true", "enabled, disabled"),
            ("drain-deadline", "25", "a duration"),
            ("drain-deadline", "2h", "a duration"),
            ("unknown-destinations", "deny", "allow, refuse"),
            ("app-address", "10.0.0.1", "loopback, pod"),
            ("redirect", "false", "enabled, disabled"),
        ] {
            let why = read(&[], &[(name, value)]).0.unwrap_err();
            assert!(why.contains(wanted) && why.contains(name) && why.contains(value), "{why}");
        }
        let both = [("proxy-memory-request", "1Gi"), ("proxy-memory-limit", "1000Mi")];
        assert!(read(&[], &both).0.unwrap_err().contains("more than"));
    }

    #[test]
    fn an_annotation_that_is_not_known_is_a_warning_with_the_nearest_name() {
        let (_, warnings) = read(&[("opaqueports", "1")], &[("weather", "fine"), ("version", "0.1.0")]);
        assert_eq!(
            warnings,
            [
                "the annotation fusewire.io/opaqueports is not known and does nothing: did you mean \
                 fusewire.io/opaque-ports?",
                "the annotation fusewire.io/weather is not known and does nothing"
            ]
        );
    }
}
