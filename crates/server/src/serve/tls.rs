//! Encryption of the server's connections, by a certificate that is read again when it changes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// The interval at which the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The greatest size of each file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A certificate and its key, in two PEM files. While the server runs, it reads the files again when
/// they change; a pair that cannot be used is logged, and the one before stays in use.
#[derive(Debug, Clone)]
pub struct Certificate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    certificate: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    used: RwLock<Arc<CertifiedKey>>,
    /// The state of the files when they were last read.
    read: Mutex<Option<[State; 2]>>,
}

/// The signs by which a file that changed is recognised.
type State = (Option<SystemTime>, u64);

/// The reason why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read, or is not PEM.
    #[error("cannot read {}: {reason}", path.display())]
    Unreadable {
        /// The file that cannot be used.
        path: PathBuf,
        /// The reason, as text.
        reason: String,
    },
    /// The key is not the certificate's, or is of a kind that is not supported.
    #[error("{} and {} cannot be used together: {reason}", certificate.display(), key.display())]
    Unusable {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// The reason, as text.
        reason: String,
    },
}

impl Certificate {
    /// Reads a certificate, with the chain that leads to it, and its private key from PEM files of at
    /// most 1 MiB each.
    ///
    /// # Errors
    /// [`CertificateError`] names the file.
    pub fn load(certificate: PathBuf, key: PathBuf) -> Result<Self, CertificateError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let read = Some([state(&certificate), state(&key)]);
        let used = read_pair(&certificate, &key, &provider)?;
        let (used, read) = (RwLock::new(Arc::new(used)), Mutex::new(read));
        Ok(Self(Arc::new(Inner { certificate, key, provider, used, read })))
    }

    /// Returns the acceptor of connections, which always uses the pair that was read last.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, rustls::Error> {
        let provider = Arc::clone(&self.0.provider);
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.0) as _);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Reads the files again whenever they changed, until `stop`.
    pub(crate) async fn keep_up(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let inner = Arc::clone(&self.0);
            // Reading may block, as on a network's disk.
            let looked = tokio::task::spawn_blocking(move || inner.look());
            if let Err(error) = looked.await {
                tracing::error!(%error, "the certificate's files could not be looked at");
            }
        }
    }
}

impl Inner {
    /// Reads the files if they changed since they were last read.
    fn look(&self) {
        let states = Some([state(&self.certificate), state(&self.key)]);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if *read == states {
            return;
        }
        *read = states;
        drop(read);
        match read_pair(&self.certificate, &self.key, &self.provider) {
            Ok(pair) => {
                *self.used.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
                tracing::info!(file = %self.certificate.display(), "the certificate was replaced");
            }
            Err(error) => {
                tracing::warn!(%error, "the certificate stays as it is: the new one cannot be used");
            }
        }
    }
}

impl ResolvesServerCert for Inner {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.used.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Returns the signs of a file; those of a missing one differ from every other's.
fn state(path: &Path) -> State {
    match std::fs::metadata(path) {
        Ok(metadata) => (metadata.modified().ok(), metadata.len()),
        Err(_) => (None, u64::MAX),
    }
}

fn read_pair(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, CertificateError> {
    let unreadable = |path: &Path, reason: String| CertificateError::Unreadable {
        path: path.to_owned(),
        reason,
    };
    let no_pem = |path: &Path, error: pem::Error| {
        let reason = match error {
            pem::Error::NoItemsFound => "it has no such item in PEM".to_owned(),
            error => error.to_string(),
        };
        unreadable(path, reason)
    };
    let text = |path: &Path| read(path).map_err(|error| unreadable(path, error.to_string()));
    let chain = CertificateDer::pem_slice_iter(&text(certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| no_pem(certificate, error))?;
    if chain.is_empty() {
        return Err(unreadable(certificate, "it has no certificate in PEM".into()));
    }
    let private = PrivateKeyDer::from_pem_slice(&text(key)?).map_err(|error| no_pem(key, error))?;
    CertifiedKey::from_der(chain, private, provider).map_err(|error| CertificateError::Unusable {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        reason: error.to_string(),
    })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(bytes)
}
