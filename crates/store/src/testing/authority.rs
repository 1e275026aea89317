//! Certificates for tests, made by OpenSSL.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::succeeded;

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The file of the certificate.
    pub certificate: PathBuf,
    /// The file of the key.
    pub key: PathBuf,
}

/// An authority that signs certificates, in a directory of its own, which goes with it.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
}

impl Authority {
    /// Makes a new authority.
    ///
    /// # Errors
    /// If OpenSSL is missing or fails.
    pub fn new() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vfs-sync-authority-{}-{next}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory)?;
        let authority = Self { directory };
        authority.self_signed("ca", "DNS:ca.example")?;
        Ok(authority)
    }

    /// Returns the file of the authority's own certificate.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// Makes a certificate `name` that is its own authority, of `subject` (`DNS:host`, `IP:address`).
    ///
    /// # Errors
    /// If OpenSSL fails.
    pub fn self_signed(&self, name: &str, subject: &str) -> io::Result<Pair> {
        self.request(name, subject, &["-x509", "-days", "2"], &format!("{name}.crt"))?;
        Ok(self.pair(name))
    }

    /// Makes a certificate `name` of `subject` (`DNS:host`, `IP:address`) that the authority signed.
    ///
    /// # Errors
    /// If OpenSSL fails.
    pub fn signed(&self, name: &str, subject: &str) -> io::Result<Pair> {
        let (request, certificate) = (format!("{name}.csr"), format!("{name}.crt"));
        self.request(name, subject, &[], &request)?;
        self.openssl(
            Command::new("openssl")
                .args(["x509", "-req", "-in", &request, "-CA", "ca.crt", "-CAkey", "ca.key"])
                .args(["-copy_extensions", "copy", "-days", "2", "-out", &certificate]),
        )?;
        Ok(self.pair(name))
    }

    fn request(&self, name: &str, subject: &str, kind: &[&str], out: &str) -> io::Result<()> {
        let (key, names) = (format!("{name}.key"), format!("subjectAltName={subject}"));
        self.openssl(
            Command::new("openssl")
                .args(["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
                .args(["-subj", &format!("/CN={name}"), "-addext", &names, "-keyout", &key])
                .args(kind)
                .args(["-out", out]),
        )
    }

    fn openssl(&self, command: &mut Command) -> io::Result<()> {
        succeeded(&command.current_dir(&self.directory).output()?)
    }

    fn pair(&self, name: &str) -> Pair {
        let file = |end: &str| Path::new(&self.directory).join(format!("{name}.{end}"));
        Pair { certificate: file("crt"), key: file("key") }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
