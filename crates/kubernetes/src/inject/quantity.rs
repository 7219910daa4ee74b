//! Quantities of Kubernetes (`100m`, `64Mi`, `1e3`), to compare them.
//!
//! <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>

/// In thousandths, rounded up; exact for everything that a container's resources need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Quantity(u128);

impl Quantity {
    pub(super) fn is_positive(self) -> bool {
        self.0 > 0
    }
}

/// `None`: it is none, or negative, or beyond all measure.
pub(super) fn parse(text: &str) -> Option<Quantity> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > 20 || fraction.contains('.') {
        return None;
    }
    let (multiplier, divisor): (u128, u128) = match suffix {
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "" => (1, 1),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        other => (10_u128.checked_pow(exponent(other)?)?, 1),
    };
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let thousandths = digits.parse::<u128>().ok()?.checked_mul(multiplier)?.checked_mul(1_000)?;
    Some(Quantity(thousandths.div_ceil(divisor.checked_mul(scale)?)))
}

/// `e3`, `E3`.
fn exponent(suffix: &str) -> Option<u32> {
    let digits = suffix.strip_prefix(['e', 'E'])?;
    digits.parse().ok().filter(|exponent| *exponent <= 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_compared_whatever_their_suffix() {
        let of = |text| parse(text).unwrap();
        assert_eq!(of("0.5"), of("500m"));
        assert_eq!(of("1e3"), of("1k"));
        assert!(of("1Gi") > of("1G") && of("1000Mi") < of("1Gi") && of("1n") > of("0"));
        for none in ["", "Mi", "1.2.3", "-1", "1 Mi", "1mi", "e3", "1e99", "9".repeat(40).as_str()] {
            assert_eq!(parse(none), None, "{none}");
        }
    }
}
