//! The two forms of `/metrics`: OpenMetrics 1.0 for who asks for it, Prometheus' text format 0.0.4 for everybody else.
//!
//! It decides by the `Accept` field, and makes the second from the first: a counter's family carries `_total` there, and
//! there are no exemplars and no end mark. It deliberately speaks no protobuf and no older OpenMetrics.

use http::{HeaderMap, header};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// Prometheus' own, version 0.0.4: what curl, promtool and most agents read.
    #[default]
    Text,
    OpenMetrics,
}

impl Format {
    /// What the `Accept` fields of a request prefer; OpenMetrics only where it is named.
    pub fn accepted(headers: &HeaderMap) -> Self {
        let (mut open, mut text) = (0.0_f32, 0.0_f32);
        let fields = headers.get_all(header::ACCEPT).iter().filter_map(|field| field.to_str().ok());
        for range in fields.flat_map(|field| field.split(',')) {
            let (media, quality, version) = range_of(range);
            match media.as_str() {
                "application/openmetrics-text" if version.is_none_or(|v| v == "1.0.0") => open = open.max(quality),
                "text/plain" => text = text.max(quality),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { Self::OpenMetrics } else { Self::Text }
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// `openmetrics`, as our encoder writes it, in this form.
    pub fn write(self, openmetrics: String) -> String {
        match self {
            Self::Text => text(&openmetrics),
            Self::OpenMetrics => openmetrics,
        }
    }
}

/// One media range of `Accept` (RFC 9110, section 12.5.1): type, quality, and its `version` parameter.
fn range_of(range: &str) -> (String, f32, Option<&str>) {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default().to_ascii_lowercase();
    let (mut quality, mut version) = (1.0, None);
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        if name.eq_ignore_ascii_case("q") {
            quality = value.parse().ok().filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0);
        } else if name.eq_ignore_ascii_case("version") {
            version = Some(value.trim_matches('"'));
        }
    }
    (media, quality, version)
}

fn text(openmetrics: &str) -> String {
    let mut out = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.lines() {
        if let Some(words) = line.strip_prefix("# HELP ") {
            help = words.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|words| words.split_once(' ')) {
            let total = if kind == "counter" { "_total" } else { "" };
            if let Some((_, words)) = help.take() {
                out.push_str(&format!("# HELP {name}{total} {words}\n"));
            }
            out.push_str(&format!("# TYPE {name}{total} {kind}\n"));
        } else if !line.starts_with('#') {
            out.push_str(without_exemplar(line));
            out.push('\n');
        }
    }
    out
}

/// A label's value may hold what an exemplar begins with.
fn without_exemplar(line: &str) -> &str {
    let (mut quoted, mut escaped, mut after) = (false, false, 0);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => {
                after = at + 1;
                break;
            }
            _ => {}
        }
    }
    match line[after..].find(" # ") {
        Some(at) => &line[..after + at],
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn chosen(accept: &[&'static str]) -> Format {
        let fields = accept.iter().map(|value| (header::ACCEPT, HeaderValue::from_static(value)));
        Format::accepted(&fields.collect())
    }

    #[test]
    fn openmetrics_is_for_who_asks_for_it_and_prefers_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(chosen(&[prometheus]), Format::OpenMetrics);
        assert_eq!(
            chosen(&["text/plain;q=0.5", "Application/OpenMetrics-Text; version=\"1.0.0\""]),
            Format::OpenMetrics
        );
        for other in [
            "*/*",
            "text/plain",
            "text/*, application/openmetrics-text;q=0",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;q=0.3, text/plain;q=0.4",
            "application/openmetrics-text;q=x",
            ";;=,,q=",
        ] {
            assert_eq!(chosen(&[other]), Format::Text, "{other}");
        }
        assert_eq!(chosen(&[]), Format::Text);
    }

    #[test]
    fn the_older_form_has_totals_in_its_families_and_neither_exemplars_nor_an_end() {
        let openmetrics = "# HELP x_bytes Bytes # of all\n# TYPE x_bytes counter\n# UNIT x_bytes bytes\n\
                           x_bytes_total{route=\"a} # {\\\"b\"} 3\n\
                           # HELP t Time\n# TYPE t histogram\n\
                           t_bucket{le=\"0.1\"} 1 # {trace_id=\"0af7651916cd43dd8448eb211c80319c\"} 0.05 1.0\n# EOF\n";
        let wanted = "# HELP x_bytes_total Bytes # of all\n# TYPE x_bytes_total counter\n\
                      x_bytes_total{route=\"a} # {\\\"b\"} 3\n\
                      # HELP t Time\n# TYPE t histogram\nt_bucket{le=\"0.1\"} 1\n";
        assert_eq!(Format::Text.write(openmetrics.into()), wanted);
        assert_eq!(Format::OpenMetrics.write(openmetrics.into()), openmetrics);
    }
}
