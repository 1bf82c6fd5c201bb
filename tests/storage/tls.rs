//! Over TLS, with a certificate authority of the operator's own among those of the host.

use crate::desk::{Desk, Line, settings};
use crate::redis::{Redis, free_port};
use arqonbus::storage::LoadError;
use std::process::Command;

/// Where the inner test finds the server.
const URL: &str = "ARQONBUS_TEST_TLS_URL";

#[test]
fn a_server_is_believed_whose_certificate_the_host_trusts() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let openssl = |words: &str| {
        let mut command = Command::new("openssl");
        let made = command.args(words.split(' ')).current_dir(folder.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    let new_key = "-newkey rsa:2048 -nodes";
    openssl(&format!("req -x509 {new_key} -days 2 -subj /CN=test -keyout ca.key -out ca"));
    openssl(&format!("req -new {new_key} -subj /CN=localhost -keyout key -out request"));
    let extensions = "basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost\n";
    std::fs::write(folder.path().join("extensions"), extensions).unwrap();
    openssl(
        "x509 -req -in request -CA ca -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out cert",
    );
    let port = free_port().to_string();
    let (cert, key) = (file("cert"), file("key"));
    let tls = ["--tls-port", &port, "--tls-cert-file", &cert, "--tls-key-file", &key];
    let redis = Redis::with(&[&["--save", "", "--tls-auth-clients", "no"], &tls[..]].concat());
    let url = format!("rediss://localhost:{port}");

    // Nobody on this host trusts it yet.
    let desk = Desk::open(settings(&url));
    assert!(matches!(desk.load(), Err(LoadError::Unreachable(_))));
    desk.abandon();
    // What is trusted is read from the environment, and so by a process of its own.
    let inner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tls::inner", "--ignored", "--nocapture"])
        .env("SSL_CERT_FILE", file("ca"))
        .env(URL, &url)
        .output()
        .unwrap();
    assert!(inner.status.success(), "{}", String::from_utf8_lossy(&inner.stderr));
    assert_eq!(redis.cli(&["XLEN", &Line::new(1, "r", "c").stream()]), "10");
}

#[test]
#[ignore = "the test above runs it"]
fn inner() {
    let Ok(url) = std::env::var(URL) else { return };
    let (desk, _) = Desk::at(&url);
    let mut line = Line::new(1, "r", "c");
    desk.create(&line);
    desk.say(&mut line, 10);
    desk.wait_stored(&line);
    desk.stop();
}
