//! Certificates for one run: an authority of a day, and a leaf for each end.
//!
//! The mesh's leaves carry a SPIFFE ID, the bare loop's a DNS name, because each verifies just that. P-256 for both.

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) const TRUST_DOMAIN: &str = "fusewire.local";

/// The files of one end.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) bundle: PathBuf,
}

pub(crate) struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new()).context("cannot describe an authority")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&format!("spiffe://{TRUST_DOMAIN}"))?];
        for_a_day(&mut params);
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.self_signed(&key).context("cannot sign an authority")?;
        let dir = dir.join("identity");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        write(&dir.join("bundle.pem"), &certificate.pem())?;
        Ok(Authority { dir, issuer: Issuer::new(params, key) })
    }

    /// A leaf for a workload of the mesh.
    pub(crate) fn workload(&self, name: &str) -> Result<Identity> {
        self.leaf(&format!("workload-{name}"), uri(&format!("spiffe://{TRUST_DOMAIN}/{name}"))?)
    }

    /// A leaf for an end of the bare loop.
    pub(crate) fn host(&self, name: &str) -> Result<Identity> {
        let san = name.try_into().with_context(|| format!("{name} is no DNS name"))?;
        self.leaf(&format!("host-{name}"), SanType::DnsName(san))
    }

    fn leaf(&self, file: &str, san: SanType) -> Result<Identity> {
        let mut params = CertificateParams::new(Vec::new()).context("cannot describe a leaf")?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![san];
        params.use_authority_key_identifier_extension = true;
        for_a_day(&mut params);
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("cannot sign a leaf")?;
        let path = |end: &str| self.dir.join(format!("{file}{end}"));
        write(&path(".pem"), &certificate.pem())?;
        write(&path(".key"), &key.serialize_pem())?;
        Ok(Identity { certificate: path(".pem"), key: path(".key"), bundle: self.dir.join("bundle.pem") })
    }
}

fn uri(text: &str) -> Result<SanType> {
    Ok(SanType::URI(text.try_into().with_context(|| format!("{text} is no URI"))?))
}

fn for_a_day(params: &mut CertificateParams) {
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::minutes(5);
    params.not_after = now + time::Duration::days(1);
}

/// Readable by us alone, before there is anything to read.
fn write(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
