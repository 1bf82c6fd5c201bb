//! Whether a server from which nothing comes still lives: a handshake on a connection of its own.
//!
//! Any answer will do, also a refusal, an end or a reset: somebody gave it. Only silence, or that no
//! connection can be made, says that nobody is there.

use crate::cli::bench::shared::Shared;
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How often it is looked whether there is an answer.
const LOOK: Duration = Duration::from_millis(20);
/// The longest that is waited, whatever a connection may take otherwise: a server that lives answers
/// sooner, and while the kernel connects, no Ctrl-C is heard.
const PATIENCE_MAX: Duration = Duration::from_secs(3);

/// Asks; says what is wrong if nobody answers.
pub(super) fn lack_of_pulse(
    shared: &Shared,
    console: &mut Console,
) -> Result<Option<String>, Failure> {
    let patience = shared.timeout.min(PATIENCE_MAX);
    let until = Instant::now() + patience;
    let silence = || Some(format!("a new connection got no answer within {patience:?}"));
    let mut socket = match TcpStream::connect_timeout(&shared.site.address, patience) {
        Ok(socket) => socket,
        Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(silence()),
        Err(error) => return Ok(Some(format!("a new connection can't be made: {error}"))),
    };
    let mut answer = ask(&mut socket, shared);
    while answer.as_ref().is_err_and(is_early) {
        if Instant::now() >= until {
            return Ok(silence());
        }
        console.reactor.sleep(Instant::now() + LOOK)?;
        answer = socket.read(&mut [0; 64]).map(drop);
    }
    Ok(None)
}

/// Sends the request, and looks for an answer once.
fn ask(socket: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    let request = shared.site.request(&shared.layout, &shared.naming, 0, false);
    socket.set_nonblocking(true)?;
    // A new connection takes these few bytes at once.
    socket.write_all(&request)?;
    socket.read(&mut [0; 64]).map(drop)
}

/// Whether there is no answer yet.
fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::reactor::Reactor;
    use std::net::{SocketAddr, TcpListener};

    /// What a server with this listener is found to lack, and after how long.
    fn lack(address: SocketAddr, timeout: &str) -> (Option<String>, Duration) {
        let mut shared = Shared::of_words(&format!("idle --connections 1 --timeout {timeout}"));
        shared.site.address = address;
        let (nothing, sink) = (Box::new(io::empty()), || Box::new(io::sink()));
        let mut console = Console::of_ends(nothing, sink(), sink(), Reactor::new().unwrap());
        let began = Instant::now();
        (lack_of_pulse(&shared, &mut console).unwrap(), began.elapsed())
    }

    #[test]
    fn whoever_answers_lives() {
        let says: fn(&mut TcpStream) = |socket| {
            socket.write_all(b"HTTP/1.1 409 Conflict\r\n\r\n").unwrap();
        };
        let ends: fn(&mut TcpStream) = |socket| {
            assert!(socket.read(&mut [0; 4_096]).unwrap() > 0);
        };
        // The kernel resets what is closed with something unread.
        let resets: fn(&mut TcpStream) = |socket| {
            socket.peek(&mut [0; 1]).unwrap();
        };
        for (name, answer) in [("says", says), ("ends", ends), ("resets", resets)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || answer(&mut listener.accept().unwrap().0));
            assert_eq!(lack(address, "10").0, None, "{name}");
            server.join().unwrap();
        }
    }

    #[test]
    fn who_is_silent_or_gone_does_not() {
        // The kernel accepts for a server that hangs.
        let hung = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = hung.local_addr().unwrap();
        let told = lack(address, "0.3").0.unwrap();
        assert_eq!(told, "a new connection got no answer within 300ms");
        drop(hung);
        let told = lack(address, "10").0.unwrap();
        assert!(told.starts_with("a new connection can't be made: "), "{told}");
    }

    #[test]
    fn a_long_timeout_makes_no_long_wait() {
        let full = TcpListener::bind("127.0.0.1:0").unwrap();
        // Of a queue of none the kernel makes a queue of one.
        rustix::net::listen(&full, 0).unwrap();
        let address = full.local_addr().unwrap();
        let _first = TcpStream::connect(address).unwrap();
        let (told, took) = lack(address, "86400");
        assert_eq!(told.unwrap(), "a new connection got no answer within 3s");
        assert!(took < PATIENCE_MAX * 3, "{took:?}");
    }
}
