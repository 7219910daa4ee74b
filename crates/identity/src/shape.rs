//! What our certificates look like, to the last extension: roots, cross certificates, leaves.
//!
//! It decides names, usages, times and serial numbers. It deliberately signs nothing and asks nobody: who may have a
//! certificate is for the caller.
//!
//! Invariant: nothing in here comes from a request.

use fusewire_model::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType, SerialNumber,
};
use time::OffsetDateTime;

use crate::CONTROL_PATH;
use crate::error::IdentityError;
use crate::request::SignError;

const ROOT_LIFETIME: u64 = 3652 * 24 * 3600; // ten years
/// Certificates hold a little into the past: clocks in a fleet differ.
pub(crate) const BACKDATE: u64 = 60;

/// How far into the past a leaf of this lifetime holds. A tenth at most: a leaf of seconds would otherwise be due for
/// renewal when it is born.
pub(crate) fn backdate(lifetime: u64) -> u64 {
    BACKDATE.min(lifetime / 10)
}

/// A root for `domain`, beginning now.
pub(crate) fn root(domain: &TrustDomain, now: u64) -> Result<CertificateParams, IdentityError> {
    // one below it: while a root is replaced, it also stands as an intermediate under another
    let mut params = ca(domain, 1)?;
    params.not_before = calendar(now.saturating_sub(BACKDATE)).map_err(IdentityError::Crypto)?;
    params.not_after = calendar(now.saturating_add(ROOT_LIFETIME)).map_err(IdentityError::Crypto)?;
    Ok(params)
}

/// The certificate by which one root vouches for another's name and key, until either ends.
pub(crate) fn cross(domain: &TrustDomain, not_before: u64, not_after: u64) -> Result<CertificateParams, IdentityError> {
    let mut params = ca(domain, 0)?;
    params.use_authority_key_identifier_extension = true; // both carry one name, so this tells them apart
    params.not_before = calendar(not_before).map_err(IdentityError::Crypto)?;
    params.not_after = calendar(not_after).map_err(IdentityError::Crypto)?;
    Ok(params)
}

fn ca(domain: &TrustDomain, below: u8) -> Result<CertificateParams, IdentityError> {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("Fusewire root {domain}"));
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial().map_err(IdentityError::Crypto)?);
    Ok(params)
}

/// A leaf: one SPIFFE URI, digitalSignature, server and client authentication. The control plane's also has the DNS name
/// `control.<trust domain>`.
pub(crate) fn leaf(id: &SpiffeId, not_before: u64, not_after: u64) -> Result<CertificateParams, SignError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new(); // the name is the URI alone, which makes it critical
    let uri = id.as_str().try_into().map_err(|e: rcgen::Error| SignError::Crypto(e.to_string()))?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    if id.path() == CONTROL_PATH {
        // for clients that are not of this mesh's making, whose TLS checks a server's DNS name and nothing else
        let name = format!("control.{}", id.trust_domain());
        params
            .subject_alt_names
            .push(SanType::DnsName(name.try_into().map_err(|e: rcgen::Error| SignError::Crypto(e.to_string()))?));
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    end_entity(params, not_before, not_after)
}

/// A leaf for DNS names alone: no SPIFFE ID, so that the mesh takes it for nobody.
pub(crate) fn server(names: &[String], not_before: u64, not_after: u64) -> Result<CertificateParams, SignError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for name in names {
        let name = name.as_str().try_into().map_err(|e: rcgen::Error| SignError::Crypto(e.to_string()))?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    end_entity(params, not_before, not_after)
}

fn end_entity(mut params: CertificateParams, not_before: u64, not_after: u64) -> Result<CertificateParams, SignError> {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial().map_err(SignError::Crypto)?);
    params.not_before = calendar(not_before).map_err(SignError::Crypto)?;
    params.not_after = calendar(not_after).map_err(SignError::Crypto)?;
    Ok(params)
}

fn calendar(seconds: u64) -> Result<OffsetDateTime, String> {
    i64::try_from(seconds)
        .ok()
        .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok())
        .ok_or_else(|| format!("{seconds} s after 1970 is not a date: is the clock wrong?"))
}

/// 127 random bits, positive and never zero. rcgen would derive it from the key, so that two leaves of one key would
/// share it.
fn serial() -> Result<SerialNumber, String> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "no random numbers".to_owned())?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
