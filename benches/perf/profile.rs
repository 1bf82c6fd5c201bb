//! Shows where an input's instructions go, as a tree of the source's functions.
//!
//! callgrind knows only the functions that are left after inlining, of which a release build has
//! few. So it is asked for the cost of every address, and addr2line for the functions that were
//! inlined there; the two together give each function of this project a line of its own. What the
//! standard library does is shown where it is called, with a dot before it.
//!
//! A function that is called from several places is shown in each with its share of the cost.

use crate::inputs::Input;
use crate::instructions::{self, Detail};
use std::collections::{BTreeMap, HashMap};
use std::env;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// The function whose inside is shown.
const ROOT: &str = "::Bus::turn";
/// What is less than this share of the whole is left out.
const SHARE_MIN: f64 = 0.006;
const DEPTH_MAX: usize = 14;
/// How many lines the list of functions by themselves has.
const LIST_LINES: usize = 40;

/// Shows where the instructions of an input go.
pub(crate) fn show(input: &Input) {
    let out = instructions::run(input, Detail::Addresses);
    let program = env::current_exe().expect("this program is somewhere");
    let calls = Calls::read(&out, &program.to_string_lossy());
    let mut root = Node::default();
    let of_root = (0..calls.functions.len()).find(|&id| calls.functions[id].name.contains(ROOT));
    calls.graft(&mut root, of_root.expect("a turn was counted"), 1.0, &mut Vec::new());
    root.cost = root.kids.values().map(|kid| kid.cost).sum::<f64>() + root.own;
    let scale = Scale { messages: input.counted as f64, deliveries: input.deliveries() };
    println!("{}: {}\n\n a message  a delivery", input.name, input.about);
    root.print("turn", 0, root.cost * SHARE_MIN, &scale);
    println!("\n a message  a delivery  by itself");
    let mut own = BTreeMap::new();
    root.list("turn", &mut own);
    let mut own: Vec<(f64, String)> = own.into_iter().map(|(name, cost)| (cost, name)).collect();
    own.sort_by(|a, b| b.0.total_cmp(&a.0));
    own.iter().take(LIST_LINES).for_each(|(cost, name)| scale.print(*cost, 0, name));
}

/// What callgrind saw: who spent what where, and who called whom.
#[derive(Default)]
struct Calls {
    functions: Vec<Function>,
    /// The inlined functions at each address of this program, the outermost first.
    inlined: HashMap<u64, Vec<String>>,
}

#[derive(Default)]
struct Function {
    name: String,
    /// Whether it is a function of this program, not of a library.
    is_own: bool,
    by_address: HashMap<u64, u64>,
    /// By the address of the call and who is called.
    calls: HashMap<(u64, usize), u64>,
}

impl Calls {
    fn read(out: &Path, program: &str) -> Calls {
        let text = fs::read_to_string(out).expect("callgrind has written its file");
        let (mut calls, mut ids) = (Calls::default(), HashMap::new());
        let mut id = |calls: &mut Calls, object: &str, name: &str| {
            *ids.entry((object.to_owned(), name.to_owned())).or_insert_with(|| {
                let is_own = object == program;
                calls.functions.push(Function {
                    name: name.to_owned(),
                    is_own,
                    ..Function::default()
                });
                calls.functions.len() - 1
            })
        };
        let (mut object, mut of_callee) = (program.to_owned(), None);
        let (mut function, mut callee, mut is_call) = (0, 0, false);
        for line in text.lines() {
            match line.split_once('=') {
                Some(("ob", name)) => object = name.to_owned(),
                Some(("fn", name)) => function = id(&mut calls, &object, name),
                Some(("cob", name)) => of_callee = Some(name.to_owned()),
                Some(("cfn", name)) => {
                    callee = id(&mut calls, &of_callee.take().unwrap_or(object.clone()), name);
                }
                Some(("calls", _)) => is_call = true,
                _ => {
                    let Some((address, cost)) = cost_line(line) else { continue };
                    let known = &mut calls.functions[function];
                    match std::mem::take(&mut is_call) {
                        true => *known.calls.entry((address, callee)).or_default() += cost,
                        false => *known.by_address.entry(address).or_default() += cost,
                    }
                }
            }
        }
        calls.inlined = inlined_at(program, calls.addresses());
        calls
    }

    /// Every address of this program that costs something.
    fn addresses(&self) -> Vec<u64> {
        let own = || self.functions.iter().filter(|function| function.is_own);
        let spent = own().flat_map(|function| function.by_address.keys().copied());
        let called = own().flat_map(|function| function.calls.keys().map(|(at, _)| *at));
        spent.chain(called).collect()
    }

    /// What a function costs with all that it calls.
    fn whole(&self, id: usize) -> u64 {
        let function = &self.functions[id];
        let others = function.calls.iter().filter(|((_, callee), _)| *callee != id);
        function.by_address.values().sum::<u64>() + others.map(|(_, cost)| cost).sum::<u64>()
    }

    /// Adds a share of what a function does to its place in the tree.
    fn graft(&self, place: &mut Node, id: usize, share: f64, above: &mut Vec<usize>) {
        above.push(id);
        let function = &self.functions[id];
        for (address, cost) in &function.by_address {
            let cost = *cost as f64 * share;
            place.descend(self.inlined.get(address), cost).own += cost;
        }
        for (&(address, callee), cost) in &function.calls {
            let called = &self.functions[callee];
            let cost = *cost as f64 * share;
            if callee == id {
                continue;
            }
            let kid = place.descend(self.inlined.get(&address), cost);
            let kid = kid.descend(Some(&vec![called.title()]), cost);
            let whole = self.whole(callee);
            if called.is_transparent() && whole > 0 && !above.contains(&callee) {
                self.graft(kid, callee, cost / whole as f64, above);
            } else {
                kid.own += cost;
            }
        }
        above.pop();
    }
}

