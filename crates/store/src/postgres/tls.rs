//! The encryption of connections to the database, by the parameters of libpq's URLs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::{Result, StoreError};

/// The parameters that say how a connection is encrypted, each as libpq means it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    /// The value of `sslmode`.
    mode: Mode,
    /// The value of `sslrootcert`.
    root: Option<Root>,
    /// The value of `sslcert`.
    certificate: Option<PathBuf>,
    /// The value of `sslkey`.
    key: Option<PathBuf>,
}

/// The degree to which a connection is protected.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, strum::Display, strum::EnumString,
)]
#[strum(serialize_all = "kebab-case")]
enum Mode {
    Disable,
    /// Encrypts if the server can, and verifies nothing.
    #[default]
    Prefer,
    /// Encrypts, and verifies the certificate's chain only if a root is given.
    Require,
    /// Encrypts, and verifies the certificate's chain.
    VerifyCa,
    /// Encrypts, and verifies the certificate's chain and name.
    VerifyFull,
}

/// The certificates that the server's chain must end in.
#[derive(Debug, PartialEq, Eq)]
enum Root {
    /// The certificates that the system trusts.
    System,
    File(PathBuf),
}

impl Parameters {
    /// Takes a parameter of the URL; returns false if it is none of encryption.
    ///
    /// # Errors
    /// [`StoreError::InvalidUrl`] names a parameter whose value is wrong.
    pub(super) fn take(&mut self, name: &str, value: &str) -> Result<bool> {
        match name {
            "sslmode" => {
                self.mode = value.parse().map_err(|_| {
                    invalid(
                        "sslmode must be disable, prefer, require, verify-ca or verify-full; \
                         allow is not supported",
                    )
                })?;
            }
            "sslrootcert" if value == "system" => self.root = Some(Root::System),
            "sslrootcert" => self.root = Some(Root::File(value.into())),
            "sslcert" => self.certificate = Some(value.into()),
            "sslkey" => self.key = Some(value.into()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Returns whether the driver negotiates encryption.
    pub(super) fn driver_mode(&self) -> SslMode {
        match self.mode {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        }
    }

    /// Returns the variables that say the same to PostgreSQL's own tools.
    pub(super) fn tool_environment(&self) -> Vec<(&'static str, String)> {
        let file = |path: &PathBuf| path.display().to_string();
        let mut variables = vec![("PGSSLMODE", self.mode.to_string())];
        variables.extend(self.root.as_ref().map(|root| match root {
            Root::System => ("PGSSLROOTCERT", "system".to_owned()),
            Root::File(path) => ("PGSSLROOTCERT", file(path)),
        }));
        variables.extend(self.certificate.as_ref().map(|path| ("PGSSLCERT", file(path))));
        variables.extend(self.key.as_ref().map(|path| ("PGSSLKEY", file(path))));
        variables
    }

    /// Reads the certificates and builds the connector.
    ///
    /// # Errors
    /// [`StoreError::InvalidUrl`] names a parameter whose file cannot be used.
    pub(super) fn connector(self) -> Result<MakeRustlsConnect> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let required = self.required(&provider)?;
        let verifier = Arc::new(Verifier { provider: Arc::clone(&provider), required });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match (&self.certificate, &self.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                let chain = certificates("sslcert", certificate)?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| unusable("sslkey", key, &error))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| invalid(format!("sslcert and sslkey: {error}")))?
            }
            _ => return Err(invalid("sslcert and sslkey belong together: one is missing")),
        };
        Ok(MakeRustlsConnect::new(config))
    }

    fn required(&self, provider: &Arc<CryptoProvider>) -> Result<Option<Required>> {
        // A root makes `require` verify, for which old settings rely on it.
        let verifies = self.mode >= Mode::VerifyCa
            || (self.mode == Mode::Require && matches!(self.root, Some(Root::File(_))));
        if !verifies {
            if self.root == Some(Root::System) && self.mode != Mode::Disable {
                return Err(invalid("sslrootcert=system needs sslmode=verify-full"));
            }
            return Ok(None);
        }
        let trusted = match &self.root {
            Some(Root::System) if self.mode < Mode::VerifyFull => {
                return Err(invalid("sslrootcert=system needs sslmode=verify-full"));
            }
            Some(Root::System) => rustls_native_certs::load_native_certs().certs,
            Some(Root::File(file)) => certificates("sslrootcert", file)?,
            None => certificates("sslrootcert", &default_root()?)?,
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted.iter().cloned());
        let chain =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                .build()
                .map_err(|error| invalid(format!("sslrootcert: {error}")))?;
        Ok(Some(Required { chain, trusted, name: self.mode == Mode::VerifyFull }))
    }
}

/// Returns the file that libpq reads without `sslrootcert`.
fn default_root() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    home.map(|home| Path::new(&home).join(".postgresql/root.crt"))
        .filter(|file| file.exists())
        .ok_or_else(|| {
            invalid(
                "sslmode=verify-ca and verify-full need sslrootcert: a file of certificates, or \
                 system",
            )
        })
}

fn certificates(parameter: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| unusable(parameter, file, &error))?;
    if all.is_empty() {
        return Err(invalid(format!("{parameter}: {} has no certificate", file.display())));
    }
    Ok(all)
}

fn unusable(parameter: &str, file: &Path, error: &rustls::pki_types::pem::Error) -> StoreError {
    invalid(format!("{parameter}: cannot read {}: {error}", file.display()))
}

fn invalid(text: impl Into<String>) -> StoreError {
    StoreError::InvalidUrl(text.into())
}

/// Verifies certificates as far as the parameters say; the signatures of a handshake always.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// Without it every certificate is accepted: the connection is encrypted, and its other end is
    /// not known.
    required: Option<Required>,
}

/// A chain that ends in a trusted certificate, and with `name`, the host's name.
#[derive(Debug)]
struct Required {
    chain: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
    name: bool,
}

impl Required {
    /// Returns whether the chain's only fault is that a trusted certificate of an authority is the
    /// server's own, as a self-signed one is. Its dates were checked before.
    fn is_self_signed(&self, certificate: &CertificateDer<'_>, error: &rustls::Error) -> bool {
        let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) = error
        else {
            return false;
        };
        let is_authority =
            matches!(cause.downcast_ref::<webpki::Error>(), Some(webpki::Error::CaUsedAsEndEntity));
        is_authority && self.trusted.iter().any(|trusted| trusted == certificate)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(required) = &self.required else { return Ok(ServerCertVerified::assertion()) };
        let verified =
            required.chain.verify_server_cert(certificate, intermediates, name, ocsp, now);
        match verified {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !required.name => Ok(ServerCertVerified::assertion()),
            Err(error) if required.is_self_signed(certificate, &error) => {
                if required.name {
                    let parsed = ParsedCertificate::try_from(certificate)?;
                    rustls::client::verify_server_name(&parsed, name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
