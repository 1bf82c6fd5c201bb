//! Whether a server from which nothing more comes still lives: a handshake on a connection of its
//! own. Any answer will do, a refusal, too.

use crate::cli::bench::shared::Shared;
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How often it is looked whether there is an answer.
const LOOK: Duration = Duration::from_millis(20);

/// Asks, and waits as long as a connection may take.
pub(super) fn has_pulse(shared: &Shared, console: &mut Console) -> Result<bool, Failure> {
    let until = Instant::now() + shared.timeout;
    let Some(mut socket) = ask(shared) else {
        return Ok(false);
    };
    while Instant::now() < until {
        match socket.read(&mut [0; 64]) {
            Ok(_) => return Ok(true),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                console.reactor.sleep(Instant::now() + LOOK)?;
            }
            Err(_) => return Ok(false),
        }
    }
    Ok(false)
}

fn ask(shared: &Shared) -> Option<TcpStream> {
    let mut socket = TcpStream::connect_timeout(&shared.site.address, shared.timeout).ok()?;
    let request = shared.site.request(&shared.layout, &shared.naming, 0, false);
    socket.write_all(&request).ok()?;
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::reactor::Reactor;
    use std::net::TcpListener;

    #[test]
    fn whoever_answers_lives() {
        for (answer, lives) in [("HTTP/1.1 409 Conflict\r\n\r\n", true), ("", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut shared = Shared::of_words("fanout --members 3 --publishers 1 --timeout 0.3");
            shared.site.address = listener.local_addr().unwrap();
            // The kernel accepts for a server that hangs.
            let server = std::thread::spawn(move || {
                let mut socket = listener.accept().unwrap().0;
                socket.write_all(answer.as_bytes()).unwrap();
                let _ = socket.read_to_end(&mut Vec::new());
            });
            let (nothing, sink) = (Box::new(std::io::empty()), || Box::new(std::io::sink()));
            let mut console = Console::of_ends(nothing, sink(), sink(), Reactor::new().unwrap());
            assert_eq!(has_pulse(&shared, &mut console), Ok(lives), "{answer:?}");
            server.join().unwrap();
        }
    }
}