impl Function {
    fn title(&self) -> String {
        match self.name.contains("mi_") || self.name.contains("mimalloc") {
            true => "the allocator".to_owned(),
            false if self.is_own => short(&self.name),
            false => format!("libc {}", self.name),
        }
    }

    /// Whether what it calls is worth a look.
    fn is_transparent(&self) -> bool {
        self.is_own && self.title() != "the allocator"
    }
}

/// A function, where it is called.
#[derive(Default)]
struct Node {
    cost: f64,
    own: f64,
    kids: BTreeMap<String, Node>,
}

impl Node {
    /// The place that a path from here leads to; the cost counts for all on the way.
    fn descend(&mut self, path: Option<&Vec<String>>, cost: f64) -> &mut Node {
        let mut node = self;
        for name in path.into_iter().flatten() {
            node = node.kids.entry(name.clone()).or_default();
            node.cost += cost;
        }
        node
    }

    fn print(&self, name: &str, depth: usize, cost_min: f64, scale: &Scale) {
        scale.print(self.cost, depth, name);
        let mut kids: Vec<_> = self.kids.iter().filter(|(_, kid)| kid.cost >= cost_min).collect();
        kids.sort_by(|a, b| b.1.cost.total_cmp(&a.1.cost));
        if depth < DEPTH_MAX {
            kids.iter().for_each(|(name, kid)| kid.print(name, depth + 1, cost_min, scale));
        }
    }

    /// What each function costs by itself, wherever it is called; the standard library's counts for
    /// whoever calls it.
    fn list(&self, name: &str, own: &mut BTreeMap<String, f64>) {
        *own.entry(name.to_owned()).or_default() += self.own;
        for (kid, node) in &self.kids {
            node.list(if kid.starts_with('.') { name } else { kid }, own);
        }
    }
}

struct Scale {
    messages: f64,
    deliveries: usize,
}

impl Scale {
    fn print(&self, cost: f64, depth: usize, name: &str) {
        let per_message = cost / self.messages;
        let indent = "  ".repeat(depth);
        match self.deliveries {
            0 => println!("{per_message:10.0} {:>10} {indent}{name}", "-"),
            count => {
                println!("{per_message:10.0} {:10.1} {indent}{name}", per_message / count as f64)
            }
        }
    }
}

/// A line that says what an address costs.
fn cost_line(line: &str) -> Option<(u64, u64)> {
    let mut words = line.strip_prefix("0x")?.split(' ');
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    Some((address, words.next_back()?.parse().ok()?))
}

/// Asks addr2line which functions were inlined at these addresses.
fn inlined_at(program: &str, addresses: Vec<u64>) -> HashMap<u64, Vec<String>> {
    let mut process = Command::new("addr2line")
        .args(["--addresses", "--inlines", "--functions", "--demangle", "--exe", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("addr2line is installed, with binutils");
    let mut questions = process.stdin.take().expect("a pipe");
    let writer = std::thread::spawn(move || {
        for address in addresses {
            writeln!(questions, "{address:#x}").expect("addr2line reads");
        }
    });
    let output = process.wait_with_output().expect("addr2line ends");
    writer.join().expect("addr2line was asked");
    let mut frames: HashMap<u64, Vec<(String, bool)>> = HashMap::new();
    let (mut address, mut name) = (0, None);
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        match (line.strip_prefix("0x"), name.take()) {
            (Some(digits), None) => {
                address = u64::from_str_radix(digits, 16).expect("an address");
                frames.insert(address, Vec::new());
            }
            (_, None) => name = Some(line.to_owned()),
            (_, Some(name)) => {
                let is_ours = !line.contains("/rustc/") && !line.contains("/registry/");
                frames.entry(address).or_default().push((name, is_ours));
            }
        }
    }
    frames.into_iter().map(|(address, frames)| (address, path_of(frames))).collect()
}

/// The way to the innermost function, without the outermost, which was not inlined: those of this
/// project, and the first that is not.
fn path_of(mut frames: Vec<(String, bool)>) -> Vec<String> {
    frames.pop();
    let mut path = Vec::new();
    for (name, is_ours) in frames.into_iter().rev() {
        if !is_ours {
            path.push(format!(". {}", short(&name)));
            break;
        }
        path.push(short(&name));
    }
    path
}

/// The last two parts of a function's path, without type parameters and hashes.
fn short(name: &str) -> String {
    let mut plain = String::new();
    let mut depth = 0;
    let name = name.replace("<impl ", "").replace(">::", "::");
    for char in name.chars() {
        match char {
            '<' => depth += 1,
            '>' => depth -= 1,
            char if depth <= 0 => plain.push(char),
            _ => {}
        }
    }
    let is_hash = |part: &str| part.len() == 17 && part.starts_with('h');
    let parts: Vec<&str> = plain.split("::").filter(|part| !is_hash(part)).collect();
    let last = parts.len().saturating_sub(2);
    parts[last..].join("::").trim_end_matches("'2").to_owned()
}
