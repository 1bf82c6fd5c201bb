//! The control plane as its clients see it: real sockets on free ports. Here is the node that the
//! tests talk to, and how they talk; the tests themselves are in a file for each port.

mod http;
mod telemetry;

use super::*;
use crate::broker::telemetry::{Event, Place, Telemetry};
use crate::protocol::names::Name;
use crate::shard::meters::Tally;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Instant;
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

const PATIENCE: Duration = Duration::from_secs(10);
const FAST: Bounds = Bounds {
    head: Duration::from_millis(300),
    connection: Duration::from_secs(2),
    send: Duration::from_millis(300),
    linger: Duration::from_millis(500),
    sample: Duration::from_millis(20),
    http_sockets: 4_096,
    telemetry_sockets: 100,
    readers: 50,
};

/// A control plane with two shards that exist as meters only.
struct Node {
    http: SocketAddr,
    telemetry: SocketAddr,
    meters: Vec<Arc<Meters>>,
    storage: Arc<crate::storage::Meters>,
    log: Arc<LogCounts>,
    facts: Arc<Facts>,
    events: intake::Intake,
    published: Arc<Mutex<Vec<Publication>>>,
    thread: ControlThread,
}

impl Node {
    fn start() -> Node {
        Node::with(Bounds::default(), Limits::default(), 0)
    }

    fn with(bounds: Bounds, limits: Limits, stats_interval_ms: u32) -> Node {
        allow_many_sockets();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (http, telemetry) = (free(), free());
        let addresses = (http.local_addr().unwrap(), telemetry.local_addr().unwrap());
        let zero = Instant::now();
        let clock = move || Now {
            mono_ns: 7_000_000_000 + zero.elapsed().as_nanos() as u64,
            wall_us: 1_764_000_000_000_000 + zero.elapsed().as_micros() as u64,
        };
        let about = About {
            server: "arqonbus",
            version: "9.8.7",
            node: "node \"one\"".to_owned(),
            started: clock(),
            storage: "redis",
            bus: "127.0.0.1:9100".parse().unwrap(),
            telemetry: Some(addresses.1),
            http: addresses.0,
        };
        let facts = Arc::new(Facts::new(about, limits));
        facts.set_phase(Phase::Ready);
        let meters: Vec<Arc<Meters>> = (0..2).map(|_| Arc::default()).collect();
        let storage = Arc::new(crate::storage::Meters::default());
        let log = Arc::<LogCounts>::default();
        let (events, receiver) = intake::queue();
        let published = Arc::new(Mutex::new(Vec::new()));
        let control = Control {
            http,
            telemetry: Some(telemetry),
            accepts: Arc::default(),
            log: log.clone(),
            meters: meters.clone(),
            storage: Some(storage.clone()),
            events: receiver,
            publish: {
                let published = Arc::clone(&published);
                let tried = AtomicU64::new(0);
                Box::new(move |publication| {
                    published.lock().unwrap().push(publication);
                    !is_full(tried.fetch_add(1, Relaxed) + 1)
                })
            },
            origins: PortOrigins { telemetry: Box::new(good_origin), http: Box::new(good_origin) },
            clock: Box::new(clock),
            facts: Arc::clone(&facts),
            stats_interval_ms,
        };
        let thread = spawn_at(control, bounds).unwrap();
        let (http, telemetry) = addresses;
        Node { http, telemetry, meters, storage, log, facts, events, published, thread }
    }

    fn tally(&self, shard: usize, count: impl FnOnce(&mut Tally)) {
        let mut tally = Tally::default();
        count(&mut tally);
        self.meters[shard].publish(&tally);
    }

    fn tell(&self, event: Event) {
        assert!(self.events.offer(Telemetry { at_us: 1_764_000_000_000_000, event }));
    }

    fn read_telemetry(&self) -> Reader {
        connect(self.telemetry, &[]).unwrap()
    }

    /// One value of `/metrics`.
    fn metric(&self, name_and_labels: &str) -> f64 {
        let text = get(self.http, "/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name_and_labels));
        line.unwrap_or_else(|| panic!("{name_and_labels} is not in\n{text}"))
            .trim()
            .parse()
            .unwrap()
    }

    fn wait_for_metric(&self, name_and_labels: &str, value: f64) {
        let begin = Instant::now();
        while self.metric(name_and_labels) != value {
            assert!(begin.elapsed() < PATIENCE, "{name_and_labels} never became {value}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whether the lane was full at the try of this number: after the first hundred, every tenth is.
fn is_full(tried: u64) -> bool {
    tried > 100 && tried.is_multiple_of(10)
}

/// The one foreign page that is let in.
fn good_origin() -> Origins {
    Origins(vec![crate::protocol::origin::Origin::parse("http://good").unwrap()])
}

/// Both ends of every connection are in this process, which may be allowed few descriptors.
fn allow_many_sockets() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

struct Answer {
    code: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, "GET", path, "")
}

fn request(address: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { code, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

type Reader = WebSocket<TcpStream>;

/// Connects; the error is the code of the HTTP answer.
fn connect(address: SocketAddr, headers: &[(&'static str, &str)]) -> Result<Reader, u16> {
    let mut request = format!("ws://{address}/").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    match tungstenite::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
            Err(answer.status().as_u16())
        }
        Err(error) => panic!("{error}"),
    }
}

/// The next envelope.
fn next(reader: &mut Reader) -> Value {
    loop {
        match reader.read().unwrap() {
            Message::Text(text) => return serde_json::from_str(text.as_str()).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?} is no envelope"),
        }
    }
}

/// Reads on until the server closes, and gives the code.
fn close_code(reader: &mut Reader) -> u16 {
    loop {
        match reader.read() {
            Ok(Message::Close(frame)) => return frame.unwrap().code.into(),
            Ok(_) => {}
            Err(error) => panic!("no close frame but {error}"),
        }
    }
}

fn joined(n: usize) -> Event {
    Event::Joined {
        client_id: Some(name(&format!("client-{n}"))),
        place: Place::Open(address("science", "general")),
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn address(room: &str, channel: &str) -> Address {
    Address { room: name(room), channel: name(channel) }
}

/// A publication as a member of its channel would get it.
fn delivered(publication: Publication) -> Value {
    let frame = publication.draft.stamp(1, 2);
    let wire = frame.wire();
    let json = wire.iter().position(|&byte| byte == b'{').unwrap();
    serde_json::from_slice(&wire[json..]).unwrap()
}
